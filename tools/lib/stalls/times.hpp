// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Names and sums of the states that a thread's time is split by, the list of who ran while it waited, and the
// sentence that a stall is told in. Works on records; knows no probes. Any thread.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trace/thread_records.hpp"

namespace vmwhy::stalls {

/// Indexes of trace::ThreadTimes' members. The numbers are those of enum stalls_state.
enum class State : std::uint32_t {
  unknown = 0,
  running,
  guest,
  kvm,
  qemu,
  halted,
  halt_poll,
  waiting,
  throttled,
  idle,
  lock,
  blocked,
  disk,
  reclaim,
  stopped,
  frozen,
};
inline constexpr std::size_t kStates = 16;

using Times = std::array<std::uint64_t, kStates>;

/// "guest", "halt_poll": keys of JSON. "" for a number that is no state.
std::string_view name_of(State state);
/// "waited for a CPU", "was in D": what a thread did in it, to follow its name. Of a vCPU, halted and idle
/// read differently.
std::string_view verb_of(State state);

Times to_array(const trace::ThreadTimes& times);
trace::ThreadTimes from_array(const Times& times);
std::uint64_t sum(const Times& times);
/// The state that took the most; unknown where nothing took any.
State greatest(const Times& times);

/// A thread that ran while another waited.
struct Culprit {
  std::uint64_t ns = 0;
  std::uint32_t tid = 0;  ///< 0: the CPU was idle.
  std::uint32_t pid = 0;
  std::string comm;
};

/// The text of a record, and back. Any text is safe; what is no culprit is left out.
std::string join(const std::vector<Culprit>& culprits);
std::vector<Culprit> parse_culprits(std::string_view text);
/// "stress-ng [4711]"; "the CPU was idle".
std::string describe(const Culprit& culprit);

/// A frame of a stack in user space.
struct UserFrame {
  std::string name;      ///< "bdrv_co_flush+0x1c"; "qemu-system-x86_64+0x5d5f70" where no symbol covers it.
  std::string build_id;  ///< Of the file that it is in, in hexadecimal digits; "" without one.
  std::uint64_t address = 0;  ///< In that file.

  /// Without the offset; the whole name where no symbol covered it: then the address is all there is.
  std::string_view function() const;
};

/// A thread_stall record, taken apart.
struct Stall {
  std::uint64_t end_ns = 0;  ///< The record's time.
  trace::ThreadStall record{};
  Times times{};
  std::string comm, call, wchan, descriptor;
  std::vector<Culprit> culprits;
  std::vector<std::string> kernel_stack;
  std::vector<UserFrame> user_stack;
  std::string lock_owner;  ///< "vCPU 0": who held the lock when the longest sleep began; "" not known.

  /// It waits for the lock that all of QEMU shares.
  bool waits_for_big_lock() const;

  /// The times without what the host slept.
  Times awake() const;
  bool ongoing() const { return (record.flags & trace::kStallOngoing) != 0; }
  std::uint64_t begin_ns() const { return end_ns - std::min(end_ns, record.length_ns); }
};
Stall take_apart(std::uint64_t time_ns, const trace::ThreadStall& record, std::string_view text);
std::string stall_text(const Stall& stall);
/// Frames as a record's text has them, a line each; and back. Any text is safe.
std::string join_frames(const std::vector<UserFrame>& frames);
std::vector<UserFrame> parse_frames(std::string_view text);

/// "vCPU 1", "main thread", "iothread IO iothread1 [4711]", "thread worker [4711]".
std::string name_of_thread(std::uint32_t role, std::int32_t vcpu, std::uint32_t tid, std::string_view comm);

/// "fdatasync < raw_co_flush < main_loop_wait": functions, the innermost first. "" without any.
std::string join_functions(const std::vector<UserFrame>& stack, std::size_t most);

/// What a person would say: "vCPU 1 was ready for 312 ms of 320 ms while stress-ng [4711] ran on CPU 0".
std::string sentence(const Stall& stall);

}  // namespace vmwhy::stalls
