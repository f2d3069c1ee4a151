//! Into user mode and back.

use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use protocol::Call;
use protocol::call::Resume;
use protocol::shared::{TrapFrame, frame_info};

use super::vcpu::Vcpu;

/// The registers of user mode, in the shape that the entry and exit code uses. The frame comes
/// first: the hypervisor writes it right here when user mode ends.
#[derive(Debug, Clone)]
#[repr(C, align(16))]
pub(crate) struct RawContext {
    pub(crate) frame: TrapFrame,
    pub(crate) registers: Registers,
    /// Stack pointer of the kernel while user mode runs.
    kernel_rsp: u64,
    reserved: u64,
}

/// The registers that a [`TrapFrame`] does not hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "registers go by their names")]
pub struct Registers {
    pub rbx: u64,
    pub rbp: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// Offset of one of the [`Registers`] in a context.
macro_rules! at {
    ($register:ident) => {
        offset_of!(RawContext, registers) + offset_of!(Registers, $register)
    };
}

/// Code that names the places of a context, and then operands of its own.
macro_rules! context_asm {
    ($($line:literal,)* ; $($operand:tt)*) => {
        naked_asm!(
            $($line,)*
            kernel_rsp = const offset_of!(RawContext, kernel_rsp),
            rbx = const at!(rbx),
            rbp = const at!(rbp),
            rdx = const at!(rdx),
            rsi = const at!(rsi),
            rdi = const at!(rdi),
            r8 = const at!(r8),
            r9 = const at!(r9),
            r10 = const at!(r10),
            r12 = const at!(r12),
            r13 = const at!(r13),
            r14 = const at!(r14),
            r15 = const at!(r15),
            $($operand)*
        )
    };
}

impl RawContext {
    pub(crate) fn new() -> RawContext {
        RawContext { frame: TrapFrame::default(), registers: Registers::default(), kernel_rsp: 0, reserved: 0 }
    }

    /// Runs user mode until it traps; false when the hypervisor refused the frame. Events are to be
    /// masked on entry, and are so on return.
    pub(crate) fn enter(&mut self) -> bool {
        self.frame.info = frame_info::USER;
        let stack = (&raw mut self.frame).wrapping_add(1).addr();
        Vcpu::current().page().kernel_stack.store(stack as u64, Ordering::Relaxed);
        // SAFETY: the context is borrowed exclusively until user mode ends, and the kernel stack of
        // this vCPU is its frame, where `leave_user` expects it.
        unsafe { enter_user(&raw mut *self) == 0 }
    }
}

/// Enters user mode as the context says; returns 0 when user mode ended, else the refusal.
///
/// # Safety
/// The context is valid and exclusively the caller's; `kernel_stack` of this vCPU is the end of its
/// frame; events are masked.
#[unsafe(naked)]
unsafe extern "C" fn enter_user(context: *mut RawContext) -> u64 {
    context_asm!(
        // What this ABI wants kept. The rest is dead to the caller.
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi + {kernel_rsp}], rsp",
        "mov rbx, [rdi + {rbx}]",
        "mov rbp, [rdi + {rbp}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rsi, [rdi + {rsi}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        // `resume` takes the frame at rsp. Nothing may push from here on.
        "mov rsp, rdi",
        "mov rdi, [rdi + {rdi}]",
        "mov eax, {resume}",
        "syscall",
        // Refused: rax says why.
        "mov rsp, [rsp + {kernel_rsp}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        ; resume = const Resume::NUMBER,
    )
}

/// Enters when user mode ended, with rsp at the frame of its context: keeps the other registers
/// there and returns from [`enter_user`].
#[unsafe(naked)]
pub(crate) extern "C" fn leave_user() {
    context_asm!(
        // To the kernel's own stack first: the context is no place to push to.
        "mov rax, rsp",
        "mov rsp, [rax + {kernel_rsp}]",
        "cld",
        "mov [rax + {rbx}], rbx",
        "mov [rax + {rbp}], rbp",
        "mov [rax + {rdx}], rdx",
        "mov [rax + {rsi}], rsi",
        "mov [rax + {rdi}], rdi",
        "mov [rax + {r8}], r8",
        "mov [rax + {r9}], r9",
        "mov [rax + {r10}], r10",
        "mov [rax + {r12}], r12",
        "mov [rax + {r13}], r13",
        "mov [rax + {r14}], r14",
        "mov [rax + {r15}], r15",
        "xor eax, eax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        ;
    )
}
