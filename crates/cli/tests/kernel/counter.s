# A kernel that counts, and that notices when its memory is not its own any more.
#
# Entered as PVH says: 32-bit protected mode, paging off, ebx at hvm_start_info. It finds the ends of its memory below
# 3 GiB and above 4 GiB in the memory map. In round n, page n mod 64 of each of the two regions gets n as its first word
# and its own address as its last; the pages are spread from the region's end downwards, so that the last page of each
# memslot is one of them. Every 16 rounds it looks at all pages, and at a copy of n in memory (n itself lives in a
# register), and prints "tick N" or "BAD ...", after which it stands still. A command line that begins with '!' has it
# harm the last page of its memory in round 128, to show that it would notice.
#
# Everything here is position dependent and not linked: it lies at CODE in the guest.

.set counter_CODE, 0x200000
.set counter_TABLES, 0x300000
.set counter_COPY, 0x309000
.set counter_STACK, 0x30b000
.set counter_STRIDE, 0x21000

.pushsection .rodata.counter, "a", @progbits
.balign 16
.globl counter_begin
.hidden counter_begin
counter_begin:

.code32
    cli
    cld
    movl $counter_STACK, %esp
    movl %ebx, %ebp

    # One to one: 6 GiB in pages of 2 MiB. The tables are zero, being loaded as such.
    movl $(counter_TABLES + 0x1003), counter_TABLES
    movl $(counter_TABLES + 0x1000), %edi
    movl $(counter_TABLES + 0x2003), %eax
    movl $6, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    decl %ecx
    jnz 1b
    movl $(counter_TABLES + 0x2000), %edi
    movl $0x83, %eax
    xorl %edx, %edx
    movl $(6 * 512), %ecx
2:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl $0x200000, %eax
    adcl $0, %edx
    addl $8, %edi
    decl %ecx
    jnz 2b

    lgdt counter_gdt_pointer - counter_begin + counter_CODE
    movl %cr4, %eax
    orl $0x20, %eax             # PAE
    movl %eax, %cr4
    movl $counter_TABLES, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER: LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax       # PG, PE
    movl %eax, %cr0
    ljmpl $0x8, $(counter_long - counter_begin + counter_CODE)

.code64
counter_long:
    movl $0x10, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl %ebp, %ebp
    cmpl $0x336ec578, (%rbp)    # the magic number of hvm_start_info
    jne counter_no_start_info

    # r13: end of the memory that begins at 1 MiB; r14: end of that above 4 GiB, or 0
    xorl %r13d, %r13d
    xorl %r14d, %r14d
    movq 40(%rbp), %rsi
    movl 48(%rbp), %ecx
    movq $0x100000000, %rbx
3:  cmpl $1, 16(%rsi)           # memory
    jne 5f
    movq (%rsi), %rax
    movq 8(%rsi), %rdx
    addq %rax, %rdx
    cmpq $0x100000, %rax
    jne 4f
    movq %rdx, %r13
4:  cmpq %rbx, %rax
    jb 5f
    movq %rdx, %r14
5:  addq $24, %rsi
    decl %ecx
    jnz 3b

    leaq counter_hello(%rip), %rsi
    call counter_text
    movq %r13, %rdi
    call counter_number
    leaq counter_and(%rip), %rsi
    call counter_text
    movq %r14, %rdi
    call counter_number
    leaq counter_told(%rip), %rsi
    call counter_text
    movq 24(%rbp), %rsi         # the command line
    call counter_text
    call counter_line

    xorl %r12d, %r12d
counter_round:
    incq %r12
    movq %r12, counter_COPY
    movl %r12d, %r9d
    andl $63, %r9d
    movq %r13, %r8
    call counter_write
    testq %r14, %r14
    jz 6f
    movq %r14, %r8
    call counter_write
6:  testl $15, %r12d
    jnz counter_round

    movq 24(%rbp), %rsi
    cmpb $'!', (%rsi)
    jne 16f
    cmpq $128, %r12
    jne 16f
    decq -8(%r8)                # r8: end of the region written last
16:

    movl $counter_COPY, %edi
    movq %r12, %r11
    cmpq (%rdi), %r11
    jne counter_bad
    movq %r13, %r8
    call counter_look
    testq %r14, %r14
    jz 7f
    movq %r14, %r8
    call counter_look
7:  leaq counter_tick(%rip), %rsi
    call counter_text
    movq %r12, %rdi
    call counter_number
    call counter_line
    jmp counter_round

# Writes page r9 of the region that ends at r8.
counter_write:
    call counter_page
    movq %r12, (%rdi)
    movq %rdi, 4088(%rdi)
    ret

# Looks at all pages of the region that ends at r8.
counter_look:
    xorl %r9d, %r9d
8:  call counter_page
    movl %r12d, %eax
    subl %r9d, %eax
    andl $63, %eax
    movq %rdi, %rbx
    movq %r12, %r11
    subq %rax, %r11             # the last round that wrote page r9
    jg 9f
    xorl %r11d, %r11d           # none so far
    xorl %ebx, %ebx
9:  cmpq (%rdi), %r11
    jne counter_bad
    cmpq 4088(%rdi), %rbx
    jne counter_bad
    incl %r9d
    cmpl $64, %r9d
    jb 8b
    ret

# rdi: address of page r9 of the region that ends at r8.
counter_page:
    movl $63, %edi
    subl %r9d, %edi
    imulq $counter_STRIDE, %rdi, %rdi
    negq %rdi
    leaq -0x1000(%r8,%rdi), %rdi
    ret

counter_bad:                    # rdi: address, r11: what its first word should be
    movq %rdi, %rbx
    leaq counter_is_bad(%rip), %rsi
    call counter_text
    movq %rbx, %rdi
    call counter_number
    leaq counter_expected(%rip), %rsi
    call counter_text
    movq %r11, %rdi
    call counter_number
    leaq counter_found(%rip), %rsi
    call counter_text
    movq (%rbx), %rdi
    call counter_number
    leaq counter_found(%rip), %rsi
    call counter_text
    movq 4088(%rbx), %rdi
    call counter_number
    call counter_line
10: hlt
    jmp 10b

counter_no_start_info:
    leaq counter_is_bad(%rip), %rsi
    call counter_text
    call counter_line
11: hlt
    jmp 11b

# Prints rdi in 16 hexadecimal digits.
counter_number:
    movl $16, %ecx
12: rolq $4, %rdi
    movl %edi, %eax
    andl $15, %eax
    addl $0x30, %eax
    cmpl $0x39, %eax
    jbe 13f
    addl $39, %eax
13: call counter_byte
    decl %ecx
    jnz 12b
    ret

# Prints the text at rsi, up to its zero.
counter_text:
    movzbl (%rsi), %eax
    testl %eax, %eax
    jz 14f
    call counter_byte
    incq %rsi
    jmp counter_text
14: ret

counter_line:
    movl $10, %eax

# Prints al at COM1, when the transmitter is empty.
counter_byte:
    movl %eax, %r10d
    movl $0x3fd, %edx
15: inb %dx, %al
    testb $0x20, %al
    jz 15b
    movl %r10d, %eax
    movl $0x3f8, %edx
    outb %al, %dx
    ret

.balign 8
counter_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
counter_gdt_pointer:
    .word counter_gdt_pointer - counter_gdt - 1
    .long counter_gdt - counter_begin + counter_CODE
counter_hello:
    .asciz "memory ends at "
counter_and:
    .asciz " and "
counter_told:
    .asciz "; told: "
counter_tick:
    .asciz "tick "
counter_is_bad:
    .asciz "BAD "
counter_expected:
    .asciz " should be "
counter_found:
    .asciz " is "

.globl counter_end
.hidden counter_end
counter_end:
.popsection
