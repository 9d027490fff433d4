// SPDX-License-Identifier: BSD-2-Clause
#include "bpf/load/failure.hpp"

#include <cstdlib>
#include <stdexcept>

namespace vmwhy::bpf {

std::string to_string(const Failure& failure) {
  std::string out = failure.context;
  if (failure.code) out += (out.empty() ? "" : ": ") + failure.code.message();
  if (!failure.remedy.empty()) out += "; " + failure.remedy;
  return out;
}

Failure system_failure(int error, std::string context, std::string remedy) {
  return {boost::system::error_code(std::abs(error), boost::system::system_category()), std::move(context),
          std::move(remedy)};
}

void throw_exception_from_error(const Failure& failure, const boost::source_location&) {
  throw std::logic_error("value() of a failure: " + to_string(failure));
}

}  // namespace vmwhy::bpf
