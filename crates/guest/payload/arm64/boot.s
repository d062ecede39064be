// From the entry to EL0, and what EL1 does afterwards: every vCPU comes through here.
//
// Translation tables are complete in the image, with their access flags set: the processor never writes to them, so
// they never show up as dirtied pages. Memory is mapped by blocks of 1 GiB, in its first GiB of 2 MiB, and in the first
// of these, where the program lies, by pages: what EL0 may write to, EL1 may not execute.

.set STACK_SHIFT, 14
.set SAVED_SHIFT, 6
.set MAX_VCPUS, 64
.set RAM, 0x40000000
.set TEXT_FIRST, 0x80           // pages of 4 KiB from the start of RAM on; as the linker script has it
.set TEXT_END, 0xa0

.set TABLE, 0x3                 // a table, or a page in a table of the last level
.set BLOCK, 0x1
.set DEVICE, 1 << 2 | 1 << 6 | 1 << 10 | 3 << 53              // attribute 1, for EL0 too, accessed, never executed
.set DATA, 1 << 6 | 3 << 8 | 1 << 10 | 3 << 53                // attribute 0, for EL0 too, shared, accessed, never executed
.set TEXT, 3 << 6 | 3 << 8 | 1 << 10                          // read only

.set MAIR, 0x04ff               // attribute 0: memory, cached; 1: device, nGnRE
.set TCR, 0x200803519           // 39 bits by TTBR0 in granules of 4 KiB, shared and cached walks, none by TTBR1, 40 bits out
// RES1 bits; nTWE, nTWI; I; UMA; SA0, SA; C; M
.set SCTLR, 0x30d00800 | 1 << 18 | 1 << 16 | 1 << 12 | 1 << 9 | 1 << 4 | 1 << 3 | 1 << 2 | 1
.set EL0_MASKED, 0x3c0

.set SYNDROME_SVC, 0x15
.set FIRST_LPI, 8192

.section .text.boot, "ax"
.globl entry
entry:                          // x0: address of the mailbox, x1: number of the vCPU
    msr daifset, #0xf
    cmp x1, #MAX_VCPUS
    b.hs park

    ldr x2, =MAIR
    msr mair_el1, x2
    ldr x2, =TCR
    msr tcr_el1, x2
    adr x2, level1
    msr ttbr0_el1, x2
    isb
    tlbi vmalle1
    dsb nsh
    isb
    ldr x2, =SCTLR
    msr sctlr_el1, x2
    isb

    adr x2, vectors
    msr vbar_el1, x2
    mov x2, #3 << 20            // FPEN: nothing of floating point is trapped
    msr cpacr_el1, x2
    mov x2, #2                  // EL0VCTEN: EL0 reads the virtual counter
    msr cntkctl_el1, x2

    add x2, x1, #1
    ldr x3, =stacks
    add x3, x3, x2, lsl #STACK_SHIFT
    msr sp_el0, x3
    ldr x3, =saved
    add x3, x3, x2, lsl #SAVED_SHIFT
    mov sp, x3
    msr tpidr_el1, xzr
    msr tpidrro_el0, xzr

    adr x2, start
    b to_el0

park:
    wfi
    b park

to_el0:                         // x2: where to
    msr elr_el1, x2
    mov x2, #EL0_MASKED
    msr spsr_el1, x2
    eret

// An exception that nobody expects: EL0 reports it, as it has the console.
unexpected:
    mrs x0, esr_el1
    mrs x1, elr_el1
    adr x2, fault
    mrs x3, far_el1
    msr elr_el1, x2
    mov x2, #EL0_MASKED
    msr spsr_el1, x2
    mov x2, x3
    eret

// The one call that EL0 makes: switches this vCPU's interface on, with x0 the address of the word that counts
// interrupts other than LPIs of the program, and x1 how many of these there are, counted in the words behind it.
synchronous:
    stp x2, x3, [sp, #-16]
    mrs x2, esr_el1
    lsr x2, x2, #26
    cmp x2, #SYNDROME_SVC
    b.ne unexpected
    msr tpidr_el1, x0
    msr tpidrro_el0, x1
    mov x2, #7                  // SRE, and no bypass
    msr S3_0_C12_C12_5, x2      // ICC_SRE_EL1
    isb
    mov x2, #0xff
    msr S3_0_C4_C6_0, x2        // ICC_PMR_EL1
    msr S3_0_C12_C12_4, xzr     // ICC_CTLR_EL1: EOI drops the priority and deactivates
    mov x2, #1
    msr S3_0_C12_C12_7, x2      // ICC_IGRPEN1_EL1
    isb
    ldp x2, x3, [sp, #-16]
    eret

interrupt:
    stp x0, x1, [sp, #-32]
    stp x2, x3, [sp, #-16]
1:  mrs x0, S3_0_C12_C12_0      // ICC_IAR1_EL1
    dsb sy
    sub x1, x0, #1020           // 1020 to 1023: there is none
    cmp x1, #4
    b.lo 2f
    msr S3_0_C12_C12_1, x0      // ICC_EOIR1_EL1
    isb
    sub x1, x0, #FIRST_LPI
    mrs x2, tpidrro_el0
    cmp x1, x2
    csinc x1, xzr, x1, hs       // the word of another interrupt, or the LPI's behind it
    mrs x2, tpidr_el1
    ldr x3, [x2, x1, lsl #3]
    add x3, x3, #1
    str x3, [x2, x1, lsl #3]
    b 1b
2:  ldp x0, x1, [sp, #-32]
    ldp x2, x3, [sp, #-16]
    eret

.macro vector to
    .balign 0x80
    b \to
.endm

.balign 0x800
vectors:
    .rept 8                     // from EL1
    vector unexpected
    .endr
    vector synchronous          // from EL0
    vector interrupt
    .rept 6
    vector unexpected
    .endr

.section .data.tables, "aw", @progbits
.balign 4096
level1:
    .quad DEVICE | BLOCK
    .quad level2 + TABLE
    .set gib, 2
    .rept 510
    .quad (gib << 30) | DATA | BLOCK
    .set gib, gib + 1
    .endr
level2:
    .quad level3 + TABLE
    .set block, 1
    .rept 511
    .quad (RAM + (block << 21)) | DATA | BLOCK
    .set block, block + 1
    .endr
level3:
    .set page, 0
    .rept TEXT_FIRST
    .quad (RAM + (page << 12)) | DATA | TABLE
    .set page, page + 1
    .endr
    .rept TEXT_END - TEXT_FIRST
    .quad (RAM + (page << 12)) | TEXT | TABLE
    .set page, page + 1
    .endr
    .rept 512 - TEXT_END
    .quad (RAM + (page << 12)) | DATA | TABLE
    .set page, page + 1
    .endr

.section .bss.stacks, "aw", @nobits
.balign 4096
saved:                          // what EL1 keeps of EL0 while it does something, below the end of each vCPU's part
    .zero MAX_VCPUS << SAVED_SHIFT
stacks:
    .zero MAX_VCPUS << STACK_SHIFT
