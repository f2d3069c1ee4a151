//! A guest as the CPU sees it: registers, floating-point state, segment bases, the page it shares
//! with the hypervisor, and copying to and from its memory.

pub mod copy;
pub mod fpu;
pub mod page;
pub mod registers;
pub mod segments;
#[cfg(feature = "xen")]
pub mod xen_info;

pub use registers::{Registers, enter};

use core::arch::asm;

use hv_core::abi::native::debug::DebugRegisters;

use crate::cpu::disarm_breakpoints;

/// Loads a guest's debug registers: the four addresses, then the control register that arms them.
#[expect(unsafe_code, reason = "debug registers have no safe form")]
pub fn load_breakpoints(registers: &DebugRegisters) {
    disarm_breakpoints();
    let [first, second, third, fourth] = registers.addresses();
    // SAFETY: a `DebugRegisters` holds only guest addresses and allowed control bits: its one
    // setter checks them (hv-core, `debug`), and breakpoints of at most 8 bytes fit their range.
    // No half-loaded set is armed.
    unsafe {
        asm!(
            "mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr7, {}",
            in(reg) first, in(reg) second, in(reg) third, in(reg) fourth, in(reg) registers.control(),
            options(nomem, nostack, preserves_flags)
        );
    }
}
