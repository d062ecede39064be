# The guest of the comparison: increments one word in every page of a region, over and over, as fast as it can.
#
# A PVH kernel of one vCPU, for every monitor that boots one. The loop runs in ring 3, because some hosts emulate ring 0 an
# instruction at a time. Assembled with --defsym PAGES=… (pages of the region, which begins at 64 MiB).

.set REGION, 64 << 20
.set TABLE, 0x67                # present, writable, user, accessed, dirty: the processor never writes to the tables
.set LARGE, 0xe7

.section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18              # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start

.section .text, "ax", @progbits
.code32
.globl start
start:
    cli
    lgdt gdt_pointer
    movl %cr4, %eax
    orl $0x20, %eax             # PAE
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER: LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax       # PG, PE
    movl %eax, %cr0
    ljmpl $0x08, $long_mode
.code64
long_mode:
    movl $0x10, %eax
    movl %eax, %ss
    movl $pml4, %esp             # the zeros below the tables are the stack of the one return to ring 3
    pushq $0x18 | 3             # no stack is used in ring 3
    pushq $0
    pushq $0x2                  # interrupts off
    pushq $0x20 | 3
    pushq $user
    iretq
user:
    movl $REGION, %edi
    movl $PAGES, %ecx
1:
    incq (%rdi)
    addq $4096, %rdi
    decl %ecx
    jnz 1b
    jmp user

.section .data, "aw", @progbits
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
    .balign 4096
    .zero 4096
pml4:
    .quad pdpt + TABLE
    .zero 511 * 8
pdpt:
    .quad directory + TABLE
    .zero 511 * 8
directory:
    .set page, 0
    .rept 512
    .quad (page << 21) + LARGE
    .set page, page + 1
    .endr
