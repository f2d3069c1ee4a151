//! The controller that routes device interrupts to CPUs.
#![expect(unsafe_code, reason = "device registers have no safe form")]

use hv_core::addr::Phys;
use hv_core::firmware::{IoApic, Line, Topology};

use crate::mmu::direct;

/// Register numbers: version, and the first of two per line.
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;
/// The data window lies so many words behind the register selector.
const WINDOW: usize = 4;
/// Bits of an entry.
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ACTIVE_LOW: u32 = 1 << 13;

/// Masks every line of every controller.
pub fn mask_all(topology: &Topology) {
    for controller in topology.io_apics() {
        for line in 0..lines(controller.address) {
            write_entry(controller.address, line, MASKED, 0);
        }
    }
}

/// Leads a line of the ISA bus to `vector` on the CPU with this APIC id. False when no controller
/// has the line, or the id is too great to be named.
#[must_use]
pub fn route(topology: &Topology, isa_line: u8, vector: u8, apic_id: u32) -> bool {
    let Line { interrupt, is_level, is_active_low } = topology.isa_line(isa_line);
    let Some((IoApic { address, .. }, pin)) = topology.controller_of(interrupt) else {
        return false;
    };
    if pin >= lines(address) || apic_id > 0xff {
        return false;
    }
    let level = if is_level { LEVEL } else { 0 };
    let polarity = if is_active_low { ACTIVE_LOW } else { 0 };
    write_entry(address, pin, u32::from(vector) | level | polarity, apic_id << 24);
    true
}

/// Number of lines of a controller.
fn lines(controller: Phys) -> u32 {
    ((read(controller, VERSION) >> 16) & 0xff).saturating_add(1)
}

/// Sets an entry; masked in between, so that no half-written entry fires.
fn write_entry(controller: Phys, line: u32, low: u32, high: u32) {
    let number = FIRST_ENTRY.wrapping_add(line.wrapping_mul(2));
    write(controller, number, MASKED);
    write(controller, number.wrapping_add(1), high);
    write(controller, number, low);
}

/// The data window, with a register selected.
fn window(controller: Phys, number: u32) -> *mut u32 {
    let selector: *mut u32 = direct::pointer(controller).cast();
    // SAFETY: A2 (firmware's topology names real controllers, and every root maps them uncached in
    // the hypervisor's half): device memory that no Rust value overlaps.
    unsafe { selector.write_volatile(number) };
    selector.wrapping_add(WINDOW)
}

fn read(controller: Phys, number: u32) -> u32 {
    // SAFETY: A2, as in `window`.
    unsafe { window(controller, number).read_volatile() }
}

fn write(controller: Phys, number: u32, value: u32) {
    // SAFETY: A2, as in `window`. Entries lead to vectors that have handlers.
    unsafe { window(controller, number).write_volatile(value) }
}
