//! The local interrupt controller of the CPU that runs: acknowledging, interrupts between CPUs, and
//! the registers of the timer.
//!
//! Two ways to the same registers: memory (xAPIC), and model-specific registers (x2APIC) where CPUID
//! has them. The choice is made once, on the first CPU, and is the same on all.
//!
//! A1 is kept here: after `enable`, `BASE` is 0 (x2APIC) or the direct-map address of the registers.
#![expect(unsafe_code, reason = "device registers have no safe form")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::convert::index;
use x86::msr::{
    IA32_APIC_BASE, IA32_X2APIC_APICID, IA32_X2APIC_EOI, IA32_X2APIC_ICR, IA32_X2APIC_LVT_ERROR, IA32_X2APIC_LVT_LINT0,
    IA32_X2APIC_LVT_LINT1, IA32_X2APIC_LVT_TIMER, IA32_X2APIC_SIVR, IA32_X2APIC_TPR,
};

use super::vector;
use crate::cpu::features::Features;
use crate::cpu::{pause, read_msr, write_msr};
use crate::mmu::direct::BASE as DIRECT_MAP;

/// Where the registers are; 0 for x2APIC.
static BASE: AtomicU64 = AtomicU64::new(0);

/// An entry of the local vector table that raises nothing.
pub(super) const MASKED: u32 = 1 << 16;
/// An entry that raises an NMI.
const NMI: u32 = 0b100 << 8;
/// The level bit, which every command carries (but one that no CPU needs any more).
const ASSERT: u32 = 1 << 14;
/// The last command has not left yet (xAPIC only).
const PENDING: u32 = 1 << 12;
/// The other half of the command register (xAPIC only): for whom it is.
const TARGET: u32 = IA32_X2APIC_ICR + 1;
/// Bits of the base register: x2APIC on, controller on.
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Reads of the status after which a pending command is overwritten.
const PATIENCE: u32 = 1_000_000;

/// Turns this CPU's controller on, with all local sources masked but the NMI line.
pub fn enable(features: Features) {
    // SAFETY: every CPU with a local APIC has this register, and a local APIC is required.
    let base = unsafe { read_msr(IA32_APIC_BASE) } | BASE_ENABLED;
    let (mode, address) = match features.contains(Features::X2APIC) {
        true => (BASE_X2APIC, 0),
        false => (0, DIRECT_MAP.wrapping_add(base & BASE_ADDRESS)),
    };
    // SAFETY: turns the controller on where it is, in x2APIC mode if the CPU has it. Firmware may
    // have chosen x2APIC already, but then the CPU has it.
    unsafe { write_msr(IA32_APIC_BASE, base | mode) };
    BASE.store(address, Ordering::Relaxed);
    for source in [IA32_X2APIC_LVT_TIMER, IA32_X2APIC_LVT_LINT0, IA32_X2APIC_LVT_ERROR] {
        write(source, MASKED);
    }
    write(IA32_X2APIC_LVT_LINT1, NMI);
    write(IA32_X2APIC_TPR, 0);
    write(IA32_X2APIC_SIVR, 0x100 | u32::from(vector::SPURIOUS));
}

/// The id by which other CPUs reach this one.
#[must_use]
pub fn id() -> u32 {
    let value = read(IA32_X2APIC_APICID);
    if is_x2apic() { value } else { value >> 24 }
}

/// Acknowledges the interrupt in service. Not for [`vector::SPURIOUS`].
#[inline]
pub fn acknowledge() {
    write(IA32_X2APIC_EOI, 0);
}

/// Raises `vector` on another CPU. All stores before it are visible to its handler.
pub fn send(apic_id: u32, vector: u8) {
    command(apic_id, u32::from(vector));
}

/// Command: reset; the CPU then waits to be started.
pub(crate) const INIT: u32 = 0b101 << 8;

/// Sends a command of the upper byte's kind, with its lower byte, to another CPU.
pub(crate) fn command(apic_id: u32, kind: u32) {
    let low = ASSERT | kind;
    if is_x2apic() {
        // SAFETY: no effect but order: writes of x2APIC registers do not wait for earlier stores
        // (Intel SDM volume 3, 10.12.3).
        unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
        // SAFETY: A1: x2APIC mode is on. The commands sent are interrupts whose handlers are ours,
        // and resets of CPUs that run none of our code.
        unsafe { write_msr(IA32_X2APIC_ICR, (u64::from(apic_id) << 32) | u64::from(low)) };
        return;
    }
    for _ in 0..PATIENCE {
        if read(IA32_X2APIC_ICR) & PENDING == 0 {
            break;
        }
        pause();
    }
    write(TARGET, apic_id << 24);
    write(IA32_X2APIC_ICR, low);
}

#[inline]
fn is_x2apic() -> bool {
    BASE.load(Ordering::Relaxed) == 0
}

/// Where an xAPIC has the register that x2APIC has at this number: 16 bytes for each.
#[inline]
fn in_memory(base: u64, register: u32) -> *mut u32 {
    core::ptr::with_exposed_provenance_mut(index(base.wrapping_add(u64::from((register & 0xff) << 4))))
}

/// Reads a register, by its number in x2APIC mode.
#[inline]
pub(super) fn read(register: u32) -> u32 {
    match BASE.load(Ordering::Relaxed) {
        // SAFETY: A1: x2APIC mode is on, and the registers named here all exist.
        0 => u32::try_from(unsafe { read_msr(register) } & 0xffff_ffff).unwrap_or(0),
        // SAFETY: A1: the registers are mapped, device memory that no Rust value overlaps.
        base => unsafe { in_memory(base, register).read_volatile() },
    }
}

/// Writes a register, by its number in x2APIC mode.
#[inline]
pub(super) fn write(register: u32, value: u32) {
    match BASE.load(Ordering::Relaxed) {
        // SAFETY: A1: x2APIC mode is on; the registers named here all exist and take the value.
        0 => unsafe { write_msr(register, u64::from(value)) },
        // SAFETY: A1: the registers are mapped, device memory that no Rust value overlaps.
        base => unsafe { in_memory(base, register).write_volatile(value) },
    }
}
