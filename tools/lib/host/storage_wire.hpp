// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What a tool and its helper process say to each other, one SEQPACKET message each. Both ends are the same
// binary: nothing here outlives a process.

#include <cstdint>

#include "trace/records.hpp"

namespace vmwhy::host::wire {

enum class Kind : std::uint32_t { node = 1, tail = 2 };

struct Request {
  std::uint64_t id;
  Kind kind;
  std::uint32_t pid;
  std::uint32_t deadline_ms;
  std::uint32_t reserved;
  char path[4096];  ///< NUL-terminated.
};

constexpr std::size_t kTextBytes = 8192;

struct Answer {
  std::uint64_t id;
  Kind kind;
  std::uint32_t reached;
  trace::NodeFile file;
  std::uint64_t tail_offset;
  std::int32_t tail_error;
  std::uint32_t text_size;
  char text[kTextBytes];  ///< Tail's text, or mount point NUL type NUL source NUL devices NUL quotas.
};

/// The helper's life: reads requests from `socket` until the other end closes. Never returns.
[[noreturn]] void serve(int socket);

}  // namespace vmwhy::host::wire
