// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// How everything in bpf/ fails: an errno, a sentence that names the thing, and the remedy where one is known.

#include <boost/system/error_code.hpp>
#include <boost/system/result.hpp>
#include <string>

namespace vmwhy::bpf {

struct Failure {
  boost::system::error_code code;  ///< An errno of the system category.
  std::string context;             ///< One sentence that names the thing.
  std::string remedy;              ///< What to do; empty where nothing is known.
};

/// "context: error; remedy", without what is empty.
std::string to_string(const Failure& failure);

/// A failure of errno `error` (positive; libbpf's negative ones are turned round).
Failure system_failure(int error, std::string context, std::string remedy = {});

template <class T>
using Result = boost::system::result<T, Failure>;

// boost::system::result asks for this when value() is called on a failure; it is a bug of the caller.
[[noreturn]] void throw_exception_from_error(const Failure& failure, const boost::source_location& loc);

}  // namespace vmwhy::bpf
