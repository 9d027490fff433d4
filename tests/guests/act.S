// SPDX-License-Identifier: BSD-2-Clause
// Boot sector: waits DELAY ticks of the BIOS clock (55 ms each), prints 'G' on COM1, does the one thing that ACT names,
// then idles. The ports are those of QEMU's machine "pc" as SeaBIOS sets it up.

#ifndef DELAY
#define DELAY 3
#endif
#define COM1 0x3f8
#define PVPANIC 0x505     /* -device pvpanic: bit 0 panicked, bit 1 crash loaded */
#define PM1A_CNT 0x604    /* ACPI: sleep type in bits 10 to 12, sleep enable in bit 13 */
#define IB700 0x443       /* -device ib700: starts the timer; low nibble 15 - s/2 */
#define RESET_CONTROL 0xcf9
#define DUTY 3            /* of ten ticks */
#define DEBUGCON 0xe9

        .code16
        .globl  _start
_start: cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti

        mov     0x46c, %bx              // ticks, counted by the BIOS
1:      hlt
        mov     0x46c, %ax
        sub     %bx, %ax
        cmp     $DELAY, %ax
        jb      1b
        mov     $COM1, %dx
        mov     $'G', %al
        out     %al, %dx

#if defined(ACT_panic)
        mov     $PVPANIC, %dx
        mov     $1, %al
        out     %al, %dx
#elif defined(ACT_crash_loaded)
        mov     $PVPANIC, %dx
        mov     $2, %al
        out     %al, %dx
#elif defined(ACT_triple_fault)
        lidt    nowhere                 // no handler for int3, none for the double fault
        int3
#elif defined(ACT_shutdown)
        mov     $PM1A_CNT, %dx
        mov     $0x2000, %ax            // sleep type 0: S5
        out     %ax, %dx
#elif defined(ACT_suspend)
        mov     $PM1A_CNT, %dx
        mov     $0x2400, %ax            // sleep type 1: S3
        out     %ax, %dx
#elif defined(ACT_watchdog)
        mov     $IB700, %dx
        mov     $15, %al                // the shortest; nobody feeds it
        out     %al, %dx
#elif defined(ACT_reset)
        mov     $RESET_CONTROL, %dx
        mov     $6, %al
        out     %al, %dx
#elif defined(ACT_busy)
2:      jmp     2b
#elif defined(ACT_ports)
2:      out     %al, $0x80
        jmp     2b
#elif defined(ACT_dirty)
2:      mov     $0x1000, %ax            // a word in each page from 64 KiB to 576 KiB
3:      mov     %ax, %es
        incw    %es:0
        add     $0x100, %ax
        cmp     $0x9000, %ax
        jb      3b
        mov     %cr0, %eax              // write protection on or off: the TLB is flushed, without which QEMU before 9.0
        xor     $0x10000, %eax          // loses sight of what an emulated guest writes
        mov     %eax, %cr0
        jmp     2b
#elif defined(ACT_duty)
        mov     $0x36, %al              // the timer: mode 3, 1193182 Hz / 11932 = 100 ticks a second
        out     %al, $0x43
        mov     $(11932 & 0xff), %al
        out     %al, $0x40
        mov     $(11932 >> 8), %al
        out     %al, $0x40
        mov     0x46c, %bx
        xor     %esi, %esi              // spun, and
        xor     %edi, %edi              // halted, in 1024 ticks of the time stamp counter
        call    now
cycle:  add     $DUTY, %bx
2:      mov     0x46c, %ax
        sub     %bx, %ax
        js      2b
        call    now
        add     %ecx, %esi
        add     $(10 - DUTY), %bx
3:      hlt
        mov     0x46c, %ax
        sub     %bx, %ax
        js      3b
        call    now
        add     %ecx, %edi
        mov     %esi, %ecx
        call    put
        mov     %edi, %ecx
        call    put
        jmp     cycle
now:    rdtsc                           // ecx: since the last call
        shrd    $10, %edx, %eax
        mov     %eax, %ecx
        sub     %ebp, %ecx
        mov     %eax, %ebp
        ret
put:    mov     $DEBUGCON, %dx
        .rept   4
        mov     %cl, %al
        out     %al, %dx
        shr     $8, %ecx
        .endr
        ret
#elif !defined(ACT_idle)
#error "no such act"
#endif

idle:   hlt
        jmp     idle

nowhere:
        .word   0
        .long   0

        .org    510
        .word   0xaa55
