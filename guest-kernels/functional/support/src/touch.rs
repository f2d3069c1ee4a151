//! One-instruction accesses, whose place the fault handler knows.

use core::arch::asm;

/// Bytes of either access instruction.
const ACCESS_BYTES: u64 = 3;

/// The instruction behind an access.
pub(crate) fn end_of(rip: u64) -> u64 {
    rip + ACCESS_BYTES
}

/// Reads a word; the value is 0 if the access was skipped.
pub(crate) fn read(address: u64) -> u64 {
    let mut value = 0_u64;
    // SAFETY: reads a word or is skipped by the fault handler. `mov rax, [rdi]` has three bytes.
    unsafe {
        asm!("mov rax, [rdi]", inout("rax") value, in("rdi") address, options(nostack, preserves_flags, readonly));
    }
    value
}

/// Writes a word, unless the access is skipped.
pub(crate) fn write(address: u64, value: u64) {
    assert!(address < guest_sdk::protocol::layout::LOWER_END, "only the lower half is for tests");
    // SAFETY: writes a word of the lower half, where no Rust object lies, or is skipped by the fault
    // handler. `mov [rdi], rax` has three bytes.
    unsafe {
        asm!("mov [rdi], rax", in("rax") value, in("rdi") address, options(nostack, preserves_flags));
    }
}
