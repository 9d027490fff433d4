// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// One monitor of one VM: records everything that passes, asks query-status every second, and tells what
// became of the connection.

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "qmp/client.hpp"
#include "tools/qmp-pausewatch/context.hpp"
#include "trace/records.hpp"

namespace vmwhy::qmp_pausewatch {

class Link {
 public:
  struct Handlers {
    std::function<void()> on_ready;
    /// It cannot be used, for this reason; with greeting_missing and monitor_held it may become ready later.
    std::function<void(const qmp::Failure&)> on_failed;
    std::function<void(const qmp::Event&)> on_event;
    std::function<void(const std::string& state)> on_run_state;  ///< Of each query-status reply.
    std::function<void(std::uint64_t rtt_ns)> on_round_trip;     ///< Each heartbeat's, also a late one's.
  };

  Link(Context& context, std::uint32_t vm, std::string vm_name, qmp::Address address, Handlers handlers);
  ~Link();

  void start();
  void close();
  /// Sends query-status, unless one is still waited for.
  void beat();

  /// Ready, and the last heartbeat is not overdue: worth asking.
  bool healthy() const;
  bool ready() const;
  /// Overdue since then; 0: not overdue.
  std::uint64_t overdue_since_ns() const { return overdue_since_ns_; }
  /// The heartbeat that is waited for; 0: none is.
  std::uint64_t waiting_since_ns() const { return beat_sent_ns_; }
  /// A heartbeat was answered after this time.
  bool answered_since(std::uint64_t time_ns) const { return last_answer_ns_ >= time_ns; }
  bool ever_ready() const { return ever_ready_; }
  std::uint32_t peer_pid() const;
  std::string address() const;
  void rename(std::string vm_name) { vm_name_ = std::move(vm_name); }

  using ReplyHandler = std::function<void(qmp::Result<qmp::Reply>)>;
  void ask(const std::string& command, boost::json::object arguments, ReplyHandler handler);
  /// Records that a question was not asked, and why.
  void withhold(const std::string& command, const std::string& reason);

 private:
  void on_traffic(const qmp::Traffic& traffic);
  void on_state(qmp::LinkState state, const qmp::Failure* failure);
  void record_state(trace::QmpLinkState state, std::uint64_t waited_ns, int error, const std::string& detail);

  Context& context_;
  std::uint32_t vm_;
  std::string vm_name_;
  Handlers handlers_;
  qmp::Client client_;
  std::uint64_t started_ns_ = 0;
  std::uint64_t beat_sent_ns_ = 0;
  std::uint64_t overdue_since_ns_ = 0;
  std::uint64_t last_answer_ns_ = 0;
  bool ever_ready_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace vmwhy::qmp_pausewatch
