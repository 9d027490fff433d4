// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/context.hpp"

#include <ostream>

#include "core/text.hpp"

namespace vmwhy::qmp_pausewatch {

void Context::say(const std::string& text) const {
  if (!options.quiet) complain(text);
}

void Context::complain(const std::string& text) const {
  err << "qmp-pausewatch: " << printable(text) << "\n" << std::flush;
}

}  // namespace vmwhy::qmp_pausewatch
