// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The golden cases on disk, and what comes of judging one.

#include <boost/json/object.hpp>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "causes/verdict.hpp"
#include "tests/support/trace_script.hpp"

namespace vmwhy::test {

struct CaseFile {
  std::filesystem::path path;
  std::string cause;
  bool positive = false;
  std::string test_name;
};

/// How GoogleTest names a case when it fails.
inline void PrintTo(const CaseFile& file, std::ostream* out) {
  *out << file.path.filename();
}

/// By name.
std::vector<CaseFile> case_files();

struct Judged {
  std::vector<causes::Incident> incidents;
  std::string text;
  boost::json::object json;
};
Judged judge(const ScriptedTrace& trace);

/// JSON with two spaces of indent, one member or element a line.
std::string pretty(const boost::json::value& value);

}  // namespace vmwhy::test
