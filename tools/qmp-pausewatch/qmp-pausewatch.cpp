// SPDX-License-Identifier: BSD-2-Clause
#include "qmp-pausewatch.hpp"

#include "check.hpp"
#include "watcher.hpp"

namespace vmwhy::qmp_pausewatch {

int run(const Options& options, std::ostream& out, std::ostream& err) {
  if (options.check) return run_check(options, out);
  return Watcher(options, out, err).run();
}

}  // namespace vmwhy::qmp_pausewatch
