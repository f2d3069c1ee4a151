//! All registers at once.

use core::arch::naked_asm;

/// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15, flags.
pub type Registers = [u64; 16];

/// Index of a register in [`Registers`].
pub mod at {
    pub const RAX: usize = 0;
    pub const RCX: usize = 2;
    pub const RDX: usize = 3;
    pub const RSI: usize = 4;
    pub const RDI: usize = 5;
    pub const R11: usize = 10;
    pub const FLAGS: usize = 15;
}

/// Executes `syscall` with all registers as in `registers`, and puts there what they are afterwards.
///
/// # Safety
/// The call that the registers make touches no memory of this program.
pub unsafe fn call(registers: &mut Registers) {
    // SAFETY: the function keeps what the ABI wants kept; the call is the caller's duty.
    unsafe { call_with(registers.as_mut_ptr()) };
}

/// As [`call`], in assembly.
///
/// # Safety
/// The pointer is to sixteen words, and the call that they make touches no memory of this program.
#[unsafe(naked)]
unsafe extern "C" fn call_with(registers: *mut u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "mov rax, [rdi]",
        "mov rbx, [rdi + 8]",
        "mov rcx, [rdi + 16]",
        "mov rdx, [rdi + 24]",
        "mov rsi, [rdi + 32]",
        "mov rbp, [rdi + 48]",
        "mov r8, [rdi + 56]",
        "mov r9, [rdi + 64]",
        "mov r10, [rdi + 72]",
        "mov r11, [rdi + 80]",
        "mov r12, [rdi + 88]",
        "mov r13, [rdi + 96]",
        "mov r14, [rdi + 104]",
        "mov r15, [rdi + 112]",
        "push [rdi + 120]",
        "popfq",
        "mov rdi, [rdi + 40]",
        "syscall",
        // [rsp] is the array; rdi goes to the stack meanwhile.
        "xchg rdi, [rsp]",
        "mov [rdi], rax",
        "mov [rdi + 8], rbx",
        "mov [rdi + 16], rcx",
        "mov [rdi + 24], rdx",
        "mov [rdi + 32], rsi",
        "mov [rdi + 48], rbp",
        "mov [rdi + 56], r8",
        "mov [rdi + 64], r9",
        "mov [rdi + 72], r10",
        "mov [rdi + 80], r11",
        "mov [rdi + 88], r12",
        "mov [rdi + 96], r13",
        "mov [rdi + 104], r14",
        "mov [rdi + 112], r15",
        "pop rax",
        "mov [rdi + 40], rax",
        "pushfq",
        "pop rax",
        "mov [rdi + 120], rax",
        "cld",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Spins until the byte at `stop` is not 0, with patterns in all other registers; returns how many
/// registers had changed.
pub fn spin(stop: &core::sync::atomic::AtomicU8) -> u64 {
    // SAFETY: the function reads the byte and keeps what the ABI wants kept.
    unsafe { spin_on(stop.as_ptr()) }
}

/// As [`spin`], in assembly.
///
/// # Safety
/// The byte can be read.
#[unsafe(naked)]
unsafe extern "C" fn spin_on(stop: *const u8) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov rbx, 0x1111111111111111",
        "lea rcx, [rbx + rbx]",
        "lea rdx, [rcx + rbx]",
        "lea rsi, [rdx + rbx]",
        "lea rbp, [rsi + rbx]",
        "lea r8, [rbp + rbx]",
        "lea r9, [r8 + rbx]",
        "lea r10, [r9 + rbx]",
        "lea r11, [r10 + rbx]",
        "lea r12, [r11 + rbx]",
        "lea r13, [r12 + rbx]",
        "lea r14, [r13 + rbx]",
        "lea r15, [r14 + rbx]",
        "mov eax, 0x12345678",
        // The red zone belongs to the interrupted code.
        "mov [rsp - 8], rbx",
        "mov [rsp - 128], r15",
        "2:",
        "cmp byte ptr [rdi], 0",
        "jz 2b",
        // Each difference counts 1.
        "sub rax, 0x12345678",
        "setnz al",
        "movzx eax, al",
        "cmp [rsp - 8], rbx",
        "setnz dil",
        "add al, dil",
        "cmp [rsp - 128], r15",
        "setnz dil",
        "add al, dil",
        "sub r15, r14",
        "cmp r15, rbx",
        "setnz dil",
        "add al, dil",
        "sub r14, r13",
        "cmp r14, rbx",
        "setnz dil",
        "add al, dil",
        "sub r13, r12",
        "cmp r13, rbx",
        "setnz dil",
        "add al, dil",
        "sub r12, r11",
        "cmp r12, rbx",
        "setnz dil",
        "add al, dil",
        "sub r11, r10",
        "cmp r11, rbx",
        "setnz dil",
        "add al, dil",
        "sub r10, r9",
        "cmp r10, rbx",
        "setnz dil",
        "add al, dil",
        "sub r9, r8",
        "cmp r9, rbx",
        "setnz dil",
        "add al, dil",
        "sub r8, rbp",
        "cmp r8, rbx",
        "setnz dil",
        "add al, dil",
        "sub rbp, rsi",
        "cmp rbp, rbx",
        "setnz dil",
        "add al, dil",
        "sub rsi, rdx",
        "cmp rsi, rbx",
        "setnz dil",
        "add al, dil",
        "sub rdx, rcx",
        "cmp rdx, rbx",
        "setnz dil",
        "add al, dil",
        "sub rcx, rbx",
        "cmp rcx, rbx",
        "setnz dil",
        "add al, dil",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}
