/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passes through the monitor sockets of watched QEMUs, in both directions.
 *
 * The kernel tells when a send or a receive on a socket ends, and how many bytes it moved. That is within the
 * system call, so the registers it was called with are still there, and the bytes still lie in the caller's
 * buffer: they are copied from there. Nothing happens at the beginning of a call, and nothing to calls that
 * are not about sockets. */

#include <linux/ptrace.h>

#include <bpf/bpf_tracing.h>

#include "bpf/include/emit.bpf.h"
#include "bpf/include/qmp_tap.h"
#include "bpf/include/socket.bpf.h"
#include "bpf/include/watched.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Numbers of the system calls. */
const volatile __u32 nr_read, nr_write, nr_sendto, nr_recvfrom, nr_readv, nr_writev, nr_sendmsg, nr_recvmsg;

STATS_MAP(qmp_tap, QMP_TAP_STATS)
RING_MAP(qmp_tap)

/* User space fills it and watched_pids, and so does the probe: processes that start, sockets that greet. */
struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 65536);
  __type(key, u64);
  __type(value, struct qmp_tap_socket);
} sockets SEC(".maps");

/* What is only looked at comes again. */
#define MSG_PEEK_ 2

struct iovec_ {
  u64 base;
  u64 length;
};
/* The beginning of a struct msghdr, as user space has it. */
struct msghdr_ {
  u64 name;
  u32 name_length;
  u32 padding;
  u64 vectors;
  u64 count;
};

struct call {
  u64 number;
  u64 at[3];
};

static __always_inline void read_call(struct call* out) {
  const struct pt_regs* regs = (const struct pt_regs*)bpf_task_pt_regs(bpf_get_current_task_btf());
#if defined(__TARGET_ARCH_x86)
  out->number = regs->orig_rax;
  out->at[0] = regs->rdi;
  out->at[1] = regs->rsi;
  out->at[2] = regs->rdx;
#elif defined(__TARGET_ARCH_arm64)
  /* regs[0] takes the result when the call has ended. */
  const u64* regs_ = ((const struct user_pt_regs*)regs)->regs;
  out->number = regs_[8];
  out->at[0] = regs_[0];
  out->at[1] = regs_[1];
  out->at[2] = regs_[2];
#endif
}

/* Where the bytes lie: one buffer, or vectors. */
struct place {
  u64 vectors; /* Address of the array; 0: `buffer` alone. */
  u64 count;
  u64 buffer;
};

static __always_inline bool find_place(struct place* out) {
  struct call call = {};
  read_call(&call);
  u32 number = call.number;
  if (number == nr_sendmsg || number == nr_recvmsg) {
    struct msghdr_ header;
    if (bpf_probe_read_user(&header, sizeof(header), (const void*)call.at[1]) != 0) return false;
    out->vectors = header.vectors;
    out->count = header.count;
  } else if (number == nr_readv || number == nr_writev) {
    out->vectors = call.at[1];
    out->count = call.at[2];
  } else if (number == nr_read || number == nr_write || number == nr_sendto || number == nr_recvfrom) {
    out->buffer = call.at[1];
  } else {
    return false;
  }
  return true;
}

/* Loads that the verifier has checked by BTF: they need no helper, and read 0 where there is nothing. */
static __always_inline u64 inode_of(struct sock* sk) {
  return sk->sk_socket->file->f_inode->i_ino;
}

static __always_inline void read_peer(struct sock* sk, struct qmp_tap_event* event) {
  event->family = sk->__sk_common.skc_family;
  if (event->family != 1) return; /* AF_UNIX */
  event->peer_pid = sk->sk_peer_pid->numbers[0].nr;
  event->peer_uid = sk->sk_peer_cred->uid.val;
}

/* The ring takes constant sizes: the smallest of four that is enough. @return whether it went in. */
#define PUT(size)                                                              \
  ({                                                                           \
    bool done_ = false;                                                        \
    struct qmp_tap_event* slot_ = bpf_ringbuf_reserve(&qmp_tap_ring, size, 0); \
    if (slot_) {                                                               \
      *slot_ = *event;                                                         \
      if (bytes > size - sizeof(*slot_)) bytes = size - sizeof(*slot_);        \
      slot_->bytes = bytes;                                                    \
      if (bpf_probe_read_user(slot_ + 1, bytes, (const void*)address) != 0) {  \
        slot_->what = QMP_TAP_SKIPPED;                                         \
        stat_add(QMP_TAP_STAT_UNREAD, 1);                                      \
      }                                                                        \
      bpf_ringbuf_submit(slot_, BPF_RB_FORCE_WAKEUP);                          \
      done_ = true;                                                            \
    }                                                                          \
    done_;                                                                     \
  })

__noinline int put(struct qmp_tap_event* event, u64 address, u32 bytes) {
  bool done = false;
  if (!event) return 0;
  if (bytes <= QMP_TAP_TINY - sizeof(*event))
    done = PUT(QMP_TAP_TINY);
  else if (bytes <= QMP_TAP_SMALL - sizeof(*event))
    done = PUT(QMP_TAP_SMALL);
  else if (bytes <= QMP_TAP_MIDDLE - sizeof(*event))
    done = PUT(QMP_TAP_MIDDLE);
  else
    done = PUT(QMP_TAP_LARGE);
  if (done) {
    if (event->flags & QMP_TAP_KNOWN) stat_add(QMP_TAP_STAT_BYTES, bytes);
    return 0;
  }
  stat_add(event->flags & QMP_TAP_KNOWN ? QMP_TAP_STAT_RING_FULL : QMP_TAP_STAT_UNKNOWN_LOST, 1);
  return 0;
}

static __always_inline void tell(struct qmp_tap_event* event, u8 what, u64 bytes) {
  event->what = what;
  event->bytes = bytes > 0xffffffffu ? 0xffffffffu : bytes;
  emit(event, sizeof(*event),
       event->flags & QMP_TAP_KNOWN ? QMP_TAP_STAT_RING_FULL : QMP_TAP_STAT_UNKNOWN_LOST, 1,
       BPF_RB_FORCE_WAKEUP);
}

struct copying {
  struct qmp_tap_event event;
  struct place place;
  u64 address, left; /* Of the vector that is being copied. */
  u64 bytes;         /* Still to be copied. */
  u64 index;         /* Of the next vector. */
};

/* @return 1: there is no more. */
static long copy_piece(u32 turn, struct copying* c) {
  if (c->bytes == 0) return 1;
  if (c->left == 0) {
    struct iovec_ vector;
    if (c->index >= c->place.count) return 1;
    if (bpf_probe_read_user(&vector, sizeof(vector),
                            (const void*)(c->place.vectors + c->index * sizeof(vector))) != 0)
      return 1;
    c->index++;
    c->address = vector.base;
    c->left = vector.length;
    if (c->left == 0) return 0;
  }
  u64 part = c->left < c->bytes ? c->left : c->bytes;
  if (part > QMP_TAP_LARGE - sizeof(c->event)) part = QMP_TAP_LARGE - sizeof(c->event);
  put(&c->event, c->address, part);
  c->event.flags &= ~QMP_TAP_FIRST;
  c->event.offset += part;
  c->address += part;
  c->left -= part;
  c->bytes -= part;
  return 0;
}

static __always_inline void copy(struct copying* c, u64 bytes) {
  c->address = c->place.buffer;
  c->left = c->place.vectors ? 0 : bytes;
  c->bytes = bytes;
  bpf_loop(QMP_TAP_PIECES, copy_piece, c, 0);
  if (c->bytes == 0) return;
  stat_add(QMP_TAP_STAT_UNREAD, 1);
  tell(&c->event, QMP_TAP_SKIPPED, c->bytes);
}

static __always_inline u64 first_byte(const struct place* place) {
  u64 address = place->buffer;
  if (place->vectors && bpf_probe_read_user(&address, sizeof(address), (const void*)place->vectors) != 0)
    return 0;
  return address;
}

static __always_inline bool speaks_json(const struct place* place) {
  char first = 0;
  return bpf_probe_read_user(&first, 1, (const void*)first_byte(place)) == 0 && first == '{';
}

/* A monitor's first words: {"QMP": …, or with a line's end and four blanks before the member. A function of
 * its own to the verifier, and almost without branches: it walks every path. */
__noinline int greets(u64 address) {
  char head[16] = {};
  if (bpf_probe_read_user(head, 11, (const void*)address) != 0) return 0;
  u32 word = 0;
  __builtin_memcpy(&word, head[1] == '\n' ? head + 7 : head + 2, 3);
  return head[0] == '{' && word == ('Q' | 'M' << 8 | 'P' << 16);
}

/* From here on every byte counts, however late user space takes note of it. */
static __always_inline struct qmp_tap_socket* register_monitor(u64 ino) {
  struct qmp_tap_socket row = {.verdict = QMP_TAP_MONITOR};
  bpf_map_update_elem(&sockets, &ino, &row, BPF_NOEXIST);
  return bpf_map_lookup_elem(&sockets, &ino);
}

/* QEMU reads its monitor byte by byte. The bytes are kept in the socket's row until a command may have ended,
 * and told of as one piece: one thread at a time reads a monitor. @return whether nothing is to be told yet.
 */
static __always_inline bool hold(struct qmp_tap_socket* row) {
  struct place place = {};
  char byte = 0;
  if (!find_place(&place) || bpf_probe_read_user(&byte, 1, (const void*)first_byte(&place)) != 0)
    return false;
  u64 held = row->held;
  barrier_var(held); /* Linux 6.1 has to see the bound where it counts. */
  if (held >= QMP_TAP_HELD) return false;
  row->text[held] = byte;
  row->held = held + 1;
  __sync_fetch_and_add(&row->bytes[QMP_TAP_IN], 1);
  return held + 1 < QMP_TAP_HELD && byte != '}' && byte != ']' && byte != '\n';
}

/* What is held is told of, by an event that has everything but its place. User space is woken when a command
 * may have ended: by force, for the kernel by itself wakes nobody who has records left to take. */
static __always_inline void let_go(const struct qmp_tap_event* event, struct qmp_tap_socket* row) {
  u32 held = row->held;
  if (held == 0) return;
  row->held = 0;
  stat_add(QMP_TAP_STAT_CALLS, held);
  struct with_text {
    struct qmp_tap_event event;
    char text[QMP_TAP_HELD];
  };
  struct with_text* slot = bpf_ringbuf_reserve(&qmp_tap_ring, sizeof(*slot), 0);
  if (!slot) {
    stat_add(QMP_TAP_STAT_RING_FULL, 1);
    return;
  }
  slot->event = *event;
  slot->event.what = QMP_TAP_DATA;
  slot->event.bytes = held;
  slot->event.offset = row->bytes[QMP_TAP_IN] - held;
  __builtin_memcpy(slot->text, row->text, QMP_TAP_HELD);
  stat_add(QMP_TAP_STAT_BYTES, held);
  u64 end = held - 1;
  barrier_var(end);
  char last = end < QMP_TAP_HELD ? row->text[end] : 0;
  bool within = last != '}' && last != ']' && last != '\n';
  bpf_ringbuf_submit(slot, within ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP);
}

static __noinline int moved(struct sock* sk, s32 result, u32 direction) {
  u64 me = bpf_get_current_pid_tgid();
  u32 tgid = me >> 32;
  if (!watched(tgid)) return 0;
  /* EAGAIN, ECONNRESET, EPIPE. */
  bool blocked = result == -11 && direction == QMP_TAP_OUT, broken = result == -104 || result == -32;
  if (!sk || (result < 0 && !blocked && !broken)) return 0;
  u64 ino = inode_of(sk);
  if (!ino) {
    stat_add(QMP_TAP_STAT_READ_FAILED, 1);
    return 0;
  }
  struct qmp_tap_socket* known = bpf_map_lookup_elem(&sockets, &ino);
  if (known && known->verdict != QMP_TAP_MONITOR) return 0;
  if (!known && result <= 0) return 0;
  u64 before = known ? known->bytes[QMP_TAP_IN] : 0;
  if (known && direction == QMP_TAP_IN && result == 1 && hold(known)) return 0;
  struct copying c = {};
  struct qmp_tap_event* event = &c.event;
  event->ino = ino;
  event->time_ns = bpf_ktime_get_boot_ns();
  event->tgid = tgid;
  event->tid = me;
  event->direction = direction;
  bool placed = result > 0 && find_place(&c.place);
  if (!known && placed && direction == QMP_TAP_OUT && greets(first_byte(&c.place)))
    known = register_monitor(event->ino);
  event->flags = QMP_TAP_FIRST | (known ? QMP_TAP_KNOWN : 0);
  read_peer(sk, event);
  if (known && direction == QMP_TAP_IN) {
    let_go(event, known);
    /* The byte itself was held. */
    if (known->bytes[QMP_TAP_IN] != before) return 0;
  }
  stat_add(known ? QMP_TAP_STAT_CALLS : QMP_TAP_STAT_UNKNOWN, 1);
  if (result <= 0) {
    /* A send of nothing is no news. */
    if (!known || (result == 0 && direction == QMP_TAP_OUT)) return 0;
    event->offset = known->bytes[direction & 1];
    tell(event, blocked ? QMP_TAP_BLOCKED : QMP_TAP_CLOSED, 0);
    return 0;
  }
  u64 bytes = result;
  if (known) event->offset = __sync_fetch_and_add(&known->bytes[direction & 1], bytes);
  if (!placed) {
    if (known) stat_add(QMP_TAP_STAT_UNREAD, 1);
    tell(event, QMP_TAP_SKIPPED, bytes);
    return 0;
  }
  event->what = QMP_TAP_DATA;
  if (!known && bytes > QMP_TAP_GLANCE && !speaks_json(&c.place)) {
    event->missing = bytes - QMP_TAP_GLANCE > 0xffffffffu ? 0xffffffffu : bytes - QMP_TAP_GLANCE;
    bytes = QMP_TAP_GLANCE;
  }
  copy(&c, bytes);
  return 0;
}

/* Since Linux 6.3. They fire for the sends and receives of all sockets. */
SEC("tp_btf/sock_send_length")
int btf_sock_send_length(u64* ctx) {
  return moved((struct sock*)ctx[0], (s32)ctx[1], QMP_TAP_OUT);
}

SEC("tp_btf/sock_recv_length")
int btf_sock_recv_length(u64* ctx) {
  if (ctx[2] & MSG_PEEK_) return 0;
  return moved((struct sock*)ctx[0], (s32)ctx[1], QMP_TAP_IN);
}

/* Before: the functions of stream sockets of the Unix family alone. */
SEC("fexit/unix_stream_sendmsg")
int leave_unix_stream_sendmsg(u64* ctx) {
  return moved(((struct socket*)ctx[0])->sk, (s32)ctx[3], QMP_TAP_OUT);
}

SEC("fexit/unix_stream_recvmsg")
int leave_unix_stream_recvmsg(u64* ctx) {
  if (ctx[3] & MSG_PEEK_) return 0;
  return moved(((struct socket*)ctx[0])->sk, (s32)ctx[4], QMP_TAP_IN);
}

/* Programs that are started rarely: those whose name begins like a QEMU's are watched from here on, so that
 * their first words are heard, and told of. */
SEC("raw_tp/sched_process_exec")
int raw_sched_process_exec(struct bpf_raw_tracepoint_args* ctx) {
  char comm[16] = {};
  bpf_get_current_comm(comm, sizeof(comm));
  bool qemu = comm[0] == 'q' && comm[1] == 'e' && comm[2] == 'm' && comm[3] == 'u';
  bool kvm = comm[0] == 'k' && comm[1] == 'v' && comm[2] == 'm' && comm[3] == 0;
  if (!qemu && !kvm) return 0;
  struct qmp_tap_event event = {};
  event.time_ns = bpf_ktime_get_boot_ns();
  event.tgid = bpf_get_current_pid_tgid() >> 32;
  u8 one = 1;
  bpf_map_update_elem(&watched_pids, &event.tgid, &one, BPF_ANY);
  tell(&event, QMP_TAP_EXEC, 0);
  return 0;
}
