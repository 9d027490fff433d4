// SPDX-License-Identifier: BSD-2-Clause
#include "trace/schema.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <string>

#include "trace/link_records.hpp"
#include "trace/tap_records.hpp"
#include "trace/thread_records.hpp"

namespace vmwhy::trace {
namespace {

// Offset and width come from the struct itself, so that they cannot be wrong here.
#define FIELD(field, kind, unit, meaning)                                   \
  FieldInfo {                                                               \
#field, static_cast < std::uint16_t>(offsetof(S, field)),               \
        static_cast < std::uint16_t>(sizeof(S::field)), kind, unit, meaning \
  }

template <class T>
struct Fields;

#define FIELDS(Struct, ...)                               \
  template <>                                             \
  struct Fields<Struct> {                                 \
    using S = Struct;                                     \
    static constexpr FieldInfo kFields[] = {__VA_ARGS__}; \
  };

FIELDS(ClockSnapshot,                                                             //
       FIELD(boottime_ns, 'u', "ns", "CLOCK_BOOTTIME"),                           //
       FIELD(monotonic_ns, 'u', "ns", "CLOCK_MONOTONIC"),                         //
       FIELD(realtime_ns, 'i', "ns", "CLOCK_REALTIME, since the epoch"),          //
       FIELD(width_ns, 'u', "ns", "how long the reading took: its uncertainty"),  //
       FIELD(reason, 'u', "", "0 start, 1 tick, 2 step of REALTIME, 3 end"))

FIELDS(Loss,                                                                         //
       FIELD(lost, 'u', "records", "records that were lost"),                        //
       FIELD(first_ns, 'u', "ns", "beginning of the time in which they were lost"),  //
       FIELD(last_ns, 'u', "ns", "end of that time"))

FIELDS(Sensor,                                                     //
       FIELD(state, 'u', "", "0 off, 1 on, 2 failed, 3 partial"),  //
       FIELD(error, 'i', "", "errno, or 0"))

FIELDS(Watch,                                    //
       FIELD(event, 'u', "", "1 begin, 2 end"),  //
       FIELD(reserved, 'u', "", "0"))

FIELDS(VmSeen,                                           //
       FIELD(pid, 'u', "", "process id; 0: not known"),  //
       FIELD(reserved, 'u', "", "0"),                    //
       FIELD(start_ns, 'u', "ns", "when the process started; 0: not known"))

FIELDS(VmEnd,                                                             //
       FIELD(pid, 'u', "", "process id"),                                 //
       FIELD(how, 'u', "", "0 unknown, 1 exited, 2 killed by a signal"),  //
       FIELD(status, 'i', "", "exit status, or signal number"),           //
       FIELD(core_dumped, 'u', "", "1: a core was dumped"))

FIELDS(QmpMessage,                                                                               //
       FIELD(sent_ns, 'u', "ns", "replies: when the command had been sent; otherwise 0"),        //
       FIELD(wall_us, 'i', "us", "events: QEMU's own CLOCK_REALTIME stamp; -1: none"),           //
       FIELD(kind, 'u', "", "1 greeting, 2 event, 3 command, 4 return, 5 error, 6 unparsable"),  //
       FIELD(link, 'u', "", "which of the VM's monitors, from 0"),                               //
       FIELD(cut_bytes, 'u', "bytes", "bytes of a long message that are not in the text"),       //
       FIELD(reserved, 'u', "", "0"))

FIELDS(QmpLink,                                             //
       FIELD(waited_ns, 'u', "ns", "how long was waited"),  //
       FIELD(state, 'u', "",
             "1 ready, 2 refused, 3 connect timeout, 4 greeting missing, 5 negotiation timeout, "
             "6 reply overdue, 7 reply late, 8 closed, 9 not QMP"),  //
       FIELD(error, 'i', "", "errno, or 0"),                         //
       FIELD(link, 'u', "", "which of the VM's monitors, from 0"),   //
       FIELD(reserved, 'u', "", "0"))

FIELDS(QmpWithheld,                                                 //
       FIELD(link, 'u', "", "which of the VM's monitors, from 0"),  //
       FIELD(reserved, 'u', "", "0"))

FIELDS(ProcessState,                                                                //
       FIELD(pid, 'u', "", "process id"),                                           //
       FIELD(state, 'c', "", "letter of /proc/PID/stat; 0: the process is gone"),   //
       FIELD(tracer_pid, 'u', "", "who traces it; 0: nobody"),                      //
       FIELD(threads, 'u', "", "number of threads"),                                //
       FIELD(pending, 'u', "", "SigPnd of the main thread, bit N-1 for signal N"),  //
       FIELD(shared_pending, 'u', "", "ShdPnd, bit N-1 for signal N"),              //
       FIELD(rss_bytes, 'u', "bytes", "resident set"),                              //
       FIELD(cpu_ns, 'u', "ns", "user and system time of all threads"),             //
       FIELD(tracer_comm, 's', "", "the tracer's command name"))

FIELDS(ThreadState,                                                                           //
       FIELD(pid, 'u', "", "process id"),                                                     //
       FIELD(tid, 'u', "", "thread id"),                                                      //
       FIELD(state, 'c', "", "letter of /proc/PID/task/TID/stat"),                            //
       FIELD(role, 'u', "", "0 other, 1 main, 2 vCPU, 3 iothread"),                           //
       FIELD(vcpu, 'i', "", "vCPU: its index; otherwise -1"),                                 //
       FIELD(syscall, 'i', "", "system call number; -1: none or running; -2: not readable"),  //
       FIELD(cpu_ns, 'u', "ns", "user and system time"),                                      //
       FIELD(run_delay_ns, 'u', "ns", "time it was runnable but did not run"),                //
       FIELD(switches, 'u', "", "voluntary and involuntary context switches"))

FIELDS(NodeFile,                                                                                 //
       FIELD(dev, 'u', "", "st_dev of QEMU's descriptor"),                                       //
       FIELD(ino, 'u', "", "st_ino"),                                                            //
       FIELD(rdev, 'u', "", "st_rdev of a device, else 0"),                                      //
       FIELD(path_rdev, 'u', "", "st_rdev, or st_dev of a file, of what the path names now"),    //
       FIELD(size_bytes, 'u', "bytes", "size of the file, or of the device by /sys/dev/block"),  //
       FIELD(allocated_bytes, 'u', "bytes", "st_blocks * 512"),                                  //
       FIELD(fs_size_bytes, 'u', "bytes", "file system: size"),                                  //
       FIELD(fs_free_bytes, 'u', "bytes", "file system: free"),                                  //
       FIELD(fs_avail_bytes, 'u', "bytes", "file system: free for an unprivileged user"),        //
       FIELD(fs_files, 'u', "", "file system: inodes; 0: it does not count them"),               //
       FIELD(fs_files_free, 'u', "", "file system: free inodes"),                                //
       FIELD(waited_ns, 'u', "ns", "how long the answer took"),                                  //
       FIELD(mode, 'u', "", "st_mode"),                                                          //
       FIELD(flags, 'u', "",
             "bits: 0 deleted, 1 path missing, 2 path differs, 3 not in /sys/dev/block, 4 unreachable, "
             "5 stat failed, 6 read-only file system, 7 no descriptor: the path's facts"),  //
       FIELD(fd, 'u', "", "QEMU's descriptor"),                                             //
       FIELD(error, 'i', "", "errno where bit 5 is set"),                                   //
       FIELD(fs_magic, 'u', "", "statfs f_type"),                                           //
       FIELD(owner_uid, 'u', "", "st_uid"))

FIELDS(Pressure,                                                                    //
       FIELD(cpu_some_us, 'u', "us", "total time some task waited for a CPU"),      //
       FIELD(memory_some_us, 'u', "us", "total time some task waited for memory"),  //
       FIELD(memory_full_us, 'u', "us", "total time all tasks waited for memory"),  //
       FIELD(io_some_us, 'u', "us", "total time some task waited for I/O"),         //
       FIELD(io_full_us, 'u', "us", "total time all tasks waited for I/O"),         //
       FIELD(cpu_some_avg10, 'u', "0.01%", "share of the last ten seconds"),        //
       FIELD(memory_some_avg10, 'u', "0.01%", "share of the last ten seconds"),     //
       FIELD(memory_full_avg10, 'u', "0.01%", "share of the last ten seconds"),     //
       FIELD(io_some_avg10, 'u', "0.01%", "share of the last ten seconds"),         //
       FIELD(io_full_avg10, 'u', "0.01%", "share of the last ten seconds"),         //
       FIELD(reserved, 'u', "", "0"))

FIELDS(CgroupState,                                                                //
       FIELD(memory_current_bytes, 'u', "bytes", "memory charged to the cgroup"),  //
       FIELD(memory_max_bytes, 'u', "bytes", "its limit; 2^64-1: none"),           //
       FIELD(oom_kills, 'u', "", "oom_kill of memory.events"),                     //
       FIELD(throttled_us, 'u', "us", "throttled_usec of cpu.stat"),               //
       FIELD(throttled_periods, 'u', "", "nr_throttled of cpu.stat"),              //
       FIELD(quota_us, 'i', "us", "CPU quota per period; -1: none"),               //
       FIELD(period_us, 'u', "us", "the period"),                                  //
       FIELD(freezer, 'u', "", "0 unknown, 1 thawed, 2 freezing, 3 frozen"),       //
       FIELD(version, 'u', "", "cgroup version, 1 or 2"))

FIELDS(KernelLog,                                                   //
       FIELD(sequence, 'u', "", "the line's number in /dev/kmsg"),  //
       FIELD(priority, 'u', "", "syslog severity, 0 to 7"),         //
       FIELD(reserved, 'u', "", "0"))

FIELDS(LogTail,                                                           //
       FIELD(offset, 'u', "bytes", "where the text begins in the file"),  //
       FIELD(pid, 'u', "", "the process whose stderr it is"),             //
       FIELD(reserved, 'u', "", "0"))

FIELDS(Collected,                                                    //
       FIELD(began_ns, 'u', "ns", "when the collection began"),      //
       FIELD(overdue, 'u', "", "steps that missed their deadline"),  //
       FIELD(reserved, 'u', "", "0"))

FIELDS(KvmExit,  //
       FIELD(duration_ns, 'u', "ns", "from the exit to the next entry"),
       FIELD(qemu_ns, 'u', "ns", "the part of it that was spent in QEMU"),
       FIELD(address, 'u', "", "port or guest physical address touched; all ones: none"),
       FIELD(code, 'u', "", "exit reason of the hardware"),
       FIELD(user_code, 'i', "", "KVM_EXIT_* or minus errno; -0x7fffffff: it did not go to QEMU"),
       FIELD(tid, 'u', "", "the vCPU's thread"), FIELD(vcpu, 'i', "", "KVM's vCPU id; -1: not known"),
       FIELD(isa, 'u', "", "1 VMX, 2 SVM, 3 arm64, 4 PVM"), FIELD(reserved, 'u', "", "0"))

FIELDS(KvmFailure,  //
       FIELD(detail, 'u', "", "suberror, or the hardware's reason; all ones: could not be read"),
       FIELD(last_code, 'u', "", "reason of the vCPU's last exit"),
       FIELD(user_code, 'i', "", "17 internal error, 9 failed entry"),
       FIELD(tid, 'u', "", "the vCPU's thread"), FIELD(vcpu, 'i', "", "KVM's vCPU id; -1: not known"),
       FIELD(isa, 'u', "", "1 VMX, 2 SVM, 3 arm64, 4 PVM"), FIELD(reserved, 'u', "", "0"))

FIELDS(KvmExitSummary,  //
       FIELD(window_ns, 'u', "ns", "length of the window that ends at the record's time"),
       FIELD(code, 'u', "", "exit reason, KVM_EXIT_* or minus errno, port or address"),
       FIELD(count, 'u', "", "exits"), FIELD(timed, 'u', "", "how many of them have a duration"),
       FIELD(total_ns, 'u', "ns", "sum of the durations"), FIELD(max_ns, 'u', "ns", "longest duration"),
       FIELD(qemu_ns, 'u', "ns", "the part of the sum that was spent in QEMU"),
       FIELD(kind, 'u', "", "0 kvm, 1 userspace, 2 pio, 3 mmio"),
       FIELD(write, 'u', "", "pio, mmio: 1 for a write"), FIELD(tid, 'u', "", "the vCPU's thread"),
       FIELD(vcpu, 'i', "", "KVM's vCPU id; -1: not known"),
       FIELD(isa, 'u', "", "1 VMX, 2 SVM, 3 arm64, 4 PVM"),
       FIELD(halt, 'u', "", "1: the guest asked to sleep"))

FIELDS(IoSyscall,                                                                      //
       FIELD(duration_ns, 'u', "ns", "how long it took, or has taken; 0: not known"),  //
       FIELD(offset, 'u', "bytes", "in the file"),                                     //
       FIELD(length, 'u', "bytes", "asked for; the highest number: not known"),        //
       FIELD(result, 'i', "", "bytes done, or minus errno"),                           //
       FIELD(dev, 'u', "", "st_dev of the file; 0: not known"),                        //
       FIELD(ino, 'u', "", "inode of the file; 0: not known"),                         //
       FIELD(rdev, 'u', "", "st_rdev of a device node"),                               //
       FIELD(pid, 'u', "", "process id"),                                              //
       FIELD(tid, 'u', "", "thread id"),                                               //
       FIELD(fd, 'i', "", "descriptor; -1: not known"),                                //
       FIELD(what, 'u', "", "1 failed, 2 short, 3 slow, 4 under way"),                 //
       FIELD(operation, 'u', "",
             "0 none, 1 read, 2 write, 3 flush, 4 allocate, 5 discard, 6 zeroes, 7 other"),  //
       FIELD(mode, 'u', "", "fallocate: FALLOC_FL_*"))

FIELDS(IoBlock,                                              //
       FIELD(sector, 'u', "512 B", "on the disk"),           //
       FIELD(length, 'u', "bytes", "the part that failed"),  //
       FIELD(dev, 'u', "", "st_rdev of the disk"),           //
       FIELD(error, 'u', "", "errno of the status"),         //
       FIELD(operation, 'u', "",
             "0 none, 1 read, 2 write, 3 flush, 4 allocate, 5 discard, 6 zeroes, 7 other"),  //
       FIELD(status, 'u', "", "blk_status_t; 0: the kernel told an errno"),                  //
       FIELD(flags, 'u', "", "operation in the low byte, REQ_* above"))

FIELDS(IoStats,                                                       //
       FIELD(window_ns, 'u', "ns", "length of the window"),           //
       FIELD(count, 'u', "", "requests that ended in it"),            //
       FIELD(errors, 'u', "", "how many of them failed"),             //
       FIELD(bytes, 'u', "bytes", "of them all"),                     //
       FIELD(mean_ns, 'u', "ns", "of one; 0: not known"),             //
       FIELD(max_ns, 'u', "ns", "of the slowest; 0: not known"),      //
       FIELD(oldest_ns, 'u', "ns", "the oldest that has not ended"),  //
       FIELD(layer, 'u', "", "1 guest device, 2 system call, 3 disk"),
       FIELD(operation, 'u', "",
             "0 none, 1 read, 2 write, 3 flush, 4 allocate, 5 discard, 6 zeroes, 7 other"),  //
       FIELD(in_flight, 'u', "", "requests that have not ended"),                            //
       FIELD(reserved, 'u', "", "0"))

#define THREAD_TIMES                                                                                       \
  TIME(unknown_ns, "until something told"),                                                                \
      TIME(running_ns, "on a CPU, guest, KVM and QEMU not told apart"), TIME(guest_ns, "in the guest"),    \
      TIME(kvm_ns, "in KVM, on a CPU"), TIME(qemu_ns, "in QEMU, on a CPU"),                                \
      TIME(halted_ns, "asleep, the guest halted"), TIME(halt_poll_ns, "KVM polled before a halt's sleep"), \
      TIME(waiting_ns, "ready, another ran"), TIME(throttled_ns, "ready, CFS quota used up"),              \
      TIME(idle_ns, "asleep until there is something to do"), TIME(lock_ns, "asleep in a futex, a lock"),  \
      TIME(blocked_ns, "asleep, interruptible"), TIME(disk_ns, "asleep, uninterruptible"),                 \
      TIME(reclaim_ns, "in direct reclaim, or asleep for memory"),                                         \
      TIME(stopped_ns, "by a signal or tracer"), TIME(frozen_ns, "by the cgroup's freezer")
#define TIME(member, meaning)                                                                  \
  FieldInfo {                                                                                  \
#member, static_cast < std::uint16_t>(offsetof(S, times) + offsetof(ThreadTimes, member)), \
        sizeof(ThreadTimes::member), 'u', "ns", meaning                                        \
  }

FIELDS(ThreadTime,  //
       FIELD(window_ns, 'u', "ns", "length of the window that ends at the record's time"), THREAD_TIMES,
       FIELD(others_ns, 'u', "ns", "waited while threads ran that are not listed"),
       FIELD(pid, 'u', "", "process id"), FIELD(tid, 'u', "", "thread id"),
       FIELD(role, 'u', "", "0 other, 1 main, 2 vcpu, 3 iothread"),
       FIELD(vcpu, 'i', "", "-1: no vCPU, or not known"))

FIELDS(ThreadStall,  //
       FIELD(length_ns, 'u', "ns", "how long the thread did not get on"), THREAD_TIMES,
       FIELD(others_ns, 'u', "ns", "waited while threads ran that are not listed"),
       FIELD(block_ns, 'u', "ns", "the longest sleep in it; 0: none"),
       FIELD(argument, 'u', "", "first of that sleep's system call"), FIELD(pid, 'u', "", "process id"),
       FIELD(tid, 'u', "", "thread id"), FIELD(role, 'u', "", "0 other, 1 main, 2 vcpu, 3 iothread"),
       FIELD(vcpu, 'i', "", "-1: no vCPU, or not known"),
       FIELD(flags, 'u', "", "1 ongoing, 2 guest, KVM and QEMU told apart"),
       FIELD(state, 'u', "", "of the longest sleep, or now: 0 unknown, 1 running, … as the times stand"),
       FIELD(syscall, 'i', "", "number; -1: none"), FIELD(cpu, 'u', "", "that it waited for last"),
       FIELD(exit_code, 'u', "", "reason of the last exit; the highest number: none seen"),
       FIELD(user_code, 'i', "", "KVM_EXIT_* of the last exit to QEMU; -1: none seen"),
       FIELD(isa, 'u', "", "1 VMX, 2 SVM, 3 arm64, 4 PVM"), FIELD(reserved, 'u', "", "0"),
       FIELD(suspended_ns, 'u', "ns", "at least so much of it the host slept"),
       FIELD(lock_owner, 'u', "", "the thread that held the lock; 0: not known"),
       FIELD(reserved2, 'u', "", "0"))

FIELDS(ProcessSignal,  //
       FIELD(pid, 'u', "", "of the target"), FIELD(tid, 'u', "", "of the target"),
       FIELD(what, 'u', "", "1 sent, 2 OOM victim"), FIELD(signal, 'i', "", "number"),
       FIELD(code, 'i', "", "si_code: 0 by kill(2), 128 by the kernel"),
       FIELD(result, 'i', "", "0 delivered, 1 ignored, 2 pending already"),
       FIELD(sender_pid, 'u', "", "who sent it, or whose allocation failed"),
       FIELD(sender_tid, 'u', "", "its thread"), FIELD(sender_uid, 'u', "", "its user"),
       FIELD(reserved, 'u', "", "0"))
FIELDS(CpuThrottle,  //
       FIELD(window_ns, 'u', "ns", "in which the counters grew"),
       FIELD(core_events, 'u', "", "thermal throttle events of the core"),
       FIELD(package_events, 'u', "", "of its package"),
       FIELD(core_ms, 'u', "ms", "how long the core was throttled"),
       FIELD(package_ms, 'u', "ms", "how long its package was"), FIELD(cpu, 'u', "", "number"),
       FIELD(reserved, 'u', "", "0"))

FIELDS(StorageLink,  //
       FIELD(silent_ns, 'u', "ns", "how long something sent waits for an answer; 0: nothing is known to"),
       FIELD(unread_bytes, 'u', "bytes", "in the server's socket; the highest number: not known"),
       FIELD(unacked_bytes, 'u', "bytes", "TCP: written, and not acknowledged"),
       FIELD(sent_bytes, 'u', "bytes", "TCP: in all"), FIELD(received_bytes, 'u', "bytes", "TCP: in all"),
       FIELD(last_sent_ns, 'u', "ns", "TCP: how long ago data was sent last; the highest number: not known"),
       FIELD(last_received_ns, 'u', "ns", "TCP: how long ago data was received last, as above"),
       FIELD(last_ack_ns, 'u', "ns", "TCP: how long ago the other machine acknowledged anything, as above"),
       FIELD(guest_quiet_ns, 'u', "ns",
             "how long no request of a guest device over it has ended; the highest number: not known"),
       FIELD(retransmitted, 'u', "segments", "TCP: in all"),
       FIELD(retransmits, 'u', "", "TCP: of the segment that waits now"),
       FIELD(probes, 'u', "", "TCP: of the window or the peer, without an answer"),
       FIELD(rtt_us, 'u', "us", "TCP: round trip, smoothed"),
       FIELD(tcp_state, 'u', "", "TCP: the kernel's; 1 established"),
       FIELD(in_flight, 'u', "", "requests of guest devices over it; the highest number: not known"),
       FIELD(state, 'u', "", "1 connected, 2 gone, 3 absent"),
       FIELD(flags, 'u', "", "1 TCP, 2 hangs, 4 window closed"),
       FIELD(server_pid, 'u', "", "the server, where it runs on this host; 0: not known"),
       FIELD(server_state, 'c', "", "letter of its /proc/PID/stat; 0: not known"),
       FIELD(socket, 'u', "", "inode of QEMU's socket"),
       FIELD(sent_again, 'u', "segments", "TCP: retransmitted, since the silence began"),
       FIELD(reserved, 'u', "", "0"))

FIELDS(QmpPeer,                                                           //
       FIELD(waited_ns, 'u', "ns", "flowing: how long it did not read"),  //
       FIELD(link, 'u', "", "which conversation, from 32"),               //
       FIELD(state, 'u', "", "1 connected, 2 closed, 3 blocked, 4 flowing, 5 ended"),
       FIELD(pid, 'u', "", "who connected, 0 where that is not known"),  //
       FIELD(uid, 'u', "", "its user"))

FIELDS(QmpGap,                                                              //
       FIELD(bytes, 'u', "bytes", "not heard, or of a message not whole"),  //
       FIELD(link, 'u', "", "which conversation, from 32"),                 //
       FIELD(direction, 'u', "", "0 to QEMU, 1 from QEMU"))

#define ARGUMENT(number, meaning)                                                                      \
  FieldInfo {                                                                                          \
    "argument" #number, static_cast<std::uint16_t>(offsetof(S, arguments) + 8 * (number)), 8, 'u', "", \
        meaning                                                                                        \
  }

FIELDS(QemuCall,  //
       ARGUMENT(0, "as the register had it"), ARGUMENT(1, "as the register had it"),
       ARGUMENT(2, "as the register had it"), ARGUMENT(3, "as the register had it"),
       FIELD(pid, 'u', "", "process id"), FIELD(tid, 'u', "", "thread id"))

FIELDS(OwnerState, FIELD(asked_ns, 'u', "ns", "when it was asked"))

template <class S>
constexpr RecordInfo info(std::string_view name, std::string_view text) {
  return {S::kType, name, sizeof(S), Fields<S>::kFields, text};
}

constexpr RecordInfo kSchema[] = {
    info<ClockSnapshot>("clock_snapshot", ""),
    info<Loss>("loss", "source"),
    info<Sensor>("sensor", "name, detail, remedy"),
    info<Watch>("watch", "reason"),
    info<VmSeen>("vm_seen", "process"),
    info<VmEnd>("vm_end", "how_known"),
    info<QmpMessage>("qmp_message", "command, message"),
    info<QmpLink>("qmp_link", "address, detail"),
    info<QmpWithheld>("qmp_withheld", "command, reason"),
    info<ProcessState>("process_state", "comm"),
    info<ThreadState>("thread_state", "comm, wchan, kernel_stack, file"),
    info<NodeFile>("node_file", "node, path, mount_point, fs_type, mount_source, devices, quotas"),
    info<Pressure>("pressure", "cgroup"),
    info<CgroupState>("cgroup_state", "path, cpu_path, memory_path"),
    info<KernelLog>("kernel_log", "line"),
    info<Collected>("collected", "unfinished"),
    info<LogTail>("log_tail", "path, lines"),
    info<KvmExit>("kvm_exit", ""),
    info<KvmFailure>("kvm_failure", "a sentence"),
    info<KvmExitSummary>("kvm_exit_summary", "name of the reason, log2 histogram, device"),
    info<IoSyscall>("io_syscall", "path, call"),
    info<IoBlock>("io_block", "disk, status"),
    info<IoStats>("io_stats", "node, disk, path"),
    info<StorageLink>("storage_link", "nodes, driver, address, server"),
    info<QmpPeer>("qmp_peer", "monitor, comm, command_line, user, container, parents"),
    info<QmpGap>("qmp_gap", ""),
    info<QemuCall>("qemu_call", "function, value, strings, callers"),
    info<OwnerState>("owner_state", "owner, state"),
    info<ThreadTime>("thread_time", "comm, culprits"),
    info<ThreadStall>("thread_stall",
                      "comm, system_call, wchan, descriptor, culprits, kernel_stack, user_stack, lock_owner"),
    info<ProcessSignal>("process_signal", "sender"),
    info<CpuThrottle>("cpu_throttle", ""),
};

// Every byte of a struct belongs to a field: what is not described cannot be read from a file.
constexpr bool covered(const RecordInfo& record) {
  std::size_t at = 0;
  for (const FieldInfo& field : record.fields) {
    if (field.offset != at) return false;
    at += field.width;
  }
  return at == record.size;
}
static_assert(std::ranges::all_of(kSchema, covered));
static_assert(std::ranges::is_sorted(kSchema, {}, &RecordInfo::type));

std::string_view kind_name(char kind) {
  switch (kind) {
    case 'i':
      return "signed";
    case 's':
      return "string";
    case 'c':
      return "letter";
    default:
      return "unsigned";
  }
}

boost::json::string_view view(std::string_view text) {
  return {text.data(), text.size()};
}

}  // namespace

std::span<const RecordInfo> schema() {
  return kSchema;
}

const RecordInfo* find_record_info(std::uint16_t type) {
  const auto at = std::ranges::lower_bound(kSchema, static_cast<RecordType>(type), {}, &RecordInfo::type);
  return at != std::end(kSchema) && at->type == static_cast<RecordType>(type) ? at : nullptr;
}

boost::json::array schema_json() {
  boost::json::array records;
  for (const RecordInfo& record : kSchema) {
    boost::json::array fields;
    for (const FieldInfo& field : record.fields) {
      fields.push_back(boost::json::object{{"name", view(field.name)},
                                           {"offset", field.offset},
                                           {"width", field.width},
                                           {"kind", view(kind_name(field.kind))},
                                           {"unit", view(field.unit)},
                                           {"meaning", view(field.meaning)}});
    }
    records.push_back(boost::json::object{{"type", static_cast<std::uint16_t>(record.type)},
                                          {"name", view(record.name)},
                                          {"size", record.size},
                                          {"fields", std::move(fields)},
                                          {"text", view(record.text)}});
  }
  return records;
}

}  // namespace vmwhy::trace
