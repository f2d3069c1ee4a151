//! Accesses that may fault: the fault handler of the guest asks [`end`] whether it was one.

use core::arch::naked_asm;

use guest_sdk::TrapContext;

/// Bytes before the access in either function, and of the access.
const BEFORE: u64 = 2;
const ACCESS: u64 = 3;

/// Whether an exception came from an access of this module; it is ended then.
pub fn end(context: &mut TrapContext) -> bool {
    let starts = [try_write as *const () as usize as u64, try_read as *const () as usize as u64];
    let is_ours = starts.iter().any(|start| context.frame.rip == start + BEFORE);
    if is_ours {
        context.frame.rax = 1;
        context.frame.rip += ACCESS;
    }
    is_ours
}

/// Writes a word; whether that went well.
pub fn write(address: u64, value: u64) -> bool {
    // SAFETY: hostile guests write where no Rust object lies, and a fault ends the attempt.
    unsafe { try_write(address, value) == 0 }
}

/// Reads a word; 1 when that was a fault.
pub fn read(address: u64) -> u64 {
    // SAFETY: a read changes nothing, and a fault ends the attempt.
    unsafe { try_read(address) }
}

/// Writes a word; not 0 when it faulted.
///
/// # Safety
/// No Rust object lies there.
#[unsafe(naked)]
unsafe extern "C" fn try_write(address: u64, value: u64) -> u64 {
    naked_asm!("xor eax, eax", "mov [rdi], rsi", "ret")
}

/// Reads a word.
///
/// # Safety
/// None is needed.
#[unsafe(naked)]
unsafe extern "C" fn try_read(address: u64) -> u64 {
    naked_asm!("xor eax, eax", "mov rax, [rdi]", "ret")
}
