// SPDX-License-Identifier: BSD-2-Clause
// A firmware of its own (-bios) that does little but leave the guest: ROUNDS rounds of OUTS writes to port 0x80. After
// each round it writes how many ticks of the time stamp counter the round took to port 0x402 (-device
// isa-debugcon,iobase=0x402): 8 bytes, least significant first. Then the end by isa-debug-exit at port 0x501.
// So the guest itself tells how much slower it became, without the start of QEMU.

#define ROUNDS 10
#ifndef OUTS
#define OUTS 20000
#endif

        .code16
        .text
        .globl  _start
_start: cli
        mov     $ROUNDS, %ebp
1:      rdtsc
        mov     %eax, %esi
        mov     %edx, %edi
        mov     $OUTS, %ecx
2:      out     %al, $0x80
        dec     %ecx
        jnz     2b
        rdtsc
        sub     %esi, %eax
        sbb     %edi, %edx
        mov     %edx, %ebx              // edx:eax in bytes, by dx as the port
        mov     $0x402, %dx
        mov     $4, %ecx
3:      out     %al, %dx
        shr     $8, %eax
        dec     %ecx
        jnz     3b
        mov     %ebx, %eax
        mov     $4, %ecx
4:      out     %al, %dx
        shr     $8, %eax
        dec     %ecx
        jnz     4b
        dec     %ebp
        jnz     1b

        mov     $0x501, %dx
        mov     $1, %al
        out     %al, %dx
5:      hlt
        jmp     5b

        // The processor begins 16 bytes below the end of the ROM.
        .org    0xfff0
        ljmp    $0xf000, $_start
        .org    0x10000
