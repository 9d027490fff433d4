// SPDX-License-Identifier: BSD-2-Clause
#include "stalls/times.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <numeric>

#include "core/text.hpp"
#include "kvm/reasons.hpp"
#include "trace/record.hpp"

namespace vmwhy::stalls {
namespace {

constexpr std::size_t kMaxCulprits = 64, kMaxFrames = 64;

struct Words {
  std::string_view name, verb;
};
constexpr std::array<Words, kStates> kWords{{
    {"unknown", "was not seen"},
    {"running", "ran"},
    {"guest", "ran in the guest"},
    {"kvm", "was in KVM"},
    {"qemu", "was in QEMU"},
    {"halted", "was halted"},
    {"halt_poll", "polled for the end of a halt"},
    {"waiting", "was ready"},
    {"throttled", "was throttled by its cgroup's CPU quota"},
    {"idle", "had nothing to do"},
    {"lock", "waited for a lock"},
    {"blocked", "was blocked"},
    {"disk", "was blocked in D"},
    {"reclaim", "waited for memory"},
    {"stopped", "was stopped by a signal or a tracer"},
    {"frozen", "was frozen by its cgroup"},
}};

std::string human(std::uint64_t ns) {
  return human_duration(static_cast<std::int64_t>(std::min<std::uint64_t>(ns, INT64_MAX)));
}

template <class Number>
bool take_number(std::string_view& text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data() + text.size() || *end != ' ') return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()) + 1);
  return true;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> out;
  if (text.empty()) return out;
  for (const std::string_view line : split(text, '\n'))
    if (!line.empty() && out.size() < kMaxFrames) out.emplace_back(line.substr(0, 256));
  return out;
}

std::string lines(const std::vector<std::string>& list) {
  std::string out;
  for (const std::string& line : list) out += (out.empty() ? "" : "\n") + line;
  return out;
}

// "NAME TAB BUILD-ID+0xADDRESS"
UserFrame parse_frame(std::string_view line) {
  UserFrame out;
  const std::size_t tab = line.find('\t');
  out.name = line.substr(0, std::min<std::size_t>(tab, 160));
  if (tab == std::string_view::npos) return out;
  line.remove_prefix(tab + 1);
  const std::size_t plus = line.find("+0x");
  if (plus > 64) return out;  // Or none.
  out.build_id = line.substr(0, plus);
  line.remove_prefix(plus + 3);
  std::from_chars(line.data(), line.data() + line.size(), out.address, 16);
  return out;
}

// " while stress-ng [4711] ran on CPU 0"
std::string instead(const Stall& stall) {
  if (stall.culprits.empty()) return {};
  std::string out;
  const Culprit& first = stall.culprits.front();
  const std::uint64_t waited = stall.times[static_cast<std::size_t>(State::waiting)];
  if (first.tid == 0) return fmt::format(" while CPU {} was idle", stall.record.cpu);
  out = fmt::format(" while {} ran", describe(first));
  if (stall.culprits.size() > 1 && first.ns < waited / 10 * 9)
    out += fmt::format(" for {} of it, {} for {}", human(first.ns), describe(stall.culprits[1]),
                       human(stall.culprits[1].ns));
  return out + fmt::format(" on CPU {}", stall.record.cpu);
}

// ", for a page of its memory": where the kernel's stack shows a page fault, or KVM lets the vCPU stand until
// another thread of its own has brought the page (asynchronous page fault).
std::string page(const Stall& stall) {
  const auto calls = [&](std::string_view function) {
    return std::ranges::any_of(stall.kernel_stack, [&](const std::string& frame) {
      return std::string_view(frame).substr(0, frame.find('+')) == function;
    });
  };
  if (calls("handle_userfault")) return ", for a page of its memory that somebody has to bring (userfaultfd)";
  const bool stands = kvm::is_nested_page_fault(kvm::isa_from(stall.record.isa), stall.record.exit_code) &&
                      (calls("kvm_vcpu_block") || calls("kvm_vcpu_halt"));
  return calls("handle_mm_fault") || stands ? ", for a page of its memory" : "";
}

// " in pread64 of /x, in folio_wait_bit"
std::string where(const Stall& stall) {
  std::string out;
  if (!stall.call.empty()) out += " in " + printable(stall.call, 64);
  if (!stall.descriptor.empty()) out += " of " + printable(stall.descriptor, 256);
  if (!stall.wchan.empty()) {
    out += (out.empty() ? " in " : ", in ") + printable(stall.wchan, 64);
  } else if (!stall.kernel_stack.empty()) {
    const std::string& top = stall.kernel_stack.front();
    out += (out.empty() ? " in " : ", in ") + printable(top.substr(0, top.find('+')), 64);
  }
  return out + page(stall);
}

std::string detail(const Stall& stall, State state) {
  const auto isa = kvm::isa_from(stall.record.isa);
  switch (state) {
    case State::waiting:
      return instead(stall);
    case State::lock:
    case State::blocked:
    case State::disk:
    case State::reclaim:
      return where(stall);
    case State::kvm:
      return stall.record.exit_code == UINT32_MAX
                 ? std::string()
                 : " after the exit " + kvm::exit_reason_name(isa, stall.record.exit_code);
    case State::qemu:
      return stall.record.user_code < 0
                 ? std::string()
                 : " for " + std::string(kvm::userspace_reason_name(stall.record.user_code));
    default:
      return {};
  }
}

}  // namespace

std::string_view name_of(State state) {
  const auto index = static_cast<std::size_t>(state);
  return index < kStates ? kWords[index].name : std::string_view();
}

std::string_view verb_of(State state) {
  const auto index = static_cast<std::size_t>(state);
  return index < kStates ? kWords[index].verb : std::string_view();
}

Times to_array(const trace::ThreadTimes& times) {
  Times out;
  static_assert(sizeof out == sizeof times);
  std::memcpy(out.data(), &times, sizeof times);
  return out;
}

trace::ThreadTimes from_array(const Times& times) {
  trace::ThreadTimes out;
  std::memcpy(&out, times.data(), sizeof out);
  return out;
}

std::uint64_t sum(const Times& times) {
  return std::accumulate(times.begin(), times.end(), std::uint64_t{0});
}

State greatest(const Times& times) {
  const auto most = std::max_element(times.begin(), times.end());
  return *most == 0 ? State::unknown : static_cast<State>(most - times.begin());
}

std::string join(const std::vector<Culprit>& culprits) {
  std::string out;
  for (const Culprit& culprit : culprits) {
    std::string comm = culprit.comm;
    std::replace(comm.begin(), comm.end(), '\n', ' ');
    out += fmt::format("{}{} {} {} {}", out.empty() ? "" : "\n", culprit.ns, culprit.tid, culprit.pid, comm);
  }
  return out;
}

std::vector<Culprit> parse_culprits(std::string_view text) {
  std::vector<Culprit> out;
  for (std::string_view line : split(text, '\n')) {
    Culprit culprit;
    if (!take_number(line, culprit.ns) || !take_number(line, culprit.tid) || !take_number(line, culprit.pid))
      continue;
    culprit.comm = line.substr(0, 64);
    if (out.size() < kMaxCulprits) out.push_back(std::move(culprit));
  }
  return out;
}

std::string describe(const Culprit& culprit) {
  if (culprit.tid == 0) return "the CPU was idle";
  return fmt::format("{} [{}]", printable(culprit.comm, 64), culprit.pid);
}

std::string join_frames(const std::vector<UserFrame>& frames) {
  std::string out;
  for (const UserFrame& frame : frames)
    out += fmt::format("{}{}\t{}+{:#x}", out.empty() ? "" : "\n", frame.name, frame.build_id, frame.address);
  return out;
}

std::vector<UserFrame> parse_frames(std::string_view text) {
  std::vector<UserFrame> out;
  for (const std::string& line : lines_of(text)) out.push_back(parse_frame(line));
  return out;
}

Times Stall::awake() const {
  Times out = times;
  std::uint64_t slept = record.suspended_ns;
  for (const State state : {State::frozen, State::disk}) {
    const std::uint64_t part = std::min(out[static_cast<std::size_t>(state)], slept);
    out[static_cast<std::size_t>(state)] -= part;
    slept -= part;
  }
  return out;
}

Stall take_apart(std::uint64_t time_ns, const trace::ThreadStall& record, std::string_view text) {
  Stall out;
  out.end_ns = time_ns;
  out.record = record;
  out.times = to_array(record.times);
  const auto field = [&](std::size_t n, std::size_t limit) {
    return std::string(trace::text_field(text, n).substr(0, limit));
  };
  out.comm = field(0, 64);
  out.call = field(1, 64);
  out.wchan = field(2, 128);
  out.descriptor = field(3, 1024);
  out.culprits = parse_culprits(trace::text_field(text, 4));
  out.kernel_stack = lines_of(trace::text_field(text, 5));
  out.user_stack = parse_frames(trace::text_field(text, 6));
  out.lock_owner = field(7, 64);
  return out;
}

std::string stall_text(const Stall& stall) {
  return trace::join_text({stall.comm, stall.call, stall.wchan, stall.descriptor, join(stall.culprits),
                           lines(stall.kernel_stack), join_frames(stall.user_stack), stall.lock_owner});
}

std::string name_of_thread(std::uint32_t role, std::int32_t vcpu, std::uint32_t tid, std::string_view comm) {
  switch (static_cast<trace::ThreadRole>(role)) {
    case trace::ThreadRole::main:
      return "the main thread";
    case trace::ThreadRole::vcpu:
      return vcpu >= 0 ? fmt::format("vCPU {}", vcpu) : fmt::format("vCPU thread {}", tid);
    case trace::ThreadRole::iothread:
      return fmt::format("iothread {} [{}]", printable(comm, 64), tid);
    default:
      return fmt::format("thread {} [{}]", printable(comm, 64), tid);
  }
}

std::string_view UserFrame::function() const {
  const bool named = !name.ends_with(fmt::format("+{:#x}", address));
  return std::string_view(name).substr(0, named ? name.rfind('+') : std::string::npos);
}

bool Stall::waits_for_big_lock() const {
  // QEMU 9.0 renamed the first; the others take it again when they have waited.
  static constexpr std::string_view kTakers[] = {
      "qemu_mutex_lock_iothread_impl", "bql_lock_impl",      "qemu_cond_wait_iothread",
      "qemu_cond_timedwait_iothread",  "qemu_cond_wait_bql", "qemu_cond_timedwait_bql"};
  return greatest(awake()) == State::lock &&
         std::any_of(user_stack.begin(), user_stack.end(), [](const UserFrame& frame) {
           return std::find(std::begin(kTakers), std::end(kTakers), frame.function()) != std::end(kTakers);
         });
}

std::string join_functions(const std::vector<UserFrame>& stack, std::size_t most) {
  std::string out;
  for (std::size_t i = 0; i < stack.size() && i < most; ++i)
    out += (i ? " < " : "") + printable(stack[i].function(), 128);
  return out;
}

std::string sentence(const Stall& stall) {
  const Times times = stall.awake();
  const State state = greatest(times);
  const std::uint64_t part = times[static_cast<std::size_t>(state)];
  const std::string who = name_of_thread(stall.record.role, stall.record.vcpu, stall.record.tid, stall.comm);
  std::string span = human(part);
  if (part < stall.record.length_ns / 20 * 19) span += " of " + human(stall.record.length_ns);
  const std::string_view verb = stall.waits_for_big_lock() ? "waited for QEMU's big lock" : verb_of(state);
  std::string out = fmt::format("{} {} for {}{}", who, verb, span, detail(stall, state));
  if (state == State::lock && !stall.lock_owner.empty())
    out += ", held by " + printable(stall.lock_owner, 64) + " when it began to wait";
  if (stall.record.suspended_ns != 0)
    out += fmt::format("; for {} the host slept", human(stall.record.suspended_ns));
  if (stall.ongoing()) out += ", and still does not get on";
  return out;
}

}  // namespace vmwhy::stalls
