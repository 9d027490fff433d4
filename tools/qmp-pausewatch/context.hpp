// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// What every part of a run shares. Everything lives on the io_context's thread.

#include <boost/asio/io_context.hpp>
#include <iosfwd>
#include <memory>
#include <string>

#include "host/cgroup.hpp"
#include "host/exit_status.hpp"
#include "host/kmsg.hpp"
#include "host/storage_probe.hpp"
#include "qemu/calls.hpp"
#include "record/recorder.hpp"
#include "storage/ledger.hpp"
#include "storage/server_links.hpp"
#include "tools/qmp-pausewatch/listener.hpp"
#include "tools/qmp-pausewatch/options.hpp"

namespace vmwhy::qmp_pausewatch {

struct Context {
  boost::asio::io_context& io;
  const Options& options;
  record::Recorder& recorder;
  std::ostream& err;

  std::unique_ptr<host::StorageProbe> probe;  ///< Null: no helper could be started; storage is not looked at.
  std::unique_ptr<host::ProcessConnector> connector;  ///< Null: not needed, or no right.
  std::unique_ptr<host::Kmsg> kmsg;                   ///< Null: the kernel log cannot be read.
  std::unique_ptr<storage::Ledger> ledger;            ///< Null: no kernel probes.
  std::unique_ptr<storage::ServerLinks> links;        ///< Of all VMs, to storage servers.
  host::CgroupMounts mounts;
  bool psi = false;
  std::unique_ptr<Listener> listener;  ///< Null: monitors of others are not heard; no_listener says why.
  std::string no_listener;
  std::unique_ptr<qemu::Calls> calls;  ///< Null: QEMU's own functions are not followed.

  /// One line on stderr, unless --quiet.
  void say(const std::string& text) const;
  /// One line on stderr, whatever --quiet says.
  void complain(const std::string& text) const;
};

}  // namespace vmwhy::qmp_pausewatch
