// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The command after "--": its start is told, or why it could not be started.

#include <sys/types.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <functional>
#include <string>
#include <vector>

#include "core/failure.hpp"

namespace vmwhy::kvm_exits {

class Command {
 public:
  /// @param on_end  Gets the status of waitpid(2).
  Command(boost::asio::io_context& io, std::function<void(int status)> on_end);
  /// SIGTERM if it still runs.
  ~Command();

  /// Errors: errno with the name; nothing runs then.
  Result<void> start(const std::vector<std::string>& words);

 private:
  void wait();

  boost::asio::signal_set child_;
  std::function<void(int)> on_end_;
  pid_t pid_ = -1;
};

}  // namespace vmwhy::kvm_exits
