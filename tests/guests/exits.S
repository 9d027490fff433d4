// SPDX-License-Identifier: BSD-2-Clause
// A firmware of its own (-bios), so that nothing runs but what stands here: a known number of exits of each kind, then
// the end by isa-debug-exit at port 0x501. The numbers are primes, so that no sum of others looks like one of them.
//
//   cpuid 199, rdmsr and wrmsr 149, hlt 23, out to port 0x80 211, MMIO reads of 0xb8000 101
//
// Each hlt ends by one interrupt of the PIT in one-shot mode (3 port writes); the PIC does its own end of interrupt.
// Needs -device VGA,romfile= (without its memory the reads would find RAM) and -accel kvm: QEMU's own APIC passes the
// PIC's interrupts only where its LVT says so.

#define CPUIDS 199
#define RDMSRS 148                      // and one wrmsr
#define HALTS 23
#define OUTS 211
#define READS 101

#define MSR_MISC_ENABLE 0x1a0
#define MSR_APIC_BASE 0x1b
#define TIMER_VECTOR 8

        .code16
        .text
        .globl  _start
_start: cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7000, %sp
        mov     $0xb800, %ax            // VGA's text memory
        mov     %ax, %es

        mov     $CPUIDS, %esi
1:      xor     %eax, %eax
        cpuid
        dec     %esi
        jnz     1b

        mov     $RDMSRS, %esi
2:      mov     $MSR_MISC_ENABLE, %ecx
        rdmsr
        dec     %esi
        jnz     2b

        // Without the local APIC the PIC's interrupts reach the processor as they are.
        mov     $MSR_APIC_BASE, %ecx
        mov     $0xfee00100, %eax       // enabled: no; bootstrap processor
        xor     %edx, %edx
        wrmsr

        mov     $OUTS, %esi
3:      out     %al, $0x80
        dec     %esi
        jnz     3b

        mov     $READS, %esi
4:      mov     %es:0, %al
        dec     %esi
        jnz     4b

        // IVT entry of the timer: an iret in this segment.
        movw    $tick, TIMER_VECTOR * 4
        movw    $0xf000, TIMER_VECTOR * 4 + 2
        mov     $0x11, %al              // ICW1: cascade, ICW4 follows
        out     %al, $0x20
        mov     $TIMER_VECTOR, %al      // ICW2
        out     %al, $0x21
        mov     $0x04, %al              // ICW3
        out     %al, $0x21
        mov     $0x03, %al              // ICW4: 8086, automatic end of interrupt
        out     %al, $0x21
        mov     $0xfe, %al              // only the timer
        out     %al, $0x21

        mov     $HALTS, %esi
5:      mov     $0x30, %al              // counter 0, low and high byte, one shot
        out     %al, $0x43
        mov     $0x00, %al
        out     %al, $0x40
        mov     $0x20, %al              // 0x2000 ticks: 7 ms
        out     %al, $0x40
        sti
        hlt
        cli
        dec     %esi
        jnz     5b

        mov     $0x501, %dx
        mov     $1, %al
        out     %al, %dx
6:      hlt
        jmp     6b

tick:   iret

        // The processor begins 16 bytes below the end of the ROM.
        .org    0xfff0
        ljmp    $0xf000, $_start
        .org    0x10000
