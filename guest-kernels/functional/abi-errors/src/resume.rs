//! `resume` with the stack pointer anywhere.

use core::arch::asm;

use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::Resume;
use guest_sdk::protocol::shared::TrapFrame;

/// Calls `resume` with `stack` as the stack pointer, where no frame can be read; returns rax.
///
/// Events must be masked: there is no stack to take one on.
pub fn resume_at(stack: u64) -> u64 {
    let mut rax = Resume::NUMBER;
    // SAFETY: the call is refused and comes back behind itself; the stack pointer is then put back.
    unsafe {
        asm!(
            "xchg rsp, rdi",
            "syscall",
            "mov rsp, rdi",
            inout("rax") rax,
            inout("rdi") stack => _,
            out("rcx") _,
            out("r11") _,
        );
    }
    rax
}

/// Calls `resume` with a frame; returns rax if it is refused. Frames that are not refused go on at
/// their own address, which is the test's failure.
pub fn resume_with(frame: &TrapFrame) -> u64 {
    resume_at((&raw const *frame).addr() as u64)
}
