//! Hypercalls as a hostile or mistaken kernel would make them.

use guest_sdk::Status;
use guest_sdk::raw::hypercall::syscall;

/// Makes a call that is expected to be refused, and returns the refusal; rax when it was not.
///
/// The guests that use this risk only themselves: a call that goes through by mistake is a failed
/// test.
///
/// # Errors
/// The status.
pub fn call(number: u64, arguments: [u64; 6]) -> Result<u64, Status> {
    // SAFETY: the guest expects a refusal, which changes nothing; if it is wrong, the test fails and
    // the guest ends, whatever became of its memory.
    let (rax, _) = unsafe { syscall(number, arguments) };
    Status::check_register(rax)
}
