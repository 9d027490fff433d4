// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// Traces as text: one line per record, times in seconds from the trace's begin, defaults for the rest. Used
// by the golden cases and by unit tests of the timeline.
//
//   TIME TYPE [WORD…] [key=value…] [{JSON}] [-- text to the end of the line, \n and \t as escapes]
//
//   event NAME {data}        stamp=SECONDS (QEMU's own time; default: the line's), stamp=none, link=N
//   status STATE             a reply to query-status; sent=SECONDS, running=yes
//   reply COMMAND {return}   sent=SECONDS, link=N       error COMMAND -- description
//   command NAME {arguments} id=, link=N (32 and more: another client's)   withheld COMMAND -- reason
//   peer STATE               another client: connected, closed, blocked, flowing, ended; pid= comm= args=
//   parents=
//                            monitor= link=N           gap  bytes= link=N
//   call FUNCTION            one of QEMU's own; arg0= … arg3= tid= names=a;b callers=a;b -- arguments' words
//   owner NAME               -- what it says of the VM's state
//   link STATE               waited=SECONDS address= detail= link=N
//   file                     node= path= mount= fs= source= size= free= avail= inodes= inodes_free=
//                            block=MAJ:MIN path_block=MAJ:MIN bytes= fd= flags=a,b (deleted, path-missing,
//                            path-differs, sys-missing, unreachable, read-only, no-fd) waited=SECONDS
//   process LETTER           tracer=PID tracer_comm=   thread LETTER  tid= role= vcpu= wchan= stack= file=
//   cpu=
//                            switches=                 cgroup STATE   path= cpu= memory= (its paths in those
//                            hierarchies) version= used= max= quota= period= throttled= (µs) periods=
//   io failed|short|slow|under_way  op= call= fd= ino= block=MAJ:MIN offset= length= errno=NAME done=BYTES
//                            took=SECONDS tid= path=
//   io_stats guest|syscall|block  window=SECONDS count= mean=SECONDS max=SECONDS oldest=SECONDS in_flight=
//                            op= bytes= node= disk= path=
//   storage_link connected|gone|absent  silent=SECONDS unread=BYTES unacked=BYTES in_flight= unix=PATH (else
//                            TCP: address= window=0 retransmits= probes= retransmitted= rtt=US) pid= letter=
//                            server= node= driver=
//   block_failure            disk= op= sector= length= errno=NAME status= block=MAJ:MIN
//   kmsg -- line             log path= -- text          sensor NAME STATE detail= remedy=
//   seen {discovery}         pid=                       end HOW STATUS core=yes -- how it was learned
//   collected                began=SECONDS overdue=N -- unfinished
//   clock                    realtime=SECONDS (offset against the trace's begin)  suspended=SECONDS (in all
//   so far) throttle                 cpu=N core=EVENTS package=EVENTS ms= window=SECONDS kvm-failure
//   internal-error|fail-entry  detail= last= vcpu= -- text kvm-exits kvm|userspace|pio|mmio  code= count=
//   total=SECONDS qemu=SECONDS window=SECONDS vcpu= halt=yes stall main|vcpu|iothread|other  length=SECONDS
//   state=NAME also=NAME:SECONDS (of the rest) tid= vcpu= cpu=
//                            ongoing=yes call= path= wchan= culprit=COMM:PID:SECONDS,… user=FUNCTION,…
//                            owner=TID
//                            -- stack, by spaces
//   signal NUMBER|victim     sender=COMM:PID uid= code=
//   -- reason loss COUNT source=       watch begin|end
//
// vm=N names another VM than 1. Unless the first line is `bare`, a script begins with a clock snapshot, the
// begin of the watch, working sensors and VM 1 ("web1", pid 4242, monitor /run/web1.qmp) with a ready
// monitor. `meta {JSON}` lines become meta.

#include <boost/json/object.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "trace/record.hpp"

namespace vmwhy::test {

/// Second 0 of a script.
constexpr std::uint64_t kScriptBoottimeNs = 1'000'000'000'000;
constexpr std::int64_t kScriptRealtimeNs = 1'795'393'994'000'000'000;

struct ScriptedTrace {
  boost::json::object meta;
  std::vector<trace::OwnedRecord> records;
  std::string error;  ///< "line N: …"; empty if the script was understood.
};

ScriptedTrace parse_trace_script(std::string_view script);

/// The same as the bytes of a .vmt file, written through trace::Writer; "" if that failed.
std::string write_trace(const ScriptedTrace& trace, const std::string& path);

}  // namespace vmwhy::test
