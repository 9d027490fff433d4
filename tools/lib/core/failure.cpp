// SPDX-License-Identifier: BSD-2-Clause
#include "core/failure.hpp"

#include <stdexcept>

namespace vmwhy {

std::string to_string(const Failure& failure) {
  std::string out = failure.context;
  if (failure.code) {
    if (!out.empty()) out += ": ";
    out += failure.code.message();
  }
  if (!failure.remedy.empty()) out += "; " + failure.remedy;
  return out;
}

Failure system_failure(int error, std::string context, std::string remedy) {
  return {boost::system::error_code(error, boost::system::system_category()), std::move(context),
          std::move(remedy)};
}

void throw_exception_from_error(const Failure& failure, const boost::source_location& /*loc*/) {
  throw std::logic_error("value() of a failed result: " + to_string(failure));
}

}  // namespace vmwhy
