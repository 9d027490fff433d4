/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* The kernel's structs of sockets and of who is at their other end, as far as probes read them; see
 * kernel.bpf.h. */

#include "bpf/include/storage.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct upid {
  int nr;
};
struct pid {
  struct upid numbers[1];
};
typedef struct {
  u32 val;
} kuid_t;
struct cred {
  kuid_t uid;
};
struct sock_common {
  unsigned short skc_family;
};
struct socket;
struct sock {
  struct sock_common __sk_common;
  struct socket* sk_socket;
  struct pid* sk_peer_pid;
  const struct cred* sk_peer_cred;
};
struct socket {
  struct file* file;
  struct sock* sk;
};

#pragma clang attribute pop
