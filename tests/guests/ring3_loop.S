// SPDX-License-Identifier: BSD-2-Clause
// 64-bit guest: counts in ring 3 for ever. After each hundred million steps it prints 'U' on COM1 and asks cpuid, so
// that under -accel kvm it leaves the guest now and then, and else runs at the CPU's own speed.

#include "long_mode.inc"

main64: ENTER_RING3 user

user:   PRINT   'U'
        mov     $100000000, %rcx
1:      dec     %rcx
        jnz     1b
        xor     %eax, %eax
        cpuid
        jmp     user
