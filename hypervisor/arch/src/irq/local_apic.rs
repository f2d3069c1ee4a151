//! The local interrupt controller of the CPU that runs: acknowledging, interrupts between CPUs, and
//! the registers of the timer.
//!
//! Two ways to the same registers: memory (xAPIC), and model-specific registers (x2APIC) where CPUID
//! has them. The choice is made once, on the first CPU, and is the same on all.
//!
//! Invariant A1: after `enable`, `BASE` is 0 (x2APIC) or the direct-map address of the registers,
//! which every root maps uncached in the hypervisor's half.
#![expect(unsafe_code, reason = "device registers have no safe form")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::Phys;
use hv_core::addr::convert::index;
use x86::msr::IA32_APIC_BASE;

use super::vector;
use crate::cpu::features::Features;
use crate::cpu::{pause, read_msr, write_msr};
use crate::mmu::direct::BASE as DIRECT_MAP;

/// Where the registers are; 0 for x2APIC.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Offsets of the registers (Intel SDM volume 3, 10.4.1).
pub(super) mod register {
    pub(in crate::irq) const ID: u16 = 0x20;
    pub(in crate::irq) const TASK_PRIORITY: u16 = 0x80;
    pub(in crate::irq) const END_OF_INTERRUPT: u16 = 0xb0;
    pub(in crate::irq) const SPURIOUS: u16 = 0xf0;
    pub(in crate::irq) const COMMAND_LOW: u16 = 0x300;
    pub(in crate::irq) const COMMAND_HIGH: u16 = 0x310;
    pub(in crate::irq) const TIMER: u16 = 0x320;
    pub(in crate::irq) const LINE_0: u16 = 0x350;
    pub(in crate::irq) const LINE_1: u16 = 0x360;
    pub(in crate::irq) const ERROR: u16 = 0x370;
    pub(in crate::irq) const INITIAL_COUNT: u16 = 0x380;
    pub(in crate::irq) const CURRENT_COUNT: u16 = 0x390;
    pub(in crate::irq) const DIVIDE: u16 = 0x3e0;
}

/// An entry of the local vector table that raises nothing.
pub(super) const MASKED: u32 = 1 << 16;
/// An entry, or a command, that raises an NMI.
const NMI: u32 = 0b100 << 8;
/// The level bit, which every command carries (but one that no CPU needs any more).
const ASSERT: u32 = 1 << 14;
/// The last command has not left yet (xAPIC only).
const PENDING: u32 = 1 << 12;
/// Bits of the base register: x2APIC on, controller on.
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// x2APIC registers: the first number, and one for each 16 bytes of offset.
const X2APIC_FIRST: u32 = 0x800;
const X2APIC_COMMAND: u32 = 0x830;
/// Reads of the status after which a pending command is overwritten.
const PATIENCE: u32 = 1_000_000;

/// Where the registers lie in memory, unless the CPU has x2APIC; to be mapped uncached at its place
/// in the direct map.
#[must_use]
pub fn registers(features: Features) -> Option<Phys> {
    (!features.contains(Features::X2APIC)).then(|| Phys(read_base() & BASE_ADDRESS))
}

fn read_base() -> u64 {
    // SAFETY: every CPU with a local APIC has this register, and a local APIC is required.
    unsafe { read_msr(IA32_APIC_BASE) }
}

/// Turns this CPU's controller on, with all local sources masked but the NMI line.
pub fn enable(features: Features) {
    let base = read_base() | BASE_ENABLED;
    let has_x2apic = features.contains(Features::X2APIC);
    let mode = if has_x2apic { BASE_X2APIC } else { 0 };
    // SAFETY: turns the controller on where it is, in x2APIC mode if the CPU has it. Firmware may
    // have chosen x2APIC already, but then the CPU has it.
    unsafe { write_msr(IA32_APIC_BASE, base | mode) };
    let address = if has_x2apic { 0 } else { DIRECT_MAP.wrapping_add(base & BASE_ADDRESS) };
    BASE.store(address, Ordering::Relaxed);
    write(register::TIMER, MASKED);
    write(register::LINE_0, MASKED);
    write(register::LINE_1, NMI);
    write(register::ERROR, MASKED);
    write(register::TASK_PRIORITY, 0);
    write(register::SPURIOUS, 0x100 | u32::from(vector::SPURIOUS));
}

/// The id by which other CPUs reach this one.
#[must_use]
pub fn id() -> u32 {
    let value = read(register::ID);
    if is_x2apic() { value } else { value >> 24 }
}

/// Acknowledges the interrupt in service. Not for [`vector::SPURIOUS`].
#[inline]
pub fn acknowledge() {
    write(register::END_OF_INTERRUPT, 0);
}

/// Raises `vector` on another CPU. All stores before it are visible to its handler.
pub fn send(apic_id: u32, vector: u8) {
    command(apic_id, u32::from(vector));
}

/// Raises an NMI on another CPU, which it cannot put off.
pub fn send_nmi(apic_id: u32) {
    command(apic_id, NMI);
}

/// Sends a command of the upper byte's kind, with its lower byte, to another CPU.
pub(crate) fn command(apic_id: u32, kind: u32) {
    let low = ASSERT | kind;
    if is_x2apic() {
        let value = (u64::from(apic_id) << 32) | u64::from(low);
        // SAFETY: no effect but order: writes of x2APIC registers do not wait for earlier stores
        // (Intel SDM volume 3, 10.12.3).
        unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
        // SAFETY: A1: x2APIC mode is on. The commands sent are interrupts whose handlers are ours,
        // and resets of CPUs that run none of our code.
        unsafe { write_msr(X2APIC_COMMAND, value) };
        return;
    }
    for _ in 0..PATIENCE {
        if read(register::COMMAND_LOW) & PENDING == 0 {
            break;
        }
        pause();
    }
    write(register::COMMAND_HIGH, apic_id << 24);
    write(register::COMMAND_LOW, low);
}

#[inline]
fn is_x2apic() -> bool {
    BASE.load(Ordering::Relaxed) == 0
}

/// The number of an x2APIC register.
#[inline]
fn number(register: u16) -> u32 {
    X2APIC_FIRST | u32::from(register >> 4)
}

/// Reads a register.
#[inline]
pub(super) fn read(register: u16) -> u32 {
    match BASE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: A1: x2APIC mode is on, and the registers named here all exist.
            let value = unsafe { read_msr(number(register)) };
            u32::try_from(value & 0xffff_ffff).unwrap_or(0)
        }
        base => {
            let address = index(base.wrapping_add(u64::from(register)));
            let pointer: *const u32 = core::ptr::with_exposed_provenance(address);
            // SAFETY: A1: the registers are mapped, and they are device memory that no Rust value
            // overlaps.
            unsafe { pointer.read_volatile() }
        }
    }
}

/// Writes a register.
#[inline]
pub(super) fn write(register: u16, value: u32) {
    match BASE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: A1: x2APIC mode is on; the registers named here all exist and take the value.
            unsafe { write_msr(number(register), u64::from(value)) };
        }
        base => {
            let address = index(base.wrapping_add(u64::from(register)));
            let pointer: *mut u32 = core::ptr::with_exposed_provenance_mut(address);
            // SAFETY: A1: the registers are mapped, and they are device memory that no Rust value
            // overlaps.
            unsafe { pointer.write_volatile(value) };
        }
    }
}
