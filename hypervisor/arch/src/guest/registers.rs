//! The registers of a guest while ring 0 runs: a frame on the CPU's stack.
#![expect(unsafe_code, reason = "entering a guest replaces the stack pointer")]

use core::arch::global_asm;

use protocol::layout::{CODE_SELECTOR, STACK_SELECTOR};

/// What entry code pushes, lowest address first. The last five words are the processor's own frame
/// (Intel SDM volume 3, 6.14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "registers bear their names")]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r9: u64,
    pub r8: u64,
    pub r10: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r11: u64,
    pub rcx: u64,
    pub rax: u64,
    /// Vector of the entry, or [`Registers::SYSCALL`]. On the way out it selects the return
    /// instruction: SYSRET for [`Registers::SYSCALL`], which loses rcx and r11, else IRET.
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const _: () = assert!(size_of::<Registers>() == 176);

impl Registers {
    /// [`Registers::vector`] of an entry by `syscall`.
    pub const SYSCALL: u64 = 256;
    /// Flags of a guest in ring 3: interrupts on (bit 9) and the bit that is always one.
    pub const BASE_FLAGS: u64 = 0x202;

    /// The registers of a vCPU that starts.
    #[must_use]
    pub fn start(rip: u64, rsp: u64, argument: u64) -> Registers {
        Registers {
            rdi: argument,
            rip,
            rsp,
            rflags: Self::BASE_FLAGS,
            cs: u64::from(CODE_SELECTOR),
            ss: u64::from(STACK_SELECTOR),
            ..Self::ZERO
        }
    }

    /// All zero: what a register holds before a guest sets it.
    pub const ZERO: Registers = Registers {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbp: 0,
        rbx: 0,
        r9: 0,
        r8: 0,
        r10: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        r11: 0,
        rcx: 0,
        rax: 0,
        vector: 0,
        error_code: 0,
        rip: 0,
        cs: 0,
        rflags: 0,
        rsp: 0,
        ss: 0,
    };

    /// The call arguments in their order.
    #[must_use]
    #[inline(always)]
    pub const fn arguments(&self) -> protocol::call::Registers {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }
}

/// Enters a guest for the first time on this CPU, from its start-up code.
///
/// The registers must be a guest's: ring-3 selectors, which this checks.
pub fn enter(registers: &Registers) -> ! {
    let mut copy = *registers;
    copy.cs = u64::from(CODE_SELECTOR);
    copy.ss = u64::from(STACK_SELECTOR);
    // SAFETY: G1 (whatever registers a guest has, ring 3 confines them): the frame is a whole
    // `Registers` with ring-3 selectors, and the routine leaves this stack for good.
    unsafe { guest_enter(&raw const copy) }
}

unsafe extern "C" {
    /// Loads all registers from the frame and returns to ring 3.
    fn guest_enter(frame: *const Registers) -> !;
}

#[cfg(target_os = "none")]
global_asm!(
    // Entry: rdi = frame. Uses the frame's memory as stack until the last instruction, which
    // `enter` copied to this CPU's own stack. Does not return.
    ".global guest_enter",
    "guest_enter:",
    "mov rsp, rdi",
    "jmp trap_exit",
);
