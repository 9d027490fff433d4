// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-pausewatch/qmp-pausewatch.hpp"

#include "tools/qmp-pausewatch/check.hpp"
#include "tools/qmp-pausewatch/watcher.hpp"

namespace vmwhy::qmp_pausewatch {

int run(const Options& options, std::ostream& out, std::ostream& err) {
  if (options.check) return run_check(options, out);
  return Watcher(options, out, err).run();
}

}  // namespace vmwhy::qmp_pausewatch
