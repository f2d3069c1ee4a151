//! All general and vector registers and the flags at once.

use core::arch::naked_asm;

/// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
pub type General = [u64; 15];

/// Index of a register in [`General`].
pub mod at {
    #![expect(missing_docs, reason = "registers go by their names")]
    pub const RAX: usize = 0;
    pub const RCX: usize = 2;
    pub const RDX: usize = 3;
    pub const RSI: usize = 4;
    pub const RDI: usize = 5;
    pub const R8: usize = 7;
    pub const R9: usize = 8;
    pub const R10: usize = 9;
    pub const R11: usize = 10;
    /// The six argument registers in order.
    pub const ARGUMENTS: [usize; 6] = [RDI, RSI, RDX, R10, R8, R9];
}

/// What is loaded before and stored after.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct All {
    /// General registers.
    pub general: General,
    /// Flags, for a call.
    pub flags: u64,
    /// Rounds to spin; 0 for one `syscall` instead.
    rounds: u64,
    /// xmm0 to xmm15.
    pub vectors: [u128; 16],
}

/// Flags of compiled code: interrupts on, and the bit that is always one.
const FLAGS: u64 = 0x202;

impl All {
    /// These registers.
    #[must_use]
    pub const fn new(general: General, flags: u64, vectors: [u128; 16]) -> All {
        All { general, flags, rounds: 0, vectors }
    }

    /// A pattern in each register, different for each seed.
    #[must_use]
    pub fn pattern(seed: u64) -> All {
        let mut all = All::new([0; 15], FLAGS, [0; 16]);
        for (register, index) in all.general.iter_mut().zip(1_u64..) {
            *register = seed.wrapping_mul(0x0123_4567_89ab_cdef).wrapping_add(index << 56);
        }
        for (register, index) in all.vectors.iter_mut().zip(1_u128..) {
            *register = u128::from(seed).wrapping_mul(0xfedc_ba98_7654_3210_0123_4567_89ab_cdef).wrapping_add(index);
        }
        all
    }

    /// Spins with these registers; they are then what they are. The flags are not loaded, and are the loop's.
    pub fn spin(&mut self, rounds: u64) {
        self.rounds = rounds.max(1);
        // SAFETY: the function keeps what the ABI wants kept and touches only this value.
        unsafe { run(self) };
    }

    /// Executes `syscall` with these registers and flags.
    pub fn call(&mut self) {
        self.rounds = 0;
        // SAFETY: as above; the call is as wild as those of `wild`.
        unsafe { run(self) };
    }
}

/// Loads all registers, spins or calls, stores all.
///
/// # Safety
/// The pointer is to a value that is the caller's.
#[unsafe(naked)]
unsafe extern "C" fn run(all: *mut All) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push [rdi + 128]",
        "push [rdi + 120]",
        "movups xmm0, [rdi + 144]",
        "movups xmm1, [rdi + 160]",
        "movups xmm2, [rdi + 176]",
        "movups xmm3, [rdi + 192]",
        "movups xmm4, [rdi + 208]",
        "movups xmm5, [rdi + 224]",
        "movups xmm6, [rdi + 240]",
        "movups xmm7, [rdi + 256]",
        "movups xmm8, [rdi + 272]",
        "movups xmm9, [rdi + 288]",
        "movups xmm10, [rdi + 304]",
        "movups xmm11, [rdi + 320]",
        "movups xmm12, [rdi + 336]",
        "movups xmm13, [rdi + 352]",
        "movups xmm14, [rdi + 368]",
        "movups xmm15, [rdi + 384]",
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
        "mov rdi, [rdi + 40]",
        // On the stack: flags, rounds, the pointer.
        "cmp qword ptr [rsp + 8], 0",
        "jz 3f",
        "2:",
        "dec qword ptr [rsp + 8]",
        "jnz 2b",
        "lea rsp, [rsp + 16]",
        "jmp 4f",
        "3:",
        "popfq",
        "lea rsp, [rsp + 8]",
        "syscall",
        "4:",
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
        "pop [rdi + 120]",
        "cld",
        "movups [rdi + 144], xmm0",
        "movups [rdi + 160], xmm1",
        "movups [rdi + 176], xmm2",
        "movups [rdi + 192], xmm3",
        "movups [rdi + 208], xmm4",
        "movups [rdi + 224], xmm5",
        "movups [rdi + 240], xmm6",
        "movups [rdi + 256], xmm7",
        "movups [rdi + 272], xmm8",
        "movups [rdi + 288], xmm9",
        "movups [rdi + 304], xmm10",
        "movups [rdi + 320], xmm11",
        "movups [rdi + 336], xmm12",
        "movups [rdi + 352], xmm13",
        "movups [rdi + 368], xmm14",
        "movups [rdi + 384], xmm15",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}
