// SPDX-License-Identifier: BSD-2-Clause
#include "tap/tap.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "clock/clock.hpp"
#include "host/process.hpp"
#include "qmp/unix_sockets.hpp"

namespace vmwhy::tap {
namespace {

using qmp::proto::Direction;
using qmp::proto::Overheard;

/// A socket that has not spoken QMP after this is none of ours.
constexpr std::size_t kCandidateSends = 4, kCandidatePieces = 4096, kCandidateBytes = 256u << 10;
/// What is kept of a QEMU that started until it is known whether it is wanted.
constexpr std::size_t kHeldPieces = 65536, kHeldBytes = 8u << 20;
/// Processes whose sockets are looked at each second for those that are gone.
constexpr std::size_t kChecksPerSecond = 16;
/// So many sockets of a process may be remembered as no monitors before those that are gone are forgotten.
constexpr std::size_t kIgnoredLimit = 512;

Direction direction_of(const qmp_tap_event& event) {
  return event.direction == QMP_TAP_IN ? Direction::in : Direction::out;
}

bool is_greeting(std::string_view bytes) {
  // Pretty-printed it has line ends and blanks before its first member.
  return qmp::proto::begins_like_qmp(bytes) && bytes.substr(0, 16).find("\"QMP\"") != std::string_view::npos;
}

/// The guest agent is spoken to in the same way.
bool is_agent(std::string_view bytes) {
  const std::string_view head = bytes.substr(0, 256);
  return head.find("\"guest-") != std::string_view::npos || head.find("'guest-") != std::string_view::npos;
}

}  // namespace

Result<std::unique_ptr<Tap>> Tap::open(Options options) {
  if (!host::in_first_pid_namespace())
    return system_failure(ENOTSUP, "process ids of this PID namespace are not the kernel's",
                          "run on the host, outside of the container, or in a pod with hostPID");
  bpf::QmpTapOptions want;
  want.form = options.form;
  want.follow = options.follow;
  want.ring_bytes = options.ring_bytes;
  auto probe = bpf::QmpTap::open(bpf::look_around(), want);
  if (!probe) return Failure{probe.error().code, probe.error().context, probe.error().remedy};
  return std::unique_ptr<Tap>(new Tap(std::move(*probe)));
}

Tap::~Tap() = default;

Result<void> Tap::start(boost::asio::io_context& io, Handlers handlers) {
  handlers_ = std::move(handlers);
  auto reader = bpf::RingReader::create(probe_->ring_fd(), [this](const void* data, std::size_t bytes) {
    qmp_tap_event event{};
    if (bytes < sizeof event) return;
    std::memcpy(&event, data, sizeof event);
    const bool has_data = event.what == QMP_TAP_DATA;
    const std::size_t most = bytes - sizeof event;
    taking_ = true;
    take(event, {static_cast<const char*>(data) + sizeof event,
                 has_data ? std::min<std::size_t>(event.bytes, most) : 0});
    taking_ = false;
  });
  if (!reader) return Failure{reader.error().code, reader.error().context, reader.error().remedy};
  reader_ = std::move(*reader);
  reader_->start(io);
  return {};
}

void Tap::drain() {
  if (reader_ && !taking_) reader_->drain();
}

Result<void> Tap::watch(const qmp::QemuProcess& process) {
  const bool fresh = !processes_.contains(process.pid);
  Process& entry = processes_[process.pid];
  entry.found = process;
  if (fresh) {
    // What is connected already is decided on before the first byte is copied.
    const bool tcp = std::any_of(process.monitors.begin(), process.monitors.end(),
                                 [](const auto& monitor) { return monitor.address.starts_with("tcp:"); });
    entry.may_be_monitors = process.unreadable || process.monitors.empty() || tcp;
    const auto paths = qmp::bound_paths(process.pid);
    for (const std::uint32_t ino : qmp::sockets_of(process.pid)) {
      const auto bound = paths.find(ino);
      const std::string address = bound == paths.end() ? "" : monitor_bound_to(entry, bound->second);
      if (!address.empty())
        know_holder(connect(entry, ino, address, false), entry);
      else if (!entry.may_be_monitors)
        ignore(entry, ino);
    }
  }
  if (auto done = probe_->watch(process.pid); !done)
    return Failure{done.error().code, done.error().context, done.error().remedy};
  decide(entry);
  return {};
}

void Tap::decide(Process& process) {
  if (!std::exchange(process.undecided, false)) return;
  const std::vector<Piece> held = std::exchange(process.held, {});
  taking_ = true;
  for (const Piece& piece : held) take(piece.event, piece.bytes);
  taking_ = false;
}

void Tap::unwatch(std::uint32_t pid) {
  const auto found = processes_.find(pid);
  if (found == processes_.end()) return;
  probe_->unwatch(pid);
  drain();
  std::vector<std::uint64_t> open;
  for (const auto& [ino, connection] : connections_)
    if (connection.wire.pid == pid) open.push_back(ino);
  for (const std::uint64_t ino : open) close(ino, clock::now_ns(), Change::ended);
  for (const std::uint64_t ino : found->second.ignored) probe_->forget_socket(ino);
  for (const Piece& piece : found->second.held) probe_->forget_socket(piece.event.ino);
  std::erase_if(candidates_,
                [pid](const auto& entry) { return entry.second.pieces.front().event.tgid == pid; });
  processes_.erase(found);
}

void Tap::ignore(Process& process, std::uint64_t ino) {
  if (process.ignored.size() >= kIgnoredLimit) {
    const auto alive = qmp::sockets_of(process.found.pid);
    std::erase_if(process.ignored, [&](std::uint64_t old) {
      if (alive.contains(static_cast<std::uint32_t>(old))) return false;
      probe_->forget_socket(old);
      return true;
    });
  }
  if (probe_->set_socket(ino, QMP_TAP_IGNORE)) process.ignored.push_back(ino);
}

Tap::Connection& Tap::connect(Process& process, std::uint64_t ino, std::string monitor, bool from_start) {
  Connection connection{{}, qmp::proto::Conversation(from_start), {0, 0}, 0, false, {}};
  connection.wire.pid = process.found.pid;
  connection.wire.ino = ino;
  const auto next = static_cast<std::uint32_t>(process.links.size());
  connection.wire.link = process.links.try_emplace(monitor, next).first->second;
  connection.wire.monitor = std::move(monitor);
  (void)probe_->set_socket(ino, QMP_TAP_MONITOR);
  return connections_.insert_or_assign(ino, std::move(connection)).first->second;
}

std::string Tap::monitor_bound_to(const Process& process, const std::string& path) {
  for (const qmp::MonitorSocket& monitor : process.found.monitors)
    if (monitor.address == path || monitor.address.ends_with("/" + path)) return monitor.address;
  return {};
}

std::string Tap::monitor_of(const Process& process, std::uint64_t ino) {
  const auto paths = qmp::bound_paths(process.found.pid);
  const auto bound = paths.find(static_cast<std::uint32_t>(ino));
  if (bound == paths.end()) return {};
  const std::string known = monitor_bound_to(process, bound->second);
  return known.empty() ? bound->second : known;
}

void Tap::take(const qmp_tap_event& event, std::string_view bytes) {
  if (event.what == QMP_TAP_EXEC) {
    if (processes_.contains(event.tgid) || !handlers_.on_started) return;
    Process& process = processes_[event.tgid];
    process.found.pid = event.tgid;  // The probe watches it already.
    process.undecided = true;
    handlers_.on_started(event.tgid);
    return;
  }
  const auto of = processes_.find(event.tgid);
  if (of == processes_.end()) return;
  if (Process& process = of->second; process.undecided) {
    // Monitors that begin are registered by the probe; what does not fit is missed by its count.
    const bool fits = process.held.size() < kHeldPieces && process.held_bytes + bytes.size() <= kHeldBytes;
    if ((event.flags & QMP_TAP_KNOWN) == 0 || !fits) return;
    process.held_bytes += bytes.size();
    process.held.push_back({event, std::string(bytes)});
    return;
  }
  if (event.peer_pid == static_cast<std::uint32_t>(::getpid())) return leave_out(event.tgid, event.ino);
  const auto found = connections_.find(event.ino);
  if (found == connections_.end())
    return (event.flags & QMP_TAP_KNOWN) != 0 ? take_unregistered(event, bytes) : take_unknown(event, bytes);
  if (event.what == QMP_TAP_CLOSED) {
    know_peer(found->second, event.peer_pid, event.peer_uid, event.time_ns);
    return close(event.ino, event.time_ns, Change::closed);
  }
  hear(found->second, event, bytes);
}

/// The probe has heard its greeting; or it was closed, or is ignored, meanwhile. It counts from the greeting
/// on, so that what is lost of it shows.
void Tap::take_unregistered(const qmp_tap_event& event, std::string_view bytes) {
  if (!probe_->is_monitor(event.ino)) return;
  if (event.what == QMP_TAP_CLOSED) return probe_->forget_socket(event.ino);
  Process& process = processes_[event.tgid];
  candidates_.erase(event.ino);
  hear(connect(process, event.ino, monitor_of(process, event.ino), true), event, bytes);
}

void Tap::take_unknown(const qmp_tap_event& event, std::string_view bytes) {
  Process& process = processes_[event.tgid];
  const auto [entry, fresh] = candidates_.try_emplace(event.ino);
  Candidate& candidate = entry->second;
  if (fresh) candidate.lost = unknown_lost();
  candidate.pieces.push_back({event, std::string(bytes)});
  candidate.bytes += bytes.size();
  if (event.direction == QMP_TAP_OUT) ++candidate.sends;
  if (event.direction == QMP_TAP_IN && candidate.in.size() < 256) candidate.in += bytes.substr(0, 256);
  const bool greeted = event.direction == QMP_TAP_OUT && is_greeting(bytes);
  const bool speaks = process.may_be_monitors && event.direction == QMP_TAP_OUT &&
                      qmp::proto::begins_like_qmp(bytes) && !is_agent(candidate.in);
  if (greeted || speaks) {
    const Candidate heard = std::move(candidate);
    candidates_.erase(entry);
    Connection& connection = connect(process, event.ino, monitor_of(process, event.ino), greeted);
    connection.uncounted = unknown_lost();
    // Where pieces are missing, nobody knows between which.
    const bool whole = heard.lost == *connection.uncounted;
    for (const Piece& piece : heard.pieces)
      if (whole || &piece == &heard.pieces.back()) hear(connection, piece.event, piece.bytes);
  } else if (candidate.sends >= kCandidateSends || candidate.pieces.size() >= kCandidatePieces ||
             candidate.bytes > kCandidateBytes) {
    candidates_.erase(event.ino);
    ignore(process, event.ino);
  }
}

void Tap::know_peer(Connection& connection, std::uint32_t pid, std::uint32_t uid, std::uint64_t time_ns) {
  if (std::exchange(connection.peer_known, true)) return;
  connection.wire.peer = look_at_peer(pid, uid);
  tell(connection, Change::opened, time_ns);
}

void Tap::know_holder(Connection& connection, const Process& process) {
  for (const qmp::MonitorSocket& monitor : process.found.monitors) {
    if (monitor.address != connection.wire.monitor || monitor.held_by_pid == 0) continue;
    if (monitor.held_by_pid == static_cast<std::uint32_t>(::getpid())) continue;
    struct stat fact {};
    if (::stat(("/proc/" + std::to_string(monitor.held_by_pid)).c_str(), &fact) != 0) continue;
    return know_peer(connection, monitor.held_by_pid, fact.st_uid, clock::now_ns());
  }
}

void Tap::leave_out(std::uint32_t pid, std::uint64_t ino) {
  connections_.erase(ino);
  candidates_.erase(ino);
  ignore(processes_[pid], ino);
}

void Tap::tell(Connection& connection, Change change, std::uint64_t time_ns, std::uint64_t waited_ns) {
  if (handlers_.on_change) handlers_.on_change(connection.wire, change, time_ns, waited_ns);
}

void Tap::hear(Connection& connection, const qmp_tap_event& event, std::string_view bytes) {
  know_peer(connection, event.peer_pid, event.peer_uid, event.time_ns);
  const Direction direction = direction_of(event);
  const auto sink = [&](const Overheard& message) {
    lost_bytes_ += message.lost_bytes;
    if (handlers_.on_message) handlers_.on_message(connection.wire, message);
  };
  if ((event.flags & QMP_TAP_KNOWN) != 0) {
    if (connection.uncounted && std::exchange(connection.uncounted, {}) != unknown_lost())
      for (const Direction each : {Direction::in, Direction::out})
        connection.talk.miss(each, 0, event.time_ns, sink);
    std::uint64_t& expected = connection.expected[event.direction & 1];
    if (event.offset > expected)
      connection.talk.miss(direction, event.offset - expected, event.time_ns, sink);
    expected = event.offset + event.bytes;
  }
  switch (event.what) {
    case QMP_TAP_SKIPPED:
      return connection.talk.miss(direction, event.bytes, event.time_ns, sink);
    case QMP_TAP_BLOCKED:
      if (connection.blocked_ns != 0) return;
      connection.blocked_ns = event.time_ns;
      return tell(connection, Change::blocked, event.time_ns);
    case QMP_TAP_DATA:
      break;
    default:
      return;
  }
  if (connection.blocked_ns != 0 && direction == Direction::out) {
    const std::uint64_t waited =
        event.time_ns - std::min<std::uint64_t>(event.time_ns, connection.blocked_ns);
    connection.blocked_ns = 0;
    tell(connection, Change::flowing, event.time_ns, waited);
  }
  connection.talk.feed(direction, bytes, event.time_ns, sink);
  if (event.missing != 0) connection.talk.miss(direction, event.missing, event.time_ns, sink);
}

void Tap::close(std::uint64_t ino, std::uint64_t time_ns, Change how) {
  const auto found = connections_.find(ino);
  if (found == connections_.end()) return;
  Connection connection = std::move(found->second);
  connections_.erase(found);
  probe_->forget_socket(ino);
  if (connection.peer_known) tell(connection, how, time_ns);
}

// QEMU closes a monitor without a word when it ends it from its side.
void Tap::every_second() {
  drain();
  std::map<std::uint32_t, std::set<std::uint32_t>> alive;
  std::vector<std::uint64_t> gone;
  // In turns: the sockets of hundreds of VMs take long to list.
  auto next = processes_.upper_bound(checked_pid_);
  for (std::size_t i = 0; i < std::min(processes_.size(), kChecksPerSecond); ++i, ++next) {
    if (next == processes_.end()) next = processes_.begin();
    checked_pid_ = next->first;
    const bool connected = std::any_of(connections_.begin(), connections_.end(), [&](const auto& entry) {
      return entry.second.wire.pid == next->first;
    });
    if (connected) alive[next->first] = qmp::sockets_of(next->first);
  }
  for (const auto& [ino, connection] : connections_) {
    const auto sockets = alive.find(connection.wire.pid);
    if (sockets != alive.end() && !sockets->second.contains(static_cast<std::uint32_t>(ino)))
      gone.push_back(ino);
  }
  for (const std::uint64_t ino : gone) close(ino, clock::now_ns(), Change::ended);
}

std::vector<Pending> Tap::pending() const {
  std::vector<Pending> out;
  for (const auto& [ino, connection] : connections_)
    for (const qmp::proto::Unanswered& command : connection.talk.unanswered())
      out.push_back({&connection.wire, command.command, command.received_ns});
  return out;
}

std::vector<const Wire*> Tap::wires() const {
  std::vector<const Wire*> out;
  for (const auto& [ino, connection] : connections_) out.push_back(&connection.wire);
  return out;
}

}  // namespace vmwhy::tap
