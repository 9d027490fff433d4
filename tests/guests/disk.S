// SPDX-License-Identifier: BSD-2-Clause
// Boot sector: writes (-DWRITE) or reads the first hard disk for ever, 64 KiB at a time, through the BIOS
// (int 13h, extended functions), so that any disk controller that SeaBIOS knows will do. Prints on COM1 a '.' for each
// request that succeeded, an 'E' for each that failed.
//
// Range: from FIRST to LIMIT, in sectors of 512 bytes; then again from FIRST. The disk needs 64 MiB.

#define FIRST 2048        /* 1 MiB */
#define LIMIT 128000      /* 62.5 MiB */
#define SECTORS 128       /* 64 KiB: the most that one BIOS request takes */
#define BUFFER 0x1000     /* segment of the data */
#define COM1 0x3f8

#ifdef WRITE
#define FUNCTION 0x4300
#else
#define FUNCTION 0x4200
#endif

        .code16
        .globl  _start
_start: cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti

next:   mov     $packet, %si
        mov     $FUNCTION, %ax
        mov     $0x80, %dl              // the first hard disk
        int     $0x13
        mov     $'.', %al
        jnc     1f
        mov     $'E', %al
1:      mov     $COM1, %dx
        out     %al, %dx
        // A failed request may have changed the count: set both.
        movw    $SECTORS, packet + 2
        mov     lba, %eax
        add     $SECTORS, %eax
        cmp     $LIMIT, %eax
        jb      2f
        mov     $FIRST, %eax
2:      mov     %eax, lba
        jmp     next

        .balign 4
packet: .byte   16, 0                   // size of this packet
        .word   SECTORS
        .word   0, BUFFER               // offset, segment
lba:    .long   FIRST, 0

        .org    510
        .word   0xaa55
