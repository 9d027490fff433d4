// SPDX-License-Identifier: BSD-2-Clause
#include "tools/qmp-call/qmp_call.hpp"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/serialize.hpp>
#include <csignal>
#include <ostream>

#include "cli/cli.hpp"
#include "core/text.hpp"
#include "qmp/client.hpp"
#include "qmp/discovery.hpp"
#include "qmp/remedy.hpp"
#include "tools/qmp-call/format.hpp"

namespace vmwhy::qmp_call {
namespace {

namespace json = boost::json;
using qmp::Errc;

int exit_code(const boost::system::error_code& code) {
  if (code == Errc::bad_address) return cli::kUsage;
  if (code == Errc::no_socket || code == Errc::no_permission) return cli::kEnvironment;
  return cli::kFailed;
}

int complain(const qmp::Failure& failure, std::ostream& err) {
  const std::string what = qmp::remedy(failure);
  err << "qmp-call: " << printable(qmp::to_string(failure)) << (what.empty() ? "" : "; " + what) << "\n";
  return exit_code(failure.code);
}

qmp::Failure not_found(std::string context) {
  return {qmp::make_error_code(Errc::no_socket), std::move(context), {}, {}};
}

qmp::Result<qmp::QemuProcess> find_vm(const Options& options, const qmp::DiscoveryOptions& discovery) {
  if (options.pid != 0) {
    return qmp::inspect_qemu(static_cast<std::uint32_t>(options.pid), discovery);
  }
  std::vector<qmp::QemuProcess> found;
  for (qmp::QemuProcess& process : qmp::find_qemus(discovery))
    if (process.name == options.name || process.uuid == options.name) found.push_back(std::move(process));
  if (found.empty()) return not_found("no QEMU of this host is named \"" + options.name + "\"");
  if (found.size() == 1) return std::move(found.front());
  std::string pids;
  for (const qmp::QemuProcess& process : found)
    pids += (pids.empty() ? "" : ", ") + std::to_string(process.pid);
  return qmp::Failure{qmp::make_error_code(Errc::bad_address),
                      "several QEMUs are named \"" + options.name + "\" (processes " + pids + "); use -p",
                      {},
                      {}};
}

qmp::Result<qmp::Address> find_address(const Options& options) {
  if (!options.socket.empty()) return qmp::Address::parse(options.socket);
  qmp::DiscoveryOptions discovery;
  discovery.proc = options.proc;
  auto process = find_vm(options, discovery);
  if (!process) return process.error();
  if (process->monitors.empty())
    return not_found("process " + std::to_string(process->pid) +
                     (process->unreadable ? " (its command line cannot be read)" : "") +
                     " has no QMP socket");
  const auto free = std::find_if(
      process->monitors.begin(), process->monitors.end(),
      [](const qmp::MonitorSocket& monitor) { return !monitor.held && !monitor.folder_unknown; });
  const qmp::MonitorSocket& monitor = free == process->monitors.end() ? process->monitors.front() : *free;
  if (monitor.folder_unknown) return not_found(monitor.why_unreachable());
  if (monitor.reachable_path.empty()) return qmp::Address::parse(monitor.address);
  return qmp::Address::parse("unix:" + monitor.reachable_path);
}

// One run: connects, sends the commands one after another, then watches.
class Call {
 public:
  Call(const Options& options, qmp::Address address, std::ostream& out, std::ostream& err)
      : options_(options), out_(out), err_(err), signals_(io_, SIGINT, SIGTERM), timer_(io_) {
    qmp::ClientOptions client;
    client.address = std::move(address);
    const auto deadline = std::chrono::ceil<std::chrono::milliseconds>(options.deadline);
    client.connect_deadline = client.greeting_deadline = client.command_deadline = deadline;
    client.read_only = false;
    client_ = std::make_unique<qmp::Client>(io_, std::move(client), handlers());
  }

  int run() {
    signals_.async_wait([this](const boost::system::error_code& error, int) {
      if (!error) finish(options_.watch && sent_ == options_.commands.size() ? cli::kOk : cli::kFailed);
    });
    client_->start();
    io_.run();
    return code_;
  }

 private:
  qmp::Handlers handlers() {
    qmp::Handlers out;
    out.on_state = [this](qmp::LinkState state, const qmp::Failure* failure) {
      if (state == qmp::LinkState::ready) next();
      if (state == qmp::LinkState::down && failure != nullptr && !in_reply_) finish(complain(*failure, err_));
    };
    out.on_event = [this](const qmp::Event& event) { show_event(event); };
    if (options_.verbose)
      out.on_traffic = [this](const qmp::Traffic& traffic) {
        err_ << (traffic.kind == qmp::MessageKind::command ? "-> " : "<- ")
             << printable(traffic.json, SIZE_MAX) << std::endl;
      };
    return out;
  }

  void show_event(const qmp::Event& event) {
    if (!options_.watch) return;
    const auto& wanted = options_.events;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), event.name) == wanted.end()) return;
    print_event(event, options_.json, options_.color, out_);
    if (!out_) finish(cli::kOk);  // whoever read it has gone
  }

  void next() {
    if (sent_ == options_.commands.size()) {
      watch();
      return;
    }
    const Command& command = options_.commands[sent_];
    client_->execute(command.name, command.arguments, [this, &command](const qmp::Result<qmp::Reply>& reply) {
      if (reply) {
        ++sent_;
        if (!options_.quiet) print_reply(command.name, reply->value, options_.json, out_);
        next();
        return;
      }
      if (options_.json) print_error(command.name, reply.error(), out_);
      in_reply_ = true;  // the link may go down with it: one message is enough
      finish(complain(reply.error(), err_));
    });
  }

  void watch() {
    if (!options_.watch) {
      finish(cli::kOk);
    } else if (options_.duration.count() > 0) {
      timer_.expires_after(options_.duration);
      timer_.async_wait([this](const boost::system::error_code& error) {
        if (!error) finish(cli::kOk);
      });
    }
  }

  void finish(int code) {
    if (finished_) return;
    finished_ = true;
    code_ = code;
    io_.stop();
  }

  const Options& options_;
  std::ostream& out_;
  std::ostream& err_;
  boost::asio::io_context io_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer timer_;
  std::unique_ptr<qmp::Client> client_;
  std::size_t sent_ = 0;
  bool in_reply_ = false;
  bool finished_ = false;
  int code_ = cli::kFailed;
};

}  // namespace

int run(const Options& options, std::ostream& out, std::ostream& err) {
  if (options.list) return list(options, out);
  auto address = find_address(options);
  if (!address) return complain(address.error(), err);
  return Call(options, std::move(*address), out, err).run();
}

}  // namespace vmwhy::qmp_call
