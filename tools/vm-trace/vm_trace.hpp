// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// vm-trace: looks into trace files, checks them, and mends damaged ones. Needs no privilege and no QEMU.

#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "trace/reader.hpp"

namespace vmwhy::vm_trace {

struct Options {
  std::vector<std::string> words;  ///< Command, then file names.
  bool json = false;
  bool follow = false;             ///< cat: goes on until the recording ends.
  std::vector<std::string> types;  ///< cat: only these record types; empty: all.
  std::string vm;                  ///< cat: only records of this VM's number; empty: all.
};

/// @return an exit code where the program is to end now; nothing: options are complete.
std::optional<int> parse(int argc, const char* const* argv, Options& options, std::ostream& out,
                         std::ostream& err);

/// Results go to `out`, everything else to `err`. @return an exit code of cli.hpp.
int run(const Options& options, std::ostream& out, std::ostream& err);

/// `cat`. In cat.cpp.
int cat(const std::string& path, const Options& options, std::ostream& out, std::ostream& err);

/// One line on `err` for each thing that is wrong with the file just read to its end, with the remedy.
/// @return whether blocks are damaged or cut.
bool complain(const std::string& path, const trace::ReadReport& report, std::ostream& err);

}  // namespace vmwhy::vm_trace
