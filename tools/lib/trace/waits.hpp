// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What a wait channel (/proc/PID/task/TID/wchan) says, for those who record and those who judge.

#include <string_view>

namespace vmwhy::trace {

/// The wait for the server of a FUSE file system. The kernel calls it interruptible (S), but the request is
/// as stuck as one in D.
inline bool is_fuse_wait(std::string_view wchan) {
  return wchan.find("request_wait_answer") != std::string_view::npos ||
         wchan.find("fuse_simple_request") != std::string_view::npos;
}

}  // namespace vmwhy::trace
