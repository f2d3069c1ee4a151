//! Hypercalls as a hostile kernel makes them. Whoever uses this risks only its own VM.

use guest_sdk::Status;
use guest_sdk::protocol::Call;
use guest_sdk::raw::hypercall;

/// Makes a typed call, whatever it does to this VM.
///
/// # Errors
/// What the hypervisor answers.
pub fn go<C: Call>(call: C) -> Result<C::Output, Status> {
    // SAFETY: hostile guests keep their own objects out of the memory that they attack with; a call
    // that hits them all the same ends only this VM.
    unsafe { hypercall::call(call) }
}

/// Makes a call by number and returns rax and rdx.
pub fn raw(number: u64, arguments: [u64; 6]) -> (u64, u64) {
    // SAFETY: as for `go`.
    unsafe { hypercall::syscall(number, arguments) }
}

/// Makes a call by number.
///
/// # Errors
/// What the hypervisor answers.
pub fn call(number: u64, arguments: [u64; 6]) -> Result<u64, Status> {
    Status::check_register(raw(number, arguments).0)
}
