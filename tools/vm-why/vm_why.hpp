// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// vm-why: the verdicts of trace files, from the files alone.

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

namespace vmwhy::vm_why {

struct Options {
  std::vector<std::string> files;
  bool json = false;
  bool exit_code = false;  ///< kFound where an incident was found.
  bool color = false;
  std::string vm;              ///< Name, uuid, pid or number of the only VM to show; empty: all.
  std::string debug_dir;       ///< Where frames are named by; empty: as the trace has them.
  std::uint64_t incident = 0;  ///< The only incident to show; 0: all.
};

/// @return an exit code of cli.hpp: kFailed where any file could not be read at all.
int run(const Options& options, std::ostream& out, std::ostream& err);

}  // namespace vmwhy::vm_why
