// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Bytes that a test writes and the kernel can read: stand in for KVM's own structs. Throws where BPF is not
// to be had.

#include <cstddef>
#include <cstdint>

struct kernel_memory_bpf;

namespace vmwhy::test {

/// Memory that the kernel can read, at the same offsets here and there.
class KernelMemory {
 public:
  KernelMemory();
  ~KernelMemory();
  KernelMemory(const KernelMemory&) = delete;
  KernelMemory& operator=(const KernelMemory&) = delete;

  /// The kernel's address of offset `at`.
  std::uint64_t address(std::size_t at = 0) const;
  /// The same bytes as this process sees them.
  template <class T>
  T& as(std::size_t at = 0) {
    return *reinterpret_cast<T*>(bytes() + at);
  }

  /// Runs "do_nothing" or "read_clock" `times` times; the kernel's run time of it so far, ns.
  std::uint64_t run_yardstick(const char* program, int times) const;

 private:
  char* bytes();
  kernel_memory_bpf* skeleton_;
};

}  // namespace vmwhy::test
