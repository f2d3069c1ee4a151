//! Memory accesses that are allowed to fault: the exception handler skips them and notes it.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::{Status, TrapContext, trap};

use crate::touch;

static ERROR_CODE: AtomicU64 = AtomicU64::new(NONE);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
const NONE: u64 = u64::MAX;

/// What an access came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It went through.
    Done(u64),
    /// It faulted with this error code, at the address that was accessed.
    Fault(u64),
    /// It faulted and the reported address was this one.
    FaultElsewhere(u64),
}

/// Has page faults of kernel mode end the access that [`read`] or [`write`] makes.
///
/// # Errors
/// None in practice.
pub fn install() -> Result<(), Status> {
    trap::set_handler(trap::PAGE_FAULT, skip)
}

/// The accessing functions are one instruction and a return: leaves them with rax as it was.
fn skip(context: &mut TrapContext) {
    ERROR_CODE.store(context.frame.error_code, Ordering::Relaxed);
    ADDRESS.store(context.frame.address, Ordering::Relaxed);
    context.frame.rip = touch::end_of(context.frame.rip);
}

fn outcome(value: u64, address: u64) -> Access {
    let code = ERROR_CODE.swap(NONE, Ordering::Relaxed);
    if code == NONE {
        return Access::Done(value);
    }
    match ADDRESS.load(Ordering::Relaxed) {
        reported if reported == address => Access::Fault(code),
        elsewhere => Access::FaultElsewhere(elsewhere),
    }
}

/// Reads a word, wherever that is.
pub fn read(address: u64) -> Access {
    outcome(touch::read(address), address)
}

/// Writes a word into memory of the lower half, wherever that is.
pub fn write(address: u64, value: u64) -> Access {
    touch::write(address, value);
    outcome(0, address)
}
