//! A guest as the CPU sees it: registers, floating-point state, segment bases, the page it shares
//! with the hypervisor, and copying to and from its memory.

pub mod copy;
pub mod fpu;
pub mod page;
pub mod registers;
pub mod segments;

pub use registers::{Registers, enter};

use hv_core::abi::native::debug::DebugRegisters;

/// Loads a guest's debug registers.
#[expect(unsafe_code, reason = "the caller of the raw load must vouch for the values")]
pub fn load_breakpoints(registers: &DebugRegisters) {
    // SAFETY: a `DebugRegisters` holds only guest addresses and allowed control bits: its one
    // setter checks them (hv-core, `debug`), and breakpoints of at most 8 bytes fit their range.
    unsafe { crate::cpu::load_breakpoints(registers.addresses(), registers.control()) }
}
