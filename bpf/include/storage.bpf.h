/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#pragma once
/* The kernel's structs of files and block requests as far as probes read them; see kernel.bpf.h. */

#include "bpf/include/base.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
  u32 s_dev;
};
struct inode {
  unsigned long i_ino;
  u32 i_rdev;
  struct super_block* i_sb;
  long long i_size;
};
struct address_space {
  struct inode* host;
};
struct file {
  struct inode* f_inode;
  struct address_space* f_mapping;
};
struct fdtable {
  unsigned int max_fds;
  struct file** fd;
};
struct files_struct {
  struct fdtable* fdt;
};
struct task_struct {
  int pid;
  int tgid;
  struct files_struct* files;
};

struct gendisk {
  int major;
  int first_minor;
  char disk_name[32];
};
struct request_queue {
  struct gendisk* disk;
};
struct request {
  struct request_queue* q;
  u32 cmd_flags;
  u32 __data_len;
  u64 __sector;
};

struct block_device {
  struct gendisk* bd_disk;
};
struct bvec_iter {
  u64 bi_sector;
  unsigned int bi_size;
};
struct bio {
  struct block_device* bi_bdev;
  u32 bi_opf;
  u8 bi_status;
  struct bvec_iter bi_iter;
};

/* 6.11 gave the tracepoint the whole entry. */
struct io_uring_cqe {
  u64 user_data;
  s32 res;
};
struct kiocb {
  long long ki_pos;
};
struct io_rw {
  u32 len;
};
struct io_uring_task {
  struct task_struct* task;
};
struct io_kiocb {
  struct file* file;
  u8 opcode;
  struct io_uring_task* tctx;
};
/* Before b6f58a3f4aa8 (6.13). */
struct io_kiocb___v6_12 {
  struct task_struct* task;
};

#pragma clang attribute pop
