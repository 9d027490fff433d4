// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Creates the file of a trace so that nothing else is ever overwritten and nobody else can read it.

#include <string>

#include "core/failure.hpp"
#include "core/unique_fd.hpp"

namespace vmwhy::trace {

struct CreatedFile {
  UniqueFd fd;        ///< Empty, mode 0600, locked (flock) against a second recording.
  bool fresh = true;  ///< It did not exist before.
};

/// Never through a symbolic link. An existing regular file of our own is taken when it is empty;
/// an earlier trace, or anything else, is left alone. Errors: errno, with the path and the remedy.
Result<CreatedFile> create_trace_file(const std::string& path);

}  // namespace vmwhy::trace
