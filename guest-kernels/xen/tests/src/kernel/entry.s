/* Where the kernel starts, what its file says of it, and where its handlers are entered. */

    .section .xen.page, "ax", @progbits
    .globl hypercall_page
    .balign 4096
hypercall_page:
    .fill 4096, 1, 0xcc

    .macro NOTE_TEXT type, text
    .balign 4
    .long 4, 2f - 1f, \type
    .asciz "Xen"
1:  .asciz "\text"
2:  .balign 4
    .endm
    .macro NOTE_NUMBER type, value
    .balign 4
    .long 4, 8, \type
    .asciz "Xen"
    .quad \value
    .endm

    .section .note.Xen, "a", @note
    NOTE_NUMBER 1, _start
    NOTE_NUMBER 2, hypercall_page
    NOTE_NUMBER 3, 0xffffffff80000000
    NOTE_NUMBER 4, 0
    NOTE_TEXT 5, "xen-3.0"
    NOTE_TEXT 6, "cloister-tests"
    NOTE_TEXT 8, "generic"

    .text
    .globl _start, second_start
_start:
    mov rdi, rsi
    mov rsi, rsp
    mov edx, cs
    mov ecx, ss
    lea rsp, [rip + {stacks} + 0x8000]
    xor ebp, ebp
    call {main}
    ud2
second_start:
    lea rsp, [rip + {stacks} + 0x10000]
    xor ebp, ebp
    call {second}
    ud2

/* The hypervisor has pushed: rcx, r11, an error code or nothing, rip, cs, rflags, rsp, ss. */
    .macro HANDLER number, has_code
    .globl handler_\number
handler_\number:
    pop rcx
    pop r11
    .if \has_code == 0
    push 0
    .endif
    push \number
    jmp handle
    .endm
    .irp number, 0,1,2,3,4,5,6,7,9,15,16,18,19,20,22,23,24,25,26,27,28,29,30,31,32,33,34,128,256,257
    HANDLER \number, 0
    .endr
    .irp number, 8,10,11,12,13,14,17,21
    HANDLER \number, 1
    .endr

handle:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    call {on_trap}
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    push 0
    jmp hypercall_page + 23 * 32

/* run_user(rip, rsp, rdi of user mode, rflags): until user mode traps or calls. */
    .globl run_user, user_left
run_user:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov gs:[16], rsp
    mov r8, 0xe02b
    push r8
    push rsi
    push rcx
    mov r8, 0xe033
    push r8
    push rdi
    push 0
    mov rdi, rdx
    jmp hypercall_page + 23 * 32
user_left:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

/* What user mode executes; its page is shown to it. */
    .balign 4096
    .globl user_code, user_syscall, user_read, user_write, user_int33, user_int34, user_int128, user_ud, user_cli
user_code:
user_syscall:
    syscall
    ud2
user_read:
    mov rax, [rdi]
    syscall
user_write:
    mov [rdi], rax
    syscall
user_int33:
    int 33
    syscall
user_int34:
    int 34
    syscall
user_int128:
    int 128
    syscall
user_ud:
    ud2
user_cli:
    cli
    syscall
    .balign 4096
