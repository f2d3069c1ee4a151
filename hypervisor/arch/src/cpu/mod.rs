//! The processor itself: what it has ([`features`]), what it is set to ([`control`]), its segments
//! ([`gdt`]), the proof that the settings hold ([`assertions`]), what guests leave in it ([`residue`]),
//! and single instructions as functions.
#![expect(unsafe_code, reason = "privileged instructions have no safe form")]

/// Reads a control or debug register; those named here can all be read without effect.
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading the register has no effect; DR7.GD is never set, so it does not trap.
        unsafe {
            core::arch::asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

pub(crate) mod assertions;
pub(crate) mod control;
pub mod features;
pub mod gate;
pub(crate) mod gdt;
pub mod residue;
#[cfg(feature = "xen")]
pub mod xen;

use core::arch::asm;

pub use control::{load_controls, set_tsc_aux};
pub(crate) use read_register;

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: touches no memory. With interrupts off only an NMI ends `hlt`, and the loop halts
        // again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Sleeps until an interrupt was served, with interrupts on only for that time. No interrupt can
/// come between the decision to sleep and the sleep: `sti` takes effect after the next instruction
/// (Intel SDM volume 2, STI).
///
/// The caller must hold no lock that an interrupt handler takes.
#[inline]
pub fn wait_for_interrupt() {
    // SAFETY: the handlers keep all registers and use this stack below its pointer. Ring 0 of this
    // target has no red zone. Not `nomem`: a handler may have changed any atomic.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Tells the CPU that this is a waiting loop.
#[inline]
pub fn pause() {
    core::hint::spin_loop();
}

/// The time-stamp counter.
#[must_use]
#[inline]
pub fn read_tsc() -> u64 {
    // SAFETY: every x86-64 CPU has a time-stamp counter, and ring 0 may read it always.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The time-stamp counter, read after all earlier instructions are done.
#[must_use]
#[inline]
pub fn read_tsc_ordered() -> u64 {
    // SAFETY: `lfence` is part of SSE2, which every x86-64 CPU has, and touches no memory.
    unsafe { asm!("lfence", options(nostack, preserves_flags)) };
    read_tsc()
}

/// The address of the last page fault.
#[must_use]
#[inline]
pub fn fault_address() -> u64 {
    read_register!("cr2")
}

/// A model-specific register.
///
/// # Safety
/// The register exists on this CPU (else this faults), and reading it has no effect.
#[must_use]
#[inline]
pub unsafe fn read_msr(number: u32) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { x86::msr::rdmsr(number) }
}

/// Sets a model-specific register.
///
/// # Safety
/// The register exists on this CPU, takes this value, and what the value changes breaks nothing
/// that the compiler or another module relies on.
#[inline]
pub unsafe fn write_msr(number: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { x86::msr::wrmsr(number, value) }
}

/// Bits of DR6 that are always 1 (Intel SDM volume 3, 17.2.3). All causes are clear.
const DEBUG_STATUS_CLEAR: u64 = 0xffff_0ff0;

/// Debug status (DR6): why a debug exception came.
#[must_use]
#[inline]
pub fn debug_status() -> u64 {
    read_register!("dr6")
}

/// Forgets the causes of past debug exceptions; the CPU itself never does.
#[inline]
pub fn clear_debug_status() {
    // SAFETY: DR6 only reports.
    unsafe {
        asm!("mov dr6, {}", in(reg) DEBUG_STATUS_CLEAR, options(nomem, nostack, preserves_flags));
    }
}

/// Bit 10 of DR7 is always 1; no breakpoint is armed.
const BREAKPOINTS_OFF: u64 = 0x400;

/// Turns all breakpoints off.
#[inline]
pub fn disarm_breakpoints() {
    // SAFETY: with no breakpoint armed, nothing can happen.
    unsafe { asm!("mov dr7, {}", in(reg) BREAKPOINTS_OFF, options(nomem, nostack, preserves_flags)) };
}

/// Executes `cpuid`.
#[must_use]
pub fn ask_cpuid(leaf: u32, subleaf: u32) -> protocol::shared::CpuidResult {
    let x86::cpuid::CpuIdResult { eax, ebx, ecx, edx } = x86::cpuid::native_cpuid::cpuid_count(leaf, subleaf);
    protocol::shared::CpuidResult { eax, ebx, ecx, edx }
}
