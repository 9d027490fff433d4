// SPDX-License-Identifier: BSD-2-Clause
// The probe family qemu_calls and its breakpoints, on functions of this process and its children.

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/sdt.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "bpf/load/qemu_calls.hpp"
#include "bpf/load/ring.hpp"
#include "bpf/load/uprobes.hpp"
#include "core/unique_fd.hpp"
#include "sym/executable.hpp"
#include "sym/unwind.hpp"
#include "tests/support/capability.hpp"
#include "tests/support/wait.hpp"

extern "C" {
__attribute__((noinline)) int followed_one(int number, const char* text, const char* other) {
  asm volatile("" ::"r"(number), "r"(text), "r"(other));
  return number + 1;
}
__attribute__((noinline)) int followed_two(int number) {
  asm volatile("" ::"r"(number));
  return number + 2;
}
__attribute__((noinline)) int followed_inside(int number, const char* text) {
  volatile int on_stack = number + 5;
  DTRACE_PROBE3(qemu_calls_test, inside, number, text, on_stack);
  return followed_two(on_stack);  // A function that calls none may keep its variables below the stack.
}
}

namespace vmwhy::test {
namespace {

using What = bpf::Uprobes::News::What;

#if defined(__x86_64__)
constexpr std::size_t kSp = 7;
#else
constexpr std::size_t kSp = 31;
#endif

class QemuCallsProbe : public ::testing::Test {
 protected:
  void SetUp() override {
    VMWHY_NEEDS(uprobes);
    auto opened = bpf::QemuCalls::open(bpf::look_around());
    ASSERT_TRUE(opened) << to_string(opened.error());
    probe_ = std::move(*opened);
    auto reader = bpf::RingReader::create(probe_->ring_fd(), [this](const void* data, std::size_t bytes) {
      Seen seen;
      ASSERT_GE(bytes, sizeof(seen.event));
      std::memcpy(&seen.event, data, sizeof(seen.event));
      ASSERT_LE(seen.event.stack_bytes, bytes - sizeof(seen.event));
      const auto* stack = static_cast<const std::byte*>(data) + sizeof(seen.event);
      seen.stack.assign(stack, stack + seen.event.stack_bytes);
      seen_.push_back(std::move(seen));
    });
    ASSERT_TRUE(reader) << to_string(reader.error());
    reader_ = std::move(*reader);
    auto self = sym::Executable::open("/proc/self/exe");
    ASSERT_TRUE(self);
    self_ = std::move(*self);
  }

  std::uint64_t offset_of(const char* name) const {
    return self_->file_offset(self_->find(name)->address).value();
  }
  std::unique_ptr<bpf::Uprobes> start(std::uint64_t flags_of_one = 0) {
    return only(
        bpf::Uprobes::start(probe_->program_fd(), "/proc/self/exe",
                            {{offset_of("followed_one"), 1 | flags_of_one}, {offset_of("followed_two"), 2}}));
  }
  static std::unique_ptr<bpf::Uprobes> only(bpf::Result<std::unique_ptr<bpf::Uprobes>> uprobes) {
    if (!uprobes) throw std::runtime_error(to_string(uprobes.error()));
    return std::move(*uprobes);
  }
  // What became of it. Another process of this suite may be stuck for a moment, on purpose.
  static auto settled(bpf::Uprobes& uprobes) {
    auto news = uprobes.wait(kPatience);
    while (news && news->what == What::waiting) news = uprobes.wait(kPatience);
    return news;
  }

  void attach(std::uint64_t flags_of_one = 0) {
    uprobes_ = start(flags_of_one);
    ASSERT_NE(uprobes_, nullptr);
    const auto news = settled(*uprobes_);
    ASSERT_TRUE(news);
    ASSERT_EQ(news->what, What::attached) << std::strerror(news->error);
    EXPECT_EQ(news->value, 2U);
  }

  struct Seen {
    qemu_calls_event event;
    std::vector<std::byte> stack;
  };
  std::unique_ptr<bpf::QemuCalls> probe_;
  std::unique_ptr<bpf::RingReader> reader_;
  std::unique_ptr<sym::Executable> self_;
  std::unique_ptr<bpf::Uprobes> uprobes_;
  std::vector<Seen> seen_;
};

TEST_F(QemuCallsProbe, TellsFunctionThreadAndArguments) {
  attach(QEMU_CALLS_WITH_STRINGS);
  ASSERT_TRUE(probe_->watch(static_cast<std::uint32_t>(::getpid())));
  EXPECT_EQ(followed_one(41, "a name", reinterpret_cast<const char*>(8)), 42);
  EXPECT_EQ(followed_two(40), 42);
  reader_->drain();
  ASSERT_EQ(seen_.size(), 2U);
  EXPECT_EQ(seen_[0].event.place, 1U);
  EXPECT_EQ(seen_[0].event.tgid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(seen_[0].event.tid, static_cast<std::uint32_t>(::gettid()));
  EXPECT_EQ(static_cast<int>(seen_[0].event.arguments[0]), 41);
  EXPECT_STREQ(seen_[0].event.strings[0], "");
  EXPECT_STREQ(seen_[0].event.strings[1], "a name");
  EXPECT_STREQ(seen_[0].event.strings[2], "");
  EXPECT_EQ(seen_[1].event.place, 2U);
  EXPECT_LT(seen_[0].event.time_ns, seen_[1].event.time_ns);
  EXPECT_EQ(probe_->losses().calls, 2U);
  EXPECT_EQ(probe_->losses().lost, 0U);
}

TEST_F(QemuCallsProbe, TellsTheArgumentsOfAStaticProbe) {
  const auto probes = self_->static_probes("qemu_calls_test");
  ASSERT_EQ(probes.size(), 1U);
  uprobes_ =
      only(bpf::Uprobes::start(probe_->program_fd(), "/proc/self/exe",
                               {{self_->file_offset(probes[0].address).value(), 3 | QEMU_CALLS_WITH_STACK}}));
  const auto news = settled(*uprobes_);
  ASSERT_TRUE(news && news->what == What::attached);
  ASSERT_TRUE(probe_->watch(static_cast<std::uint32_t>(::getpid())));
  const char* text = "a name";
  EXPECT_EQ(followed_inside(-37, text), -30);
  reader_->drain();
  ASSERT_EQ(seen_.size(), 1U);
  EXPECT_EQ(seen_[0].event.place, 3U);
  std::vector<std::uint64_t> registers(std::begin(seen_[0].event.registers),
                                       std::end(seen_[0].event.registers));
  sym::Snapshot snapshot;
  snapshot.sp = registers[kSp];
  snapshot.registers = registers;
  snapshot.stack = seen_[0].stack;
  const auto& where = probes[0].arguments;
  ASSERT_EQ(where.size(), 3U);
  EXPECT_EQ(sym::value_of(where[0], snapshot), static_cast<std::uint64_t>(-37));
  EXPECT_EQ(sym::value_of(where[1], snapshot), reinterpret_cast<std::uint64_t>(text));
  EXPECT_EQ(sym::value_of(where[2], snapshot), static_cast<std::uint64_t>(-32));
}

TEST_F(QemuCallsProbe, TakesTheStackAlong) {
  attach(QEMU_CALLS_WITH_STACK);
  ASSERT_TRUE(probe_->watch(static_cast<std::uint32_t>(::getpid())));
  std::uint64_t here[64];
  std::fill(std::begin(here), std::end(here), 0x1122334455667788);
  asm volatile("" ::"r"(here) : "memory");
  followed_one(1, nullptr, nullptr);
  reader_->drain();
  ASSERT_EQ(seen_.size(), 1U);
  ASSERT_GE(seen_[0].stack.size(), static_cast<std::size_t>(QEMU_CALLS_CHUNK));
  std::size_t found = 0;
  for (std::size_t at = 0; at + 8 <= seen_[0].stack.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, seen_[0].stack.data() + at, sizeof(word));
    found += word == 0x1122334455667788;
  }
  EXPECT_GE(found, std::size(here));
}

TEST_F(QemuCallsProbe, TellsNothingOfOtherProcesses) {
  attach();
  followed_one(1, nullptr, nullptr);
  ASSERT_TRUE(probe_->watch(static_cast<std::uint32_t>(::getpid())));
  probe_->unwatch(static_cast<std::uint32_t>(::getpid()));
  followed_two(1);
  reader_->drain();
  EXPECT_TRUE(seen_.empty());
  EXPECT_EQ(probe_->losses().calls, 0U);
}

TEST_F(QemuCallsProbe, CountsWhatDoesNotFitIntoTheRing) {
  attach(QEMU_CALLS_WITH_STACK);
  ASSERT_TRUE(probe_->watch(static_cast<std::uint32_t>(::getpid())));
  for (int i = 0; i < 200; ++i) followed_one(i, nullptr, nullptr);
  reader_->drain();
  EXPECT_GT(probe_->losses().lost, 0U);
  EXPECT_EQ(seen_.size() + probe_->losses().lost, 200U);
}

TEST_F(QemuCallsProbe, DetachesWhenItIsLetGo) {
  attach();
  ASSERT_TRUE(probe_->watch(static_cast<std::uint32_t>(::getpid())));
  uprobes_.reset();
  EXPECT_TRUE(wait_until([&] {
    const std::size_t before = seen_.size();
    followed_two(1);
    reader_->drain();
    return seen_.size() == before;
  }));
}

/// A process of this executable with a thread in uninterruptible sleep: it waits for its vfork's child.
class StuckChild {
 public:
  StuckChild() {
    int ends[2];
    if (::pipe(ends) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(ends[1]);
      if (::vfork() == 0) {
        char byte;
        while (::read(ends[0], &byte, 1) > 0) {
        }
        ::_exit(0);
      }
      ::_exit(0);
    }
    ::close(ends[0]);
    hold_.reset(ends[1]);
  }
  ~StuckChild() { release(); }
  void release() {
    hold_.reset();
    if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  pid_t pid() const { return pid_; }
  bool stuck() const {
    std::FILE* stat = std::fopen(("/proc/" + std::to_string(pid_) + "/stat").c_str(), "re");
    char state = 0;
    if (stat != nullptr && std::fscanf(stat, "%*d %*s %c", &state) != 1) state = 0;
    if (stat != nullptr) std::fclose(stat);
    return state == 'D';
  }

 private:
  pid_t pid_ = -1;
  UniqueFd hold_;
};

TEST_F(QemuCallsProbe, WaitsForAProcessThatIsStuckBeforeItAttaches) {
  StuckChild child;
  ASSERT_TRUE(wait_until([&] { return child.stuck(); }));
  uprobes_ = start();
  ASSERT_NE(uprobes_, nullptr);
  auto first = uprobes_->wait(kPatience);
  while (first && first->what == What::waiting && first->value != static_cast<std::uint32_t>(child.pid()))
    first = uprobes_->wait(kPatience);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->what, What::waiting);
  ASSERT_TRUE(probe_->watch(static_cast<std::uint32_t>(::getpid())));
  followed_two(1);
  reader_->drain();
  EXPECT_TRUE(seen_.empty()) << "it attached all the same";
  child.release();
  const auto second = settled(*uprobes_);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->what, What::attached);
}

// A helper that waits must not keep a reader of our output waiting: `$(qmp-pausewatch …)` would never end.
TEST_F(QemuCallsProbe, HelperHoldsNothingOfOurOutput) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const UniqueFd reader(ends[0]), output(::dup(STDERR_FILENO));
  ASSERT_GE(::dup2(ends[1], STDERR_FILENO), 0);
  ::close(ends[1]);
  StuckChild child;  // Holds our output as well, until it is let go.
  EXPECT_TRUE(wait_until([&] { return child.stuck(); }));
  uprobes_ = start();
  ::dup2(output.get(), STDERR_FILENO);
  ASSERT_NE(uprobes_, nullptr);
  ASSERT_TRUE(uprobes_->wait(kPatience));
  child.release();
  pollfd wanted{reader.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&wanted, 1, static_cast<int>(kPatience.count())), 1);
  EXPECT_TRUE(wanted.revents & POLLHUP);
}

TEST_F(QemuCallsProbe, SaysWhyItCannotAttach) {
  auto uprobes = bpf::Uprobes::start(probe_->program_fd(), "/proc/self/exe", {{~0ULL >> 1, 1}});
  ASSERT_TRUE(uprobes);
  const auto news = settled(**uprobes);
  ASSERT_TRUE(news);
  EXPECT_EQ(news->what, What::failed);
  EXPECT_NE(news->error, 0);
  auto missing = bpf::Uprobes::start(probe_->program_fd(), "/nowhere", {{0, 1}});
  ASSERT_TRUE(missing);
  const auto none = settled(**missing);
  ASSERT_TRUE(none);
  EXPECT_EQ(none->what, What::failed);
  EXPECT_EQ(none->error, ENOENT);
}

}  // namespace
}  // namespace vmwhy::test
