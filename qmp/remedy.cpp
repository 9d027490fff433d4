// SPDX-License-Identifier: BSD-2-Clause
#include "qmp/remedy.hpp"

namespace vmwhy::qmp {

std::string remedy(const Failure& failure) {
  const auto& code = failure.code;
  if (code == Errc::negotiation_timeout || code == Errc::greeting_missing)
    return "qmp-pausewatch -p PID tells what its threads wait for";
  if (code == Errc::no_socket) return "qmp-call --list shows the monitors of this host";
  if (code == Errc::no_permission) return "run as root, or as the user that QEMU runs as";
  if (code == Errc::connect_timeout || code == Errc::monitor_held)
    return "a monitor serves one client at a time: let the other one go, or give QEMU another -qmp socket";
  if (code == Errc::not_qmp) return "give the socket of -qmp, or of -mon with mode=control";
  if (code == Errc::reply_timeout) return "--qmp-deadline allows more time";
  if (code == Errc::bad_address) return "give a path, @NAME or HOST:PORT";
  return {};
}

}  // namespace vmwhy::qmp
