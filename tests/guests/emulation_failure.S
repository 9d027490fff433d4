// SPDX-License-Identifier: BSD-2-Clause
// 64-bit guest for -accel kvm: jumps, in ring 0, to an address that the page tables map but where the machine has no
// memory. KVM must emulate what it cannot fetch, and gives up: KVM_EXIT_INTERNAL_ERROR, "emulation failure". Needs a
// machine with less than 512 MiB.

#include "long_mode.inc"

#define NO_MEMORY 0x20000000

main64: mov     $NO_MEMORY, %rax
        jmp     *%rax
