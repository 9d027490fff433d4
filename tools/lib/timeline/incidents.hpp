// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Opens and closes incidents as facts come in. It judges nothing, and it knows no clock but the records'.
//
// Two rules keep it honest. The first run state counts: QEMU keeps only its latest, so io-error may be hidden
// by a later reset. And a reply counts only for what happened before it: a query-status sent before a STOP
// proves nothing of the time after it, and a reply to `cont` proves nothing at all.

#include <deque>
#include <map>
#include <set>
#include <vector>

#include "timeline/incident.hpp"
#include "timeline/qmp_track.hpp"
#include "timeline/tracks.hpp"

namespace vmwhy::timeline {

struct IncidentChange {
  enum class What { opened, collected, closed };
  What what;
  std::uint64_t incident;
  std::uint32_t vm;
};

class Incidents {
 public:
  // Facts, in the order in which they were recorded; `now_ns` is the record's time.
  void on_qmp(VmTracks& vm, const QmpFact& fact, std::uint64_t now_ns);
  void on_link(const VmTracks& vm, const LinkChange& change);
  void on_peer(const VmTracks& vm, const Peer& peer);
  void on_vm_seen(const VmTracks& vm, std::uint64_t now_ns);
  void on_process(const VmTracks& vm, const Process& process);
  void on_thread(const VmTracks& vm, const Thread& thread);
  void on_cgroup(const VmTracks& vm, const Cgroup& cgroup);
  void on_end(VmTracks& vm);
  void on_kvm_failure(const VmTracks& vm, const KvmFailure& fact);
  void on_kvm_exits(const VmTracks& vm, const KvmExits& fact);
  void on_request(const VmTracks& vm, const IoRequest& request);
  void on_io_stats(const VmTracks& vm, const IoStats& stats);
  void on_storage_link(const VmTracks& vm, const StorageLink& link);
  void on_thread_stall(const VmTracks& vm, const ThreadStall& fact);
  void on_call(VmTracks& vm, const QemuCall& call, std::uint64_t now_ns);
  void on_host_suspended(const std::map<std::uint32_t, VmTracks>& vms, const Suspend& suspend);
  void on_collected(std::uint32_t vm, std::uint64_t began_ns, std::uint64_t now_ns, std::uint32_t overdue,
                    std::string_view unfinished);

  /// Closes what nothing closes but time.
  void tick(const std::map<std::uint32_t, VmTracks>& vms, std::uint64_t now_ns);

  std::vector<IncidentChange> take_changes();
  const Incident* find(std::uint64_t id) const;
  const std::map<std::uint64_t, Incident>& all() const { return incidents_; }
  /// Forgets an incident whose verdict has been kept elsewhere. Not for open ones.
  void forget(std::uint64_t id);

 private:
  /// A stop that QEMU's function told of, and no event yet.
  struct UnheardStop {
    std::uint64_t begin_ns = 0;
    std::uint64_t end_ns = 0;  ///< 0: it lasts.
    std::string run_state, ended_by;
  };
  /// What is remembered of a VM between facts.
  struct State {
    std::uint64_t last_transition_ns = 0;  ///< QEMU's time of the latest STOP, RESUME, SUSPEND or WAKEUP.
    std::uint64_t last_resume_ns = 0;
    std::uint64_t last_running_ns = 0;  ///< When the latest query-status that said running had been sent.
    bool status_seen = false;
    std::deque<std::uint64_t> error_pauses;  ///< Begins of recent pauses that I/O errors made.
    std::deque<UnheardStop> unheard;         ///< Stops whose events may still come.
    std::uint64_t folded_stop_ns = 0;        ///< Paused now, as part of an open loop; 0: not.
    std::uint64_t reset_ns = 0;              ///< The first event of the last reset.
    std::deque<std::uint64_t> resets;
    std::map<std::uint32_t, std::uint64_t> overdue;  ///< By link: when the overdue command was sent.
    std::map<std::uint32_t, Thread> in_d;            ///< Latest sample of each thread in D.
    std::set<std::uint32_t> hung;
    std::uint64_t hung_seen_ns = 0;
    std::uint64_t stopped_seen_ns = 0;  ///< Latest sample that showed it stopped or frozen.
    std::map<std::uint32_t, Topic>
        stalling;                       ///< By thread: stalls that had not ended when they were told of.
    std::uint64_t threads_stopped = 0;  ///< The last incident that threads which were stopped belong to.
    std::uint64_t closed_ns = 0;        ///< A monitor closed, and what that means is not known yet.
    std::uint32_t holder_pid = 0;
    std::deque<std::pair<std::uint64_t, std::uint64_t>> slow;  ///< Begin and end of recent slow requests.
    /// By node and operation: since when, and until when, the guest's requests have been slow.
    std::map<std::pair<std::string, std::uint32_t>, std::pair<std::uint64_t, std::uint64_t>> guest_slow;
    std::set<std::pair<std::string, std::uint32_t>> silent;  ///< Servers, by address and socket.
    std::map<std::uint32_t, std::uint64_t> peers;            ///< By link: since when it is connected.
    std::map<std::uint32_t, std::uint64_t> blocked;          ///< By link: since when it does not read.
    std::uint64_t client_gone_ns = 0;  ///< A client closed its monitor, and what that means is not known yet.
  };

  Incident* open_of(std::uint32_t vm, Topic topic);
  Incident& open(std::uint32_t vm, Topic topic, Kind kind, std::string trigger, std::uint64_t begin_ns,
                 std::uint64_t now_ns);
  void close(Incident& incident, std::uint64_t end_ns, std::string ended_by, bool silent = false);

  void on_event(VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns);
  void on_status(VmTracks& vm, const Status& status);
  void on_reply(const VmTracks& vm, const QmpFact& fact, std::uint64_t now_ns);
  void on_stop(VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns);
  void on_resume(VmTracks& vm, const QmpEvent& event);
  void on_suspend(VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns);
  void on_reset(const VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns);
  void on_guest_event(const VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns);
  void on_thread_stopped(const VmTracks& vm, const ThreadStall& fact);
  void on_migration_event(const VmTracks& vm, const QmpEvent& event, std::uint64_t now_ns);
  void fold(std::uint32_t vm, Topic topic, const QmpEvent& event, std::uint64_t now_ns);
  void fold(std::uint32_t vm, Topic topic, const std::string& trigger, std::uint64_t time_ns,
            std::uint64_t now_ns);
  void on_migration(const VmTracks& vm, const Migration& migration, std::uint64_t now_ns);
  void open_postcopy(std::uint32_t vm, std::string trigger, std::uint64_t begin_ns, std::uint64_t now_ns);
  void open_pause_loop(const VmTracks& vm, State& state, std::uint64_t stop_ns, std::uint64_t now_ns);

  /// The run state that QEMU had set when it stopped; "" where that was not seen.
  static std::string state_set_at(const VmTracks& vm, std::uint64_t stop_ns);
  /// QEMU's event of a stop that its own function has told of already.
  static bool is_same_stop(const Incident& pause, std::uint64_t stop_ns);
  /// Whether the VM ran until QEMU's function set the state of `call`.
  static bool ran_before(const VmTracks& vm, const State& state, const QemuCall& call);
  void on_running(const VmTracks& vm, State& state, const QemuCall& call, bool heard);
  /// An event told of it after all.
  static void forget_unheard(State& state, std::uint64_t stop_ns);
  static void end_unheard(State& state, std::uint64_t end_ns, const char* ended_by);
  /// Opens those that began before `before_ns`: whoever is connected hears no events.
  void settle_unheard(const VmTracks& vm, State& state, std::uint64_t before_ns, std::uint64_t now_ns);

  void on_client_back(const VmTracks& vm, std::uint64_t time_ns);
  void set_stall(std::uint32_t vm, StallReason reason, std::string trigger, std::uint64_t begin_ns,
                 std::uint64_t now_ns);
  void clear_stall(std::uint32_t vm, unsigned reasons, std::uint64_t end_ns, const char* ended_by);
  void tick_vm(const VmTracks& vm, State& state, std::uint64_t now_ns);

  std::map<std::uint64_t, Incident> incidents_;
  std::map<std::pair<std::uint32_t, Topic>, std::uint64_t> open_;
  std::map<std::uint32_t, State> states_;
  std::set<std::uint32_t> ticking_;  ///< VMs of which time alone may close something.
  std::vector<IncidentChange> changes_;
  std::uint64_t next_id_ = 1;
  std::size_t host_suspends_ = 0;
};

}  // namespace vmwhy::timeline
