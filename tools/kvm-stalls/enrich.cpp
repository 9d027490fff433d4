// SPDX-License-Identifier: BSD-2-Clause
#include "tools/kvm-stalls/enrich.hpp"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <vector>

#include "host/proc_file.hpp"

namespace vmwhy::kvm_stalls {
namespace {

struct Call {
  long number;
  const char* name;
  bool descriptor;
};

#define CALL(name, descriptor) \
  { SYS_##name, #name, descriptor }
// Those in which a thread of QEMU may sleep.
constexpr std::array kCalls = std::to_array<Call>({
    CALL(read, true),
    CALL(write, true),
    CALL(pread64, true),
    CALL(pwrite64, true),
    CALL(preadv, true),
    CALL(pwritev, true),
    CALL(preadv2, true),
    CALL(pwritev2, true),
    CALL(readv, true),
    CALL(writev, true),
    CALL(fsync, true),
    CALL(fdatasync, true),
    CALL(fallocate, true),
    CALL(sync_file_range, true),
    CALL(ftruncate, true),
    CALL(lseek, true),
    CALL(fstat, true),
    CALL(fstatfs, true),
    CALL(flock, true),
    CALL(fcntl, true),
    CALL(ioctl, true),
    CALL(close, true),
    CALL(recvfrom, true),
    CALL(recvmsg, true),
    CALL(sendto, true),
    CALL(sendmsg, true),
    CALL(accept4, true),
    CALL(connect, true),
    CALL(shutdown, true),
    CALL(io_uring_enter, true),
    CALL(epoll_pwait, true),
    CALL(io_submit, false),
    CALL(io_getevents, false),
    CALL(futex, false),
    CALL(ppoll, false),
    CALL(pselect6, false),
    CALL(nanosleep, false),
    CALL(clock_nanosleep, false),
    CALL(mmap, false),
    CALL(munmap, false),
    CALL(madvise, false),
    CALL(mprotect, false),
    CALL(mremap, false),
    CALL(msync, false),
    CALL(mlock, false),
    CALL(brk, false),
    CALL(openat, false),
    CALL(unlinkat, false),
    CALL(statfs, false),
    CALL(sync, false),
    CALL(wait4, false),
    CALL(waitid, false),
    CALL(clone, false),
    CALL(clone3, false),
    CALL(execve, false),
    CALL(exit_group, false),
    CALL(rt_sigtimedwait, false),
    CALL(rt_sigsuspend, false),
    CALL(sched_yield, false),
    CALL(membarrier, false),
    CALL(copy_file_range, true),
    CALL(sendfile, true),
    CALL(splice, true),
    CALL(getrandom, false),
#ifdef SYS_poll
    CALL(poll, false),
    CALL(select, false),
    CALL(epoll_wait, true),
    CALL(open, false),
    CALL(stat, false),
#endif
});
#undef CALL

const Call* find(std::int32_t number) {
  const auto at =
      std::find_if(kCalls.begin(), kCalls.end(), [&](const Call& call) { return call.number == number; });
  return number >= 0 && at != kCalls.end() ? &*at : nullptr;
}

std::string link_of(std::uint32_t pid, std::uint64_t fd) {
  if (fd > INT32_MAX) return {};
  char path[4096];
  const ssize_t length = ::readlink(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), path, sizeof path);
  return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : std::string();
}

/// The last number of the line NSpid of a status file: in its own namespace. 0: there is none.
std::uint32_t own_number(const std::string& path) {
  const std::string status = host::read_or_empty(path, 8192);
  const std::size_t line = status.find("\nNSpid:");
  if (line == std::string::npos) return 0;
  const std::size_t end = status.find('\n', line + 1);
  const std::size_t last = status.find_last_of("\t ", end);
  std::uint32_t out = 0;
  if (last != std::string::npos)
    std::from_chars(status.data() + last + 1, status.data() + status.size(), out);
  return out;
}

}  // namespace

std::uint32_t thread_numbered(std::uint32_t pid, std::uint32_t number) {
  const std::string threads = fmt::format("/proc/{}/task/", pid);
  if (own_number(fmt::format("/proc/{}/status", pid)) == pid)
    return own_number(fmt::format("{}{}/status", threads, number)) == number ? number : 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(threads, error)) {
    const std::string tid = entry.path().filename();
    if (own_number(threads + tid + "/status") != number) continue;
    std::uint32_t out = 0;
    std::from_chars(tid.data(), tid.data() + tid.size(), out);
    return out;
  }
  return 0;
}

std::string system_call_name(std::int32_t number) {
  if (number < 0) return {};
  const Call* call = find(number);
  return call ? call->name : fmt::format("syscall {}", number);
}

bool takes_descriptor(std::int32_t number) {
  const Call* call = find(number);
  return call && call->descriptor;
}

void Enricher::load() {
  auto loaded = sym::KernelSymbols::load();
  if (loaded)
    symbols_ = std::move(*loaded);
  else
    obstacle_ = "kernel stacks have no names: " + to_string(loaded.error());
}

void Enricher::enrich(stalls::Stall& stall, const stalls_block& block) {
  if (stall.record.block_ns == 0) return;
  stall.call = system_call_name(block.syscall);
  if (takes_descriptor(block.syscall)) stall.descriptor = link_of(stall.record.pid, block.argument);
  if (stall.ongoing()) {
    stall.wchan =
        host::read_or_empty(fmt::format("/proc/{}/task/{}/wchan", stall.record.pid, stall.record.tid), 256);
    if (stall.wchan == "0") stall.wchan.clear();
  }
  if (block.frames <= 0 || !symbols_) return;
  const auto frames =
      std::min<std::size_t>(static_cast<std::size_t>(block.frames) / sizeof(block.stack[0]), STALLS_FRAMES);
  const std::vector<std::uint64_t> stack(block.stack, block.stack + frames);
  stall.kernel_stack = sym::below_schedule(*symbols_, stack);
}

}  // namespace vmwhy::kvm_stalls
