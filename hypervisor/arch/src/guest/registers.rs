//! The registers of a guest while ring 0 runs: a frame on the CPU's stack.
#![expect(unsafe_code, reason = "entering a guest replaces the stack pointer")]

use core::arch::asm;

use protocol::layout::{CODE_SELECTOR, STACK_SELECTOR};

/// What entry code pushes, lowest address first. The last five words are the processor's own frame
/// (Intel SDM volume 3, 6.14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes)]
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

impl Registers {
    /// [`Registers::vector`] of an entry by `syscall`.
    pub const SYSCALL: u64 = 256;
    /// [`Registers::vector`] of an entry by `syscall` from 32-bit code.
    pub const SYSCALL_32: u64 = 257;
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
    #[expect(clippy::disallowed_methods, reason = "this is the way through zerocopy")]
    pub const ZERO: Registers = zerocopy::transmute!([0_u64; 22]);

    /// All words of the frame, in builds for tests.
    #[cfg(feature = "recount")]
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the way through zerocopy")]
    pub const fn words(self) -> [u64; 22] {
        zerocopy::transmute!(self)
    }

    /// The call arguments in their order.
    #[must_use]
    #[inline(always)]
    pub const fn arguments(&self) -> protocol::call::Registers {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }
}

/// What makes a selector one of ring 3.
const RING3: u64 = 3;

/// Enters a guest for the first time on this CPU, from its start-up code.
///
/// The registers must be a guest's: ring-3 selectors, which this sees to.
pub fn enter(registers: &Registers) -> ! {
    let mut copy = *registers;
    copy.cs |= RING3;
    copy.ss |= RING3;
    // SAFETY: G1 (whatever registers a guest has, ring 3 confines them): the frame is a whole
    // `Registers` with ring-3 selectors, on this CPU's own stack, and the routine leaves this stack
    // for good after it has taken the frame.
    unsafe {
        asm!("mov rsp, {}", "jmp {}", in(reg) &raw const copy, sym trap_exit, options(noreturn));
    }
}

unsafe extern "C" {
    /// The way out for every entry: loads all registers from the frame at rsp.
    fn trap_exit() -> !;
}
