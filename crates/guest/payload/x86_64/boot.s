# From the PVH entry to ring 3: every vCPU comes through here.
#
# Ring 0 does as little as it can, because some hosts emulate it an instruction at a time. Page tables are complete in
# the file, with their accessed and dirty bits set: the processor never writes to them, so they never show up as
# dirtied pages.

.set STACK_SHIFT, 14
.set MAX_VCPUS, 64
.set MAPPED_BY_2M, 16           # GiB; the rest of the first 512 GiB is mapped by pages of 1 GiB
.set TABLE, 0x67                # present, writable, user, accessed, dirty
.set LARGE, 0xe7                # the same, and large

.set KERNEL_CODE, 0x08
.set KERNEL_DATA, 0x10
.set USER_DATA, 0x18 | 3
.set USER_CODE, 0x20 | 3
.set TASK, 0x28               # the first of one a vCPU, 16 bytes each

# XEN_ELFNOTE_PHYS32_ENTRY
.section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start

.section .text.boot, "ax", @progbits
.code32
.globl pvh_start
pvh_start:                      # ebx: physical address of hvm_start_info
    cli
    cld
    movl %ebx, %esi

    movl $1, %eax
    cpuid
    shrl $24, %ebx              # initial APIC id
    movl %ebx, %edi
    cmpl $MAX_VCPUS, %edi
    jae halt

    xorl %ebp, %ebp             # whether pages of 1 GiB exist
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb 1f
    movl $0x80000001, %eax
    cpuid
    shrl $26, %edx
    andl $1, %edx
    movl %edx, %ebp
1:
    lgdt gdt_pointer

    movl %cr4, %eax
    orl $0x620, %eax            # PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3

    movl $0xc0000080, %ecx      # EFER: LME
    rdmsr
    orl $0x100, %eax
    wrmsr

    movl %cr0, %eax
    andl $~0xc, %eax            # EM, TS
    orl $0x80000003, %eax       # PG, MP, PE
    movl %eax, %cr0
    ljmpl $KERNEL_CODE, $long_mode

halt:
    cli
    hlt
    jmp halt

.code64
long_mode:
    movl $KERNEL_DATA, %eax
    movl %eax, %ss
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs

    movl %edi, %ecx             # the task's port bitmap allows ring 3 the ports, where IOPL 3 does not last
    shll $4, %ecx
    movl $task, %eax
    movw %ax, descriptors + 2(%rcx)
    shrl $16, %eax
    movb %al, descriptors + 4(%rcx)
    movb %ah, descriptors + 7(%rcx)
    addl $TASK, %ecx
    ltr %cx

    leal 1(%edi), %eax
    shll $STACK_SHIFT, %eax
    leaq stacks(%rax), %rsp

    movl %esi, %eax
    movl %edi, %esi             # second argument: index of the vCPU
    movl %eax, %edi             # first: start information
    movl %ebp, %edx             # third: whether pages of 1 GiB exist

    leaq -8(%rsp), %rax         # as if called
    pushq $USER_DATA
    pushq %rax
    pushq $0x3002               # IOPL 3, interrupts off
    pushq $USER_CODE
    pushq $start
    iretq

.section .data.gdt, "aw", @progbits
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
descriptors:                    # of the same task state for each vCPU, as LTR marks a descriptor busy
    .rept MAX_VCPUS
    .quad 0x0000890000000000 + (task_end - task - 1), 0
    .endr
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .balign 128
task:
    .zero 102
    .word ports - task
ports:
    .zero 0x400 / 8             # a zero bit allows its port
    .byte 0xff
task_end:

.section .data.tables, "aw", @progbits
    .balign 4096
pml4:
    .quad pdpt + TABLE
    .zero 511 * 8
pdpt:
    .set gib, 0
    .rept MAPPED_BY_2M
    .quad directories + gib * 4096 + TABLE
    .set gib, gib + 1
    .endr
    .rept 512 - MAPPED_BY_2M
    .quad (gib << 30) + LARGE
    .set gib, gib + 1
    .endr
directories:
    .set page, 0
    .rept 512 * MAPPED_BY_2M
    .quad (page << 21) + LARGE
    .set page, page + 1
    .endr

.section .bss.stacks, "aw", @nobits
    .balign 4096
stacks:
    .zero MAX_VCPUS << STACK_SHIFT
