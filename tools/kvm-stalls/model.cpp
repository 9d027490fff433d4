// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-stalls/model.hpp"

#include <fmt/format.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "core/text.hpp"

namespace vmwhy::kvm_stalls {
namespace {

std::string comm_of(const stalls_culprit& culprit) {
  return std::string(culprit.comm, ::strnlen(culprit.comm, sizeof culprit.comm));
}

std::uint64_t since(std::uint64_t now_ns, std::uint64_t then_ns) {
  return now_ns > then_ns ? now_ns - then_ns : 0;
}

template <std::size_t N>
std::vector<stalls::Culprit> culprits_of(const stalls_culprit (&table)[N]) {
  std::vector<stalls::Culprit> out;
  for (const stalls_culprit& culprit : table)
    if (culprit.ns) out.push_back({culprit.ns, culprit.tid, culprit.tgid, comm_of(culprit)});
  std::sort(out.begin(), out.end(),
            [](const stalls::Culprit& a, const stalls::Culprit& b) { return a.ns > b.ns; });
  return out;
}

void fill(stalls::Stall& out, const Thread& thread, const stalls_stall& raw, const stalls_block& block) {
  out.comm = thread.comm;
  out.record.pid = thread.pid;
  out.record.tid = thread.tid;
  out.record.role = static_cast<std::uint32_t>(thread.role);
  out.record.vcpu = thread.vcpu;
  out.record.cpu = raw.cpu;
  out.record.exit_code = raw.exit_code;
  out.record.user_code = raw.user_code;
  out.record.others_ns = raw.others_ns;
  out.record.block_ns = block.ns;
  out.record.argument = block.argument;
  out.record.syscall = block.syscall;
  out.culprits = culprits_of(raw.culprits);
}

}  // namespace

double Share::error() const {
  if (window_ns == 0) return 0;
  const auto whole = static_cast<double>(window_ns);
  return std::abs(static_cast<double>(stalls::sum(times)) - whole) / whole;
}

void Share::set_blamed(std::uint64_t blamed_ns) {
  std::sort(culprits.begin(), culprits.end(),
            [](const stalls::Culprit& a, const stalls::Culprit& b) { return a.ns > b.ns; });
  others_ns = blamed_ns;
  for (const stalls::Culprit& culprit : culprits) others_ns -= std::min(others_ns, culprit.ns);
}

Counted count(const stalls_thread& row, std::uint64_t now_ns) {
  Counted out;
  std::copy(std::begin(row.ns), std::end(row.ns), out.times.begin());
  out.time_ns = now_ns;
  if (row.state < STALLS_STATES)
    out.times[row.state] += now_ns > row.since_ns ? now_ns - row.since_ns : 0;
  else
    out.time_ns = row.since_ns;  // It ended then.
  for (const stalls_culprit& culprit : row.culprits)
    if (culprit.ns)
      out.culprits[{culprit.tgid, culprit.tid, culprit.placed_ns}] = {culprit.ns, culprit.tid, culprit.tgid,
                                                                      comm_of(culprit)};
  out.blamed_ns = row.blamed_ns;
  out.stalls = row.stalls;
  return out;
}

Share between(const Thread& thread, const Counted& before, const Counted& after) {
  Share out;
  out.thread = thread;
  out.window_ns = after.time_ns > before.time_ns ? after.time_ns - before.time_ns : 0;
  for (std::size_t i = 0; i < stalls::kStates; ++i)
    out.times[i] = after.times[i] > before.times[i] ? after.times[i] - before.times[i] : 0;
  const std::uint64_t blamed = after.blamed_ns - std::min(after.blamed_ns, before.blamed_ns);
  for (const auto& [key, culprit] : after.culprits) {
    const auto earlier = before.culprits.find(key);
    stalls::Culprit rest = culprit;
    // An entry that was let go and came back counts from nothing.
    if (earlier != before.culprits.end() && earlier->second.ns <= rest.ns) rest.ns -= earlier->second.ns;
    if (rest.ns) out.culprits.push_back(std::move(rest));
  }
  out.set_blamed(blamed);
  out.stalls = after.stalls - std::min(after.stalls, before.stalls);
  return out;
}

Seen make_stall(const Thread& thread, const stalls_stall& raw) {
  Seen seen;
  stalls::Stall& out = seen.stall;
  seen.block = raw.block;
  seen.slot = raw.slot;
  fill(out, thread, raw, raw.block);
  out.end_ns = raw.end_ns;
  out.record.length_ns = since(raw.end_ns, raw.begin_ns);
  std::copy(std::begin(raw.ns), std::end(raw.ns), out.times.begin());
  out.record.state = static_cast<std::uint32_t>(raw.block.ns ? static_cast<stalls::State>(raw.block.state)
                                                             : stalls::greatest(out.times));
  out.record.times = stalls::from_array(out.times);
  return seen;
}

Seen make_ongoing(const Thread& thread, const stalls_thread& row, std::uint64_t now_ns) {
  Seen seen;
  stalls::Stall& out = seen.stall;
  stalls_block& block = seen.block;
  seen.slot = row.stall.slot;
  block = row.block;
  const std::uint64_t here = since(now_ns, row.since_ns);
  // What it sleeps in now, unless an earlier sleep was longer.
  block.ns = here;
  const bool asleep = row.state >= STALLS_LOCK && row.state <= STALLS_FROZEN;
  if (!asleep || (row.stall.dirty && row.stall.block.ns > here)) block = row.stall.block;
  if (!asleep && !row.stall.dirty) block = stalls_block{.syscall = -1};
  fill(out, thread, row.stall, block);
  out.end_ns = now_ns;
  out.record.length_ns = since(now_ns, row.stall.begin_ns);
  out.record.flags |= trace::kStallOngoing;
  if (row.stall.dirty) {
    std::copy(std::begin(row.stall.ns), std::end(row.stall.ns), out.times.begin());
  } else {
    out.culprits.clear();
    out.record.others_ns = 0;
  }
  if (row.state < STALLS_STATES) out.times[row.state] += here;
  out.record.state = row.state;
  out.record.times = stalls::from_array(out.times);
  return seen;
}

Signal make_signal(const stalls_signal& raw) {
  Signal out;
  out.time_ns = raw.time_ns;
  out.sender = std::string(raw.sender_comm, ::strnlen(raw.sender_comm, sizeof raw.sender_comm));
  const bool victim = raw.message == STALLS_MESSAGE_VICTIM;
  out.record = {
      .pid = raw.target_tgid,
      .tid = raw.target_tid,
      .what = static_cast<std::uint32_t>(victim ? trace::SignalWhat::oom_victim : trace::SignalWhat::sent),
      .signal = raw.signal,
      .code = raw.code,
      .result = raw.result,
      .sender_pid = raw.sender_tgid,
      .sender_tid = raw.sender_tid,
      .sender_uid = raw.sender_uid};
  return out;
}

std::string signal_name(int number) {
  const char* name = ::sigabbrev_np(number);
  return name ? std::string("SIG") + name : fmt::format("signal {}", number);
}

std::string describe(const Signal& signal) {
  const trace::ProcessSignal& of = signal.record;
  if (of.what == static_cast<std::uint32_t>(trace::SignalWhat::oom_victim))
    return fmt::format("the OOM killer chose process {}: an allocation of {} [{}] failed", of.pid,
                       printable(signal.sender, 64), of.sender_pid);
  const std::string by =
      of.code == 0x80
          ? fmt::format("the kernel, while {} [{}] ran", printable(signal.sender, 64), of.sender_pid)
          : fmt::format("{} [{}] (uid {})", printable(signal.sender, 64), of.sender_pid, of.sender_uid);
  return fmt::format("{} to process {} by {}", signal_name(of.signal), of.pid, by);
}

bool listed_before(const Thread& a, const Thread& b) {
  const auto rank = [](const Thread& thread) {
    switch (thread.role) {
      case trace::ThreadRole::main:
        return 0;
      case trace::ThreadRole::vcpu:
        return 1;
      case trace::ThreadRole::iothread:
        return 2;
      default:
        return 3;
    }
  };
  return std::tuple(a.pid, rank(a), a.vcpu, a.tid) < std::tuple(b.pid, rank(b), b.vcpu, b.tid);
}

}  // namespace vmwhy::kvm_stalls
