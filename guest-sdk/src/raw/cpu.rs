//! Single instructions.

use core::arch::asm;

/// The time-stamp counter. Earlier instructions may still be under way; see [`rdtsc_ordered`].
#[inline(always)]
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The time-stamp counter, after all earlier instructions.
#[inline(always)]
#[must_use]
pub fn rdtsc_ordered() -> u64 {
    // SAFETY: waits for earlier instructions.
    unsafe { core::arch::x86_64::_mm_lfence() };
    rdtsc()
}

/// Reads the FS base.
///
/// # Safety
/// The hypervisor offers `FSGSBASE`; without it the instruction is an invalid opcode.
#[inline(always)]
#[must_use]
pub unsafe fn rdfsbase() -> u64 {
    let base;
    // SAFETY: reads a register that exists, by the caller's word.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

/// Writes the FS base, which the SDK's kernel code does not use.
///
/// # Safety
/// The hypervisor offers `FSGSBASE`, the address is canonical, and the kernel uses no FS.
#[inline(always)]
pub unsafe fn wrfsbase(base: u64) {
    // SAFETY: writes a register that exists and that no kernel code reads, by the caller's word.
    unsafe { asm!("wrfsbase {}", in(reg) base, options(nomem, nostack, preserves_flags)) };
}
