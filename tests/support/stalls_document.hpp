// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What stands in a document of kvm-stalls --json.

#include <boost/json.hpp>
#include <string_view>

namespace vmwhy::test {

/// The first thread of that role; null: there is none.
inline const boost::json::object* thread_of(const boost::json::object& document, std::string_view role) {
  for (const boost::json::value& thread : document.at("threads").as_array())
    if (thread.at("role").as_string() == role) return &thread.as_object();
  return nullptr;
}

/// A thread's or a stall's, 0 to 1.
inline double share(const boost::json::object& of, std::string_view state) {
  const boost::json::value* value = of.at("shares").as_object().if_contains(state);
  return value ? value->to_number<double>() : 0;
}

}  // namespace vmwhy::test
