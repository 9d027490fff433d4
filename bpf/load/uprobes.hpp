// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Attaches a BPF program to functions of an executable, in every process that maps it, without ever waiting
// for one of them. To set or take away a breakpoint the kernel takes the address space of each such process
// for itself, and while it waits for one that is stuck, no process of the host can fork. Therefore a helper
// process does it, and only while no thread of such a process has been in uninterruptible sleep; it goes on
// looking until then, also when it is to detach.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bpf/load/failure.hpp"

namespace vmwhy::bpf {

struct UprobePlace {
  std::uint64_t file_offset;  ///< Of the function's first instruction, in the file.
  std::uint64_t cookie;       ///< What bpf_get_attach_cookie returns.
};

class Uprobes {
 public:
  struct News {
    enum class What : std::uint32_t {
      waiting = 1,   ///< `value` is the process with a thread that is stuck.
      attached = 2,  ///< To `value` places.
      failed = 3,    ///< None; `error` says why.
      ended = 4,     ///< The helper, and the breakpoints with it. Nothing comes after that.
    };
    What what;
    std::uint32_t value;
    std::int32_t error;
  };

  /// Forks the helper, which detaches and ends when this object goes away or this process dies.
  /// @param program_fd  Of a BPF program of type kprobe.
  /// @param path  Of the executable; /proc/PID/exe is as good as any, also of a file that was replaced since.
  /// Errors: errno of socketpair or fork; ENODEV: the kernel has no uprobes.
  static Result<std::unique_ptr<Uprobes>> start(int program_fd, const std::string& path,
                                                const std::vector<UprobePlace>& places);
  ~Uprobes();

  /// Becomes readable when there is news.
  int fd() const { return socket_; }
  /// What the helper has said since, without waiting; null: nothing.
  std::optional<News> read();
  /// Likewise, waiting for it. Null: not within that time.
  std::optional<News> wait(std::chrono::milliseconds at_most);

 private:
  explicit Uprobes(int socket) : socket_(socket) {}
  int socket_;
};

}  // namespace vmwhy::bpf
