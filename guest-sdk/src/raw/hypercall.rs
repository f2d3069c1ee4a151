//! The one place that enters the hypervisor.

use core::arch::asm;

use protocol::call::{Registers, Reply};
use protocol::{Call, Status};

/// Makes the call of `number` and returns rax and rdx.
///
/// On a host, where no hypervisor is below, every call is refused as [`Status::UnknownCall`]: unit
/// tests of guest code run without one.
///
/// # Safety
/// The call's effects, as its page describes them, leave every object of this program valid: memory
/// that it unmaps, writes or shares is not in use for anything else.
#[inline(always)]
#[must_use]
pub unsafe fn syscall(number: u64, arguments: Registers) -> (u64, u64) {
    if cfg!(not(target_os = "none")) {
        return (Status::UnknownCall.to_register(), 0);
    }
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    let (result, second);
    // SAFETY: the effects of the call are the caller's duty. The hypervisor keeps every register but
    // rax, rcx, r11 and, for two results, rdx; an event that it delivers meanwhile leaves the red
    // zone and everything above it alone.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") rdi,
            in("rsi") rsi,
            inlateout("rdx") rdx => second,
            in("r10") r10,
            in("r8") r8,
            in("r9") r9,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (result, second)
}

/// Makes a typed call.
///
/// # Errors
/// What the call's page lists.
///
/// # Safety
/// As [`syscall`].
#[inline(always)]
pub unsafe fn call<C: Call>(call: C) -> Result<C::Output, Status> {
    // SAFETY: the same duty, passed on.
    let (rax, rdx) = unsafe { syscall(C::NUMBER, call.encode()) };
    Status::check_register(rax).map(|value| C::Output::decode(value, rdx))
}
