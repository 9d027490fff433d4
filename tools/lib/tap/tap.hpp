// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Listens to the monitors of QEMUs that others hold: finds out which sockets are monitors, puts the bytes
// that the probe bpf/probes/qmp_tap copies together to messages, and tells who is at the other end. Sends
// nothing, holds nothing: no client notices. Conversations of this process itself are left out, as far as
// they are on Unix sockets. One thread: the io_context's.

#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "bpf/load/qmp_tap.hpp"
#include "bpf/load/ring.hpp"
#include "core/failure.hpp"
#include "qmp/discovery.hpp"
#include "qmp/proto/conversation.hpp"
#include "tap/peer.hpp"

namespace vmwhy::tap {

/// One connection to one monitor.
struct Wire {
  std::uint32_t pid = 0;   ///< The QEMU.
  std::uint32_t link = 0;  ///< Which of its monitors, from 0; one number for all connections to one address.
  std::uint64_t ino = 0;   ///< QEMU's socket.
  std::string monitor;     ///< Its address; "" where it has no name.
  Peer peer;
};

enum class Change {
  opened,   ///< It is heard from now on.
  closed,   ///< The client closed it, or died.
  ended,    ///< QEMU closed it, or it is no longer listened to.
  blocked,  ///< The client does not read what QEMU has to send.
  flowing,  ///< It reads again, after `waited_ns`.
};

struct Handlers {
  std::function<void(const Wire&, const qmp::proto::Overheard&)> on_message;
  std::function<void(const Wire&, Change, std::uint64_t time_ns, std::uint64_t waited_ns)> on_change;
  /// A program has started that is named like a QEMU. It is listened to already, but nothing is told of it:
  /// watch() or unwatch() it. Only with `follow`.
  std::function<void(std::uint32_t pid)> on_started;
};

struct Options {
  bool follow = false;
  std::size_t ring_bytes = 16u << 20;
  bpf::QmpTapOptions::Form form = bpf::QmpTapOptions::Form::automatic;
};

/// A command that QEMU has received and not answered.
struct Pending {
  const Wire* wire = nullptr;
  std::string command;
  std::uint64_t received_ns = 0;
};

class Tap {
 public:
  /// Errors: with the remedy, what is missing of privileges or the kernel; ENOTSUP within a PID namespace,
  /// whose numbers are not the kernel's.
  static Result<std::unique_ptr<Tap>> open(Options options);
  ~Tap();

  /// No handler may call back into the tap, but for wires(), pending() and drain().
  Result<void> start(boost::asio::io_context& io, Handlers handlers);

  /// Listens to a QEMU; monitors that are connected already are taken from what discovery found.
  Result<void> watch(const qmp::QemuProcess& process);
  void unwatch(std::uint32_t pid);
  bool watches(std::uint32_t pid) const { return processes_.contains(pid); }

  /// Takes what is there now; within a handler nothing.
  void drain();
  /// Housekeeping: forgets sockets that are gone.
  void every_second();

  std::vector<Pending> pending() const;
  std::vector<const Wire*> wires() const;
  const std::string& form() const { return probe_->form(); }
  bool follows() const { return probe_->follows(); }
  bpf::QmpTapLosses losses() const { return probe_->losses(); }
  const bpf::QmpTap& probe() const { return *probe_; }
  /// Bytes that passed on monitors and were not heard as part of a message.
  std::uint64_t lost_bytes() const { return lost_bytes_; }

 private:
  struct Piece {
    qmp_tap_event event;
    std::string bytes;
  };
  struct Process {
    qmp::QemuProcess found;
    /// Sockets that were there before, and of which it is not known whether they are monitors.
    bool may_be_monitors = false;
    std::map<std::string, std::uint32_t> links;  ///< By address.
    std::vector<std::uint64_t> ignored;
    /// It has started, and on_started's receiver has not said yet whether it wants it: what its monitors say
    /// waits.
    bool undecided = false;
    std::vector<Piece> held;
    std::size_t held_bytes = 0;
  };
  struct Connection {
    Wire wire;
    qmp::proto::Conversation talk;
    std::uint64_t expected[2] = {0, 0};  ///< By direction: offset of the next byte.
    std::uint64_t blocked_ns = 0;
    bool peer_known = false;
    /// What was heard so far was not counted by the probe; so many pieces of such sockets were lost when the
    /// hearing began.
    std::optional<std::uint64_t> uncounted;
  };
  /// A socket that is not known to be one.
  struct Candidate {
    std::vector<Piece> pieces;
    std::string in;  ///< The beginning of what QEMU received.
    std::size_t bytes = 0, sends = 0;
    std::uint64_t lost = 0;  ///< Pieces of such sockets that were lost when its first one came.
  };

  explicit Tap(std::unique_ptr<bpf::QmpTap> probe) : probe_(std::move(probe)) {}
  void take(const qmp_tap_event& event, std::string_view bytes);
  std::uint64_t unknown_lost() const { return losses().counters[QMP_TAP_STAT_UNKNOWN_LOST]; }
  void decide(Process& process);
  void take_unregistered(const qmp_tap_event& event, std::string_view bytes);
  void take_unknown(const qmp_tap_event& event, std::string_view bytes);
  void hear(Connection& connection, const qmp_tap_event& event, std::string_view bytes);
  Connection& connect(Process& process, std::uint64_t ino, std::string monitor, bool from_start);
  void know_peer(Connection& connection, std::uint32_t pid, std::uint32_t uid, std::uint64_t time_ns);
  /// Who was connected before, as far as discovery found out.
  void know_holder(Connection& connection, const Process& process);
  void leave_out(std::uint32_t pid, std::uint64_t ino);
  void close(std::uint64_t ino, std::uint64_t time_ns, Change how);
  void ignore(Process& process, std::uint64_t ino);
  /// The address of the monitor that listens there; "" if none does.
  static std::string monitor_bound_to(const Process& process, const std::string& path);
  static std::string monitor_of(const Process& process, std::uint64_t ino);
  void tell(Connection& connection, Change change, std::uint64_t time_ns, std::uint64_t waited_ns = 0);

  std::unique_ptr<bpf::QmpTap> probe_;
  std::unique_ptr<bpf::RingReader> reader_;
  Handlers handlers_;
  std::map<std::uint32_t, Process> processes_;
  std::map<std::uint64_t, Connection> connections_;
  std::map<std::uint64_t, Candidate> candidates_;
  std::uint64_t lost_bytes_ = 0;
  std::uint32_t checked_pid_ = 0;  ///< The last process whose sockets every_second() looked at.
  bool taking_ = false;            ///< Within a handler.
};

}  // namespace vmwhy::tap
