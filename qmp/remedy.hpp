// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What a person can do about a failure of qmp/. Plain values, any thread.

#include <string>

#include "qmp/failure.hpp"

namespace vmwhy::qmp {

/// A few words to stand behind the failure's sentence; empty where nothing is known to help.
std::string remedy(const Failure& failure);

}  // namespace vmwhy::qmp
