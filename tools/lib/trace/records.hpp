// SPDX-License-Identifier: BSD-2-Clause
#pragma once
// The records of a trace: fixed-width little-endian structs behind a 16-byte header, some with a text behind
// the fixed part. Valid for every layer: sources fill them, the writer stores them, the timeline reads them.
//
// Rules that keep old files readable:
//   - A type number is assigned once and never reused. A struct is only ever appended to.
//   - RecordHeader::size is the size of header and fixed part when the record was written. A reader that
//   knows a
//     longer struct fills the rest with zero; one that knows a shorter struct ignores the rest.
//   - The text is not counted in `size`. A text of several strings separates them by NUL ("name NUL detail").
//   - All times are nanoseconds of CLOCK_BOOTTIME unless the name says otherwise.

#include <cstddef>
#include <cstdint>

namespace vmwhy::trace {

enum class RecordType : std::uint16_t {
  clock_snapshot = 1,
  loss = 2,
  sensor = 3,
  watch = 4,
  vm_seen = 16,
  vm_end = 17,
  qmp_message = 32,
  qmp_link = 33,
  qmp_withheld = 34,
  process_state = 48,
  thread_state = 49,
  node_file = 50,
  pressure = 51,
  cgroup_state = 52,
  kernel_log = 53,
  collected = 54,
  log_tail = 55,
  // 64 and up: probes.
  kvm_exit = 64,
  kvm_failure = 65,
  kvm_exit_summary = 66,
  io_syscall = 72,
  io_block = 73,
  io_stats = 74,
};

struct RecordHeader {
  std::uint64_t time_ns;  ///< When it happened, CLOCK_BOOTTIME.
  std::uint16_t type;     ///< A RecordType.
  std::uint16_t size;     ///< Bytes of header and fixed part.
  std::uint32_t vm;       ///< The VM's number in this trace; 0: the host.
};
static_assert(sizeof(RecordHeader) == 16);

enum class ClockReason : std::uint32_t { start = 0, tick = 1, step = 2, end = 3 };

/// Three clocks read together. Two snapshots bracket a conversion; see lib/clock.
struct ClockSnapshot {
  static constexpr RecordType kType = RecordType::clock_snapshot;
  std::uint64_t boottime_ns;
  std::uint64_t monotonic_ns;
  std::int64_t realtime_ns;  ///< Since the epoch.
  std::uint32_t width_ns;    ///< How long the reading took: its uncertainty.
  std::uint32_t reason;      ///< A ClockReason.
};
static_assert(sizeof(ClockSnapshot) == 32);

/// Records that were lost where they were made. Text: the source's name.
struct Loss {
  static constexpr RecordType kType = RecordType::loss;
  std::uint64_t lost;      ///< How many.
  std::uint64_t first_ns;  ///< The time range in which they were lost.
  std::uint64_t last_ns;
};
static_assert(sizeof(Loss) == 24);

enum class SensorState : std::uint32_t { off = 0, on = 1, failed = 2, partial = 3 };

/// What a source could and could not see. Text: name NUL detail NUL remedy.
/// Names in use: qmp, proc, kmsg, psi, cgroup, reach, bpf, tap, qemu.
struct Sensor {
  static constexpr RecordType kType = RecordType::sensor;
  std::uint32_t state;  ///< A SensorState.
  std::int32_t error;   ///< errno, or 0.
};
static_assert(sizeof(Sensor) == 8);

enum class WatchEvent : std::uint32_t {
  begin = 1,  ///< The run begins (vm 0), or this VM is watched from now on.
  end = 2,    ///< The run ends (vm 0), or this VM is no longer watched, for the reason in the text.
};

/// Begin and end of what the run could see. Text: reason.
struct Watch {
  static constexpr RecordType kType = RecordType::watch;
  std::uint32_t event;  ///< A WatchEvent.
  std::uint32_t reserved;
};
static_assert(sizeof(Watch) == 8);

/// A VM as discovery found it. Text: the JSON document of qmp::to_json(QemuProcess).
struct VmSeen {
  static constexpr RecordType kType = RecordType::vm_seen;
  std::uint32_t pid;  ///< 0: not known (a TCP monitor, or a socket whose owner cannot be told).
  std::uint32_t reserved;
  std::uint64_t start_ns;  ///< When the process started; 0: not known.
};
static_assert(sizeof(VmSeen) == 16);

enum class EndHow : std::uint32_t {
  unknown = 0,   ///< The process is gone; how it ended could not be seen.
  exited = 1,    ///< exit(2) with `status`.
  signaled = 2,  ///< Killed by signal `status`.
};

/// A QEMU process ended. Text: how this was learned.
struct VmEnd {
  static constexpr RecordType kType = RecordType::vm_end;
  std::uint32_t pid;
  std::uint32_t how;          ///< An EndHow.
  std::int32_t status;        ///< Exit status, or signal number.
  std::uint32_t core_dumped;  ///< 1: a core was dumped.
};
static_assert(sizeof(VmEnd) == 16);

enum class QmpKind : std::uint32_t {
  greeting = 1,
  event = 2,
  command = 3,     ///< Sent by us; text is what was sent.
  return_ = 4,     ///< A reply with "return".
  error = 5,       ///< A reply with "error".
  unparsable = 6,  ///< Bytes that are no QMP message; text is their beginning.
};

/// One QMP message. Text: command name (empty for greeting, event) NUL the message's JSON.
struct QmpMessage {
  static constexpr RecordType kType = RecordType::qmp_message;
  std::uint64_t sent_ns;    ///< return_, error: when the command had been sent. Otherwise 0.
  std::int64_t wall_us;     ///< event: QEMU's own stamp, µs since the epoch; -1: none.
  std::uint32_t kind;       ///< A QmpKind.
  std::uint32_t link;       ///< Which of this VM's monitors, from 0.
  std::uint32_t cut_bytes;  ///< Bytes of a long message that are not in the text.
  std::uint32_t reserved;
};
static_assert(sizeof(QmpMessage) == 32);

enum class QmpLinkState : std::uint32_t {
  ready = 1,    ///< Greeting and negotiation done: events arrive from now on.
  refused = 2,  ///< No socket, no permission, nobody listens.
  connect_timeout = 3,
  greeting_missing = 4,
  negotiation_timeout = 5,
  reply_overdue = 6,  ///< A command passed the deadline; it is still waited for.
  reply_late = 7,     ///< That reply came, after `waited_ns`.
  closed = 8,         ///< The peer closed, or the connection broke.
  not_qmp = 9,        ///< Malformed greeting, or a line above the limit.
  held = 10,          ///< Connected, but not greeted: another client holds the monitor.
};

/// What became of a monitor connection. Text: address NUL detail (for overdue and late: the command's name).
struct QmpLink {
  static constexpr RecordType kType = RecordType::qmp_link;
  std::uint64_t waited_ns;
  std::uint32_t state;  ///< A QmpLinkState.
  std::int32_t error;   ///< errno, or 0.
  std::uint32_t link;
  std::uint32_t reserved;
};
static_assert(sizeof(QmpLink) == 24);

/// A question that was deliberately not asked. Text: command NUL reason.
struct QmpWithheld {
  static constexpr RecordType kType = RecordType::qmp_withheld;
  std::uint32_t link;
  std::uint32_t reserved;
};
static_assert(sizeof(QmpWithheld) == 8);

/// /proc/PID/{stat,status}. Text: comm.
struct ProcessState {
  static constexpr RecordType kType = RecordType::process_state;
  std::uint32_t pid;
  std::uint32_t state;       ///< The letter of /proc/PID/stat; 0: the process is gone.
  std::uint32_t tracer_pid;  ///< 0: nobody traces it. Text of the tracer is in tracer_comm.
  std::uint32_t threads;
  std::uint64_t pending;  ///< SigPnd of the main thread.
  std::uint64_t shared_pending;
  std::uint64_t rss_bytes;
  std::uint64_t cpu_ns;  ///< User and system time of all its threads.
  char tracer_comm[16];  ///< Zero-padded.
};
static_assert(sizeof(ProcessState) == 64);

enum class ThreadRole : std::uint32_t { other = 0, main = 1, vcpu = 2, iothread = 3 };

/// /proc/PID/task/TID. Text: comm NUL wchan NUL kernel stack NUL file of its system call; each may be empty.
struct ThreadState {
  static constexpr RecordType kType = RecordType::thread_state;
  std::uint32_t pid;
  std::uint32_t tid;
  std::uint32_t state;         ///< The letter.
  std::uint32_t role;          ///< A ThreadRole.
  std::int32_t vcpu;           ///< Role vcpu: cpu-index; otherwise -1.
  std::int32_t syscall;        ///< /proc/…/syscall: the number; -1: none or "running"; -2: not readable.
  std::uint64_t cpu_ns;        ///< User and system time.
  std::uint64_t run_delay_ns;  ///< schedstat: time runnable but not running.
  std::uint64_t switches;      ///< Voluntary and involuntary context switches.
};
static_assert(sizeof(ThreadState) == 48);

/// Bits of NodeFile::flags.
enum NodeFileFlag : std::uint32_t {
  kNodeDeleted = 1u << 0,      ///< The file under the fd has been unlinked.
  kNodePathMissing = 1u << 1,  ///< The path names nothing now.
  kNodePathDiffers = 1u << 2,  ///< The path names another file or device now.
  kNodeSysMissing = 1u << 3,   ///< Block device: /sys/dev/block/MAJ:MIN is gone.
  kNodeUnreachable = 1u << 4,  ///< The helper did not get an answer within the deadline; the rest is unset.
  kNodeStatFailed = 1u << 5,   ///< fstat or statfs failed: `error`.
  kNodeReadOnlyFs = 1u << 6,   ///< The file system is mounted read-only now.
  kNodeNoFd = 1u << 7,         ///< No descriptor of QEMU shows this path; facts are the path's.
};

/// The host file or device under a block node, as QEMU's own descriptor shows it (/proc/PID/fd/N), and the
/// file system it lives on. Text: node name NUL path NUL mount point NUL file system type NUL mount source
/// NUL block devices under it, top first ("dm-0=254:0 sda=8:0/iscsi/session1") NUL quotas of its user, group
/// and project that have a limit, in bytes ("user:64055:8384512:8388608"). Older traces have neither.
struct NodeFile {
  static constexpr RecordType kType = RecordType::node_file;
  std::uint64_t dev;  ///< st_dev.
  std::uint64_t ino;
  std::uint64_t rdev;             ///< st_rdev of a device, else 0.
  std::uint64_t path_rdev;        ///< st_rdev (or st_dev of a file) of what the path names now.
  std::uint64_t size_bytes;       ///< File: st_size. Block device: its size by /sys/dev/block.
  std::uint64_t allocated_bytes;  ///< st_blocks * 512.
  std::uint64_t fs_size_bytes;    ///< Files only: statfs.
  std::uint64_t fs_free_bytes;    ///< f_bfree.
  std::uint64_t fs_avail_bytes;   ///< f_bavail: what an unprivileged user may still take.
  std::uint64_t fs_files;         ///< Inodes; 0 where the file system does not count them.
  std::uint64_t fs_files_free;
  std::uint64_t waited_ns;  ///< How long the helper took.
  std::uint32_t mode;       ///< st_mode.
  std::uint32_t flags;      ///< NodeFileFlag.
  std::uint32_t fd;         ///< QEMU's descriptor.
  std::int32_t error;       ///< errno where kNodeStatFailed.
  std::uint32_t fs_magic;   ///< statfs f_type.
  std::uint32_t owner_uid;
};
static_assert(sizeof(NodeFile) == 120);

/// /proc/pressure, or a cgroup's *.pressure. Totals in µs, averages in hundredths of a percent. Text: whose
/// ("" for the host's, or the cgroup's path).
struct Pressure {
  static constexpr RecordType kType = RecordType::pressure;
  std::uint64_t cpu_some_us;
  std::uint64_t memory_some_us;
  std::uint64_t memory_full_us;
  std::uint64_t io_some_us;
  std::uint64_t io_full_us;
  std::uint32_t cpu_some_avg10;
  std::uint32_t memory_some_avg10;
  std::uint32_t memory_full_avg10;
  std::uint32_t io_some_avg10;
  std::uint32_t io_full_avg10;
  std::uint32_t reserved;
};
static_assert(sizeof(Pressure) == 64);

enum class FreezerState : std::uint32_t { unknown = 0, thawed = 1, freezing = 2, frozen = 3 };

/// The cgroup of a QEMU process. Text: path NUL its path in the hierarchy of the cpu controller NUL in that
/// of memory (both left out where they are the same).
struct CgroupState {
  static constexpr RecordType kType = RecordType::cgroup_state;
  std::uint64_t memory_current_bytes;
  std::uint64_t memory_max_bytes;   ///< UINT64_MAX: no limit.
  std::uint64_t oom_kills;          ///< memory.events oom_kill.
  std::uint64_t throttled_us;       ///< cpu.stat throttled_usec.
  std::uint64_t throttled_periods;  ///< cpu.stat nr_throttled.
  std::int64_t quota_us;            ///< -1: none.
  std::uint64_t period_us;
  std::uint32_t freezer;  ///< A FreezerState.
  std::uint32_t version;  ///< 1 or 2.
};
static_assert(sizeof(CgroupState) == 64);

/// One line of the kernel log; header time is its own stamp, converted. Text: the line, without its prefix.
struct KernelLog {
  static constexpr RecordType kType = RecordType::kernel_log;
  std::uint64_t sequence;
  std::uint32_t priority;  ///< syslog severity, 0..7.
  std::uint32_t reserved;
};
static_assert(sizeof(KernelLog) == 16);

/// The end of the file that QEMU's stderr goes to. Text: path NUL the last lines.
struct LogTail {
  static constexpr RecordType kType = RecordType::log_tail;
  std::uint64_t offset;  ///< Where the text begins in the file.
  std::uint32_t pid;
  std::uint32_t reserved;
};
static_assert(sizeof(LogTail) == 16);

/// A collection of evidence ended: everything that belongs to it stands before this record.
/// Text: empty, or what the collection did not finish, with why.
struct Collected {
  static constexpr RecordType kType = RecordType::collected;
  std::uint64_t began_ns;
  std::uint32_t overdue;  ///< Steps that missed their deadline.
  std::uint32_t reserved;
};
static_assert(sizeof(Collected) == 16);

/// One exit of a vCPU from the guest, seen to end by its next entry. Header time: of the exit. Codes are the
/// hardware's own; lib/kvm names them by `isa`.
struct KvmExit {
  static constexpr RecordType kType = RecordType::kvm_exit;
  std::uint64_t duration_ns;  ///< To the next entry.
  std::uint64_t qemu_ns;      ///< The part of it that was spent in QEMU.
  std::uint64_t address;      ///< Port or guest physical address touched; UINT64_MAX: none.
  std::uint32_t code;         ///< Exit reason.
  std::int32_t user_code;     ///< KVM_EXIT_* where it went to QEMU, minus errno; -0x7fffffff: it did not.
  std::uint32_t tid;
  std::int32_t vcpu;  ///< KVM's vCPU id; -1: not known.
  std::uint32_t isa;  ///< 1 VMX, 2 SVM, 3 arm64, 4 PVM.
  std::uint32_t reserved;
};
static_assert(sizeof(KvmExit) == 48);

/// KVM could not go on: KVM_EXIT_INTERNAL_ERROR (17) or KVM_EXIT_FAIL_ENTRY (9). Text: a sentence.
struct KvmFailure {
  static constexpr RecordType kType = RecordType::kvm_failure;
  std::uint64_t detail;  ///< Suberror, or the hardware's entry failure reason; UINT64_MAX: could not be read.
  std::uint32_t last_code;  ///< Reason of the vCPU's last exit.
  std::int32_t user_code;   ///< 17 or 9.
  std::uint32_t tid;
  std::int32_t vcpu;
  std::uint32_t isa;
  std::uint32_t reserved;
};
static_assert(sizeof(KvmFailure) == 32);

/// Exits of one vCPU of one kind and code in a window that ends at the header's time. Text: name of the
/// reason NUL the log2 histogram: numbers joined by spaces, bucket i counts durations of [2^i, 2^(i+1)) ns.
struct KvmExitSummary {
  static constexpr RecordType kType = RecordType::kvm_exit_summary;
  std::uint64_t window_ns;
  std::uint64_t code;  ///< Exit reason, KVM_EXIT_* (minus errno: as 64 bits signed), port or address.
  std::uint64_t count;
  std::uint64_t timed;  ///< How many of them have a duration.
  std::uint64_t total_ns;
  std::uint64_t max_ns;
  std::uint64_t qemu_ns;  ///< The part of total_ns that was spent in QEMU.
  std::uint32_t kind;     ///< 0 kvm, 1 userspace, 2 pio, 3 mmio.
  std::uint32_t write;    ///< pio, mmio: 1 for a write.
  std::uint32_t tid;
  std::int32_t vcpu;
  std::uint32_t isa;
  std::uint32_t halt;  ///< 1: the guest asked to sleep.
};
static_assert(sizeof(KvmExitSummary) == 80);

enum class IoOperation : std::uint32_t {
  none = 0,
  read = 1,
  write = 2,
  flush = 3,
  allocate = 4,
  discard = 5,  ///< Also: a hole punched into a file.
  zeroes = 6,
  other = 7,
};

enum class IoWhat : std::uint32_t {
  failed = 1,
  short_ = 2,     ///< Less was done than asked for. Reads at the end of a file are left out.
  slow = 3,       ///< It took longer than the threshold, and went well.
  under_way = 4,  ///< It has not ended after `duration_ns`.
};

/// A storage request of a QEMU thread that failed, was short or slow, or does not end. Header time: its end;
/// under_way: when it was seen. Text: path of the file NUL name of the call ("pwrite64", "io_uring").
struct IoSyscall {
  static constexpr RecordType kType = RecordType::io_syscall;
  std::uint64_t duration_ns;  ///< 0: not known.
  std::uint64_t offset;
  std::uint64_t length;  ///< Bytes asked for; UINT64_MAX: not known.
  std::int64_t result;   ///< Bytes done, or minus errno.
  std::uint64_t dev;     ///< Of the file's file system, as st_dev; 0: not known.
  std::uint64_t ino;     ///< 0: not known.
  std::uint64_t rdev;    ///< Of a device node, as st_rdev.
  std::uint32_t pid;
  std::uint32_t tid;
  std::int32_t fd;          ///< -1: not known.
  std::uint32_t what;       ///< An IoWhat.
  std::uint32_t operation;  ///< An IoOperation.
  std::uint32_t mode;       ///< fallocate's.
};
static_assert(sizeof(IoSyscall) == 80);

/// A request of the block layer that failed, of whomever (VM 0). Text: name of the disk NUL name of the
/// status, as the kernel's log has it.
struct IoBlock {
  static constexpr RecordType kType = RecordType::io_block;
  std::uint64_t sector;     ///< Of 512 bytes, on the disk.
  std::uint64_t length;     ///< Bytes of the part that failed.
  std::uint64_t dev;        ///< The disk's, as st_rdev.
  std::uint32_t error;      ///< errno of the status.
  std::uint32_t operation;  ///< An IoOperation.
  std::uint32_t status;     ///< blk_status_t; 0: the kernel told an errno.
  std::uint32_t flags;      ///< The request's: operation in the low byte, REQ_* above.
};
static_assert(sizeof(IoBlock) == 40);

enum class IoLayer : std::uint32_t {
  guest = 1,    ///< As QEMU counts the requests of a guest device: query-blockstats.
  syscall = 2,  ///< QEMU's calls on a file.
  block = 3,    ///< Requests of a disk, of whomever (VM 0).
};

/// Requests of one operation that ended in the window that ends at the header's time. A layer in which none
/// ended has one record with operation none and count 0. Text: block node NUL disk NUL path of the file.
struct IoStats {
  static constexpr RecordType kType = RecordType::io_stats;
  std::uint64_t window_ns;
  std::uint64_t count;
  std::uint64_t errors;
  std::uint64_t bytes;
  std::uint64_t mean_ns;  ///< 0: not known.
  std::uint64_t max_ns;   ///< 0: not known.
  std::uint64_t
      oldest_ns;  ///< How long the oldest that has not ended waits, whatever its operation; 0: not known.
  std::uint32_t layer;      ///< An IoLayer.
  std::uint32_t operation;  ///< An IoOperation.
  std::uint32_t in_flight;  ///< How many have not ended, whatever their operation.
  std::uint32_t reserved;
};
static_assert(sizeof(IoStats) == 72);

}  // namespace vmwhy::trace
