//! The start-up assertions: what must hold on every CPU before a guest runs there, read back from
//! the machine and judged.
//!
//! `State::read` reads; `judge` decides and is tested on the host, each line with a violation.
#![expect(unsafe_code, reason = "descriptor tables in use are reached by address only")]

use core::arch::asm;

use hv_core::addr::convert::index;
use x86::dtables::{DescriptorTablePointer, sgdt};

use crate::cpu::control::{REGISTERS, Settings};
use crate::cpu::features::Features;
use crate::cpu::gdt::ENTRIES;
use crate::trap::descriptors::Gate;

/// What the assertions look at.
#[derive(Debug, Clone, Copy)]
struct State {
    features: Features,
    settings: Settings,
    flags: u64,
    table: [u64; ENTRIES],
    /// The first word of the entry that the task register names.
    task: u64,
    /// Offset of the I/O permission map in the task state.
    port_map: u16,
    /// Whether ring 3 can raise no vector but the breakpoint.
    gates_are_closed: bool,
}

/// Reads this CPU's state and judges it.
///
/// # Errors
/// The first assertion that does not hold, in words.
pub(crate) fn check(features: Features, gates: &[Gate; 256]) -> Result<(), &'static str> {
    let violated = judge(&State::read(features, gates)).find(|(_, holds)| !holds);
    violated.map_or(Ok(()), |(words, _)| Err(words))
}

impl State {
    fn read(features: Features, gates: &[Gate; 256]) -> State {
        let mut pointer = DescriptorTablePointer::<u64>::default();
        // SAFETY: stores the ten bytes of the register into a variable of that layout.
        unsafe { sgdt(&mut pointer) };
        let (base, end) = (pointer.base.addr(), usize::from(pointer.limit));
        let table = core::array::from_fn(|position| {
            let offset = position.wrapping_mul(size_of::<u64>());
            let address = core::ptr::with_exposed_provenance::<u64>(base.wrapping_add(offset));
            if offset >= end {
                return 0;
            }
            // SAFETY: this CPU uses the table of which this is an entry, so it is mapped.
            unsafe { address.read_volatile() }
        });
        let flags: u64;
        // SAFETY: the flags go over the stack below its pointer.
        unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(preserves_flags)) };
        // SAFETY: ring 0 may read the task register.
        let selector = usize::from(unsafe { x86::task::tr() }.index());
        let [task, upper] = [selector, selector.wrapping_add(1)].map(|at| table.get(at).copied().unwrap_or(0));
        let task_state = ((task >> 16) & 0x00ff_ffff) | ((task >> 32) & 0xff00_0000) | (upper << 32);
        let field = core::ptr::with_exposed_provenance::<u16>(index(task_state.wrapping_add(102)));
        let port_map = match task {
            0 => 0,
            // SAFETY: the CPU accepted this task state by `ltr`, so it is mapped up to its limit.
            _ => unsafe { field.read_volatile() },
        };
        let gates_are_closed = are_closed(gates);
        State { features, settings: Settings::read(), flags, table, task, port_map, gates_are_closed }
    }
}

/// Whether all gates but the breakpoint's can be used by ring 0 only.
fn are_closed(gates: &[Gate; 256]) -> bool {
    gates.iter().enumerate().all(|(vector, gate)| gate.ring() == 0 || vector == 3)
}

/// Each assertion with whether it holds.
fn judge(state: &State) -> impl Iterator<Item = (&'static str, bool)> {
    let Settings { cr0, cr4, registers } = state.settings;
    let planned = Settings::planned(state.features);
    let assertions = [
        ("CR0 is as planned: write protection on, caches on", cr0 == planned.cr0),
        ("CR4 is as planned: nothing on that is not managed", cr4 == planned.cr4),
        ("SMEP, SMAP and UMIP are on where the CPU has them", guards_are_on(state)),
        ("the I/O privilege level is 0", state.flags & (0b11 << 12) == 0),
        ("interrupts are off in ring 0", state.flags & (1 << 9) == 0),
        ("no port is open to ring 3", port_map_is_beyond_limit(state)),
        ("ring 0's segments have DPL 0 and do not conform", ring0_segments_are_private(&state.table)),
        ("ring 3 has one data and one 64-bit code segment only", ring3_segments_are_flat(&state.table)),
        ("only the breakpoint can be raised from ring 3", state.gates_are_closed),
    ];
    let registers = REGISTERS.into_iter().zip(registers).map(|((_, value, words), now)| (words, now == value));
    assertions.into_iter().chain(registers)
}

/// Independent of the plan, so that a fault of the plan shows as well.
fn guards_are_on(state: &State) -> bool {
    let guards = [(Features::SMEP, 20), (Features::SMAP, 21), (Features::UMIP, 11)];
    guards.iter().all(|(feature, bit)| !state.features.contains(*feature) || state.settings.cr4 & (1_u64 << bit) != 0)
}

fn port_map_is_beyond_limit(state: &State) -> bool {
    // Granularity must be bytes, and the limit's upper four bits 0.
    state.task & PRESENT != 0 && u64::from(state.port_map) > state.task & 0xffff && state.task & (0x8f << 48) == 0
}

/// DPL, the code-or-data bit, the code bit and the conforming bit of an entry.
const DPL: u64 = 0b11 << 45;
const PRESENT: u64 = 1 << 47;
const NOT_SYSTEM: u64 = 1 << 44;
const CODE: u64 = 1 << 43;
const CONFORMING: u64 = 1 << 42;
const LONG: u64 = 1 << 53;

/// Entries 1, 2 and 6: code, data, task state.
fn ring0_segments_are_private(table: &[u64; ENTRIES]) -> bool {
    let [_, code, data, _, _, _, task, _] = *table;
    [code, data, task].iter().all(|entry| entry & DPL == 0 && entry & PRESENT != 0)
        && code & (NOT_SYSTEM | CODE | CONFORMING) == NOT_SYSTEM | CODE
}

/// Entries 0 and 3 are empty, 4 is data, 5 is 64-bit code.
fn ring3_segments_are_flat(table: &[u64; ENTRIES]) -> bool {
    let [null, _, _, empty, data, code, _, _] = *table;
    let is_user = |entry: u64| entry & (DPL | PRESENT | NOT_SYSTEM) == DPL | PRESENT | NOT_SYSTEM;
    null == 0
        && empty == 0
        && is_user(data)
        && data & CODE == 0
        && is_user(code)
        && code & (CODE | CONFORMING | LONG) == CODE | LONG
}

#[cfg(test)]
mod tests;
