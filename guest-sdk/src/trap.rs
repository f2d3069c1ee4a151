//! Exceptions of kernel code.
//!
//! ```no_run
//! use guest_sdk::{TrapContext, trap};
//!
//! fn skip_ud2(context: &mut TrapContext) {
//!     context.frame.rip += 2;
//! }
//! trap::set_handler(trap::INVALID_OPCODE, skip_ud2).unwrap();
//! ```

use core::sync::atomic::Ordering;

use protocol::Status;
use protocol::layout::limit;

use crate::raw::slot::Slot;
use crate::raw::trap::{TrapContext, remove_handler, trap_table_of};
use crate::raw::vcpu::Vcpu;

/// Divide error.
pub const DIVIDE: u8 = 0;
/// Debug exception.
pub const DEBUG: u8 = 1;
/// Breakpoint.
pub const BREAKPOINT: u8 = 3;
/// Overflow.
pub const OVERFLOW: u8 = 4;
/// Invalid opcode.
pub const INVALID_OPCODE: u8 = 6;
/// General protection.
pub const GENERAL_PROTECTION: u8 = 13;
/// Page fault.
pub const PAGE_FAULT: u8 = 14;
/// x87 floating-point error.
pub const FLOATING_POINT: u8 = 16;
/// Alignment check.
pub const ALIGNMENT: u8 = 17;
/// SIMD floating-point exception.
pub const SIMD: u8 = 19;

/// Vectors that the hypervisor keeps for itself: NMI, double fault, machine check.
pub const RESERVED: [u8; 3] = [2, 8, 18];

const VECTORS: usize = limit::TRAPS as usize;
static HANDLERS: [Slot<fn(&mut TrapContext)>; VECTORS] = [const { Slot::new() }; VECTORS];

/// Has a function called for exceptions of kernel code on this vCPU, and on those that it starts
/// later. The function sees every register, and what it changes is what the code goes on with; it
/// runs on the interrupted stack with events masked.
///
/// # Errors
/// [`Status::InvalidArgument`] for a vector that guests cannot have.
pub fn set_handler(vector: u8, handler: fn(&mut TrapContext)) -> Result<(), Status> {
    let slot = HANDLERS.get(usize::from(vector)).ok_or(Status::InvalidArgument)?;
    slot.set(handler);
    trap_table_of(&[vector])
}

/// Takes a handler away. The exception then ends the VM with the hypervisor's report.
///
/// # Errors
/// [`Status::InvalidArgument`] for a vector that guests cannot have.
pub fn clear_handler(vector: u8) -> Result<(), Status> {
    let slot = HANDLERS.get(usize::from(vector)).ok_or(Status::InvalidArgument)?;
    slot.clear();
    if Vcpu::current().traps_installed.load(Ordering::Relaxed) {
        return Ok(());
    }
    remove_handler(vector)
}

/// Has all exceptions of this vCPU come to the SDK, as running user mode needs.
pub(crate) fn install_all(vcpu: &Vcpu) -> Result<(), Status> {
    let mut vectors = [0; VECTORS];
    let mut count = 0;
    for vector in (0..VECTORS as u8).filter(|vector| !RESERVED.contains(vector)) {
        vectors[count] = vector;
        count += 1;
    }
    trap_table_of(vectors.get(..count).unwrap_or_default())?;
    vcpu.traps_installed.store(true, Ordering::Relaxed);
    Ok(())
}

/// Calls the handler of an exception. One without a handler is given back: its entry is removed and
/// the instruction runs again, so that the hypervisor's report shows the place itself.
pub(crate) fn dispatch(context: &mut TrapContext) {
    let vector = context.vector();
    match HANDLERS.get(usize::from(vector)).and_then(Slot::function) {
        Some(handler) => handler(context),
        None => {
            // `int3` and `into` are reported behind the instruction, whose length is 1.
            if matches!(vector, BREAKPOINT | OVERFLOW) {
                context.frame.rip = context.frame.rip.wrapping_sub(1);
            }
            if remove_handler(vector).is_err() {
                crate::raw::call::exit(crate::exit_code::PANIC);
            }
        }
    }
}
