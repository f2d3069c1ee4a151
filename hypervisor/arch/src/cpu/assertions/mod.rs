//! The start-up assertions: what must hold on every CPU before a guest runs there, read back from
//! the machine and judged.
//!
//! `State::read` reads; `judge` decides and is tested on the host, each line with a violation.
#![expect(unsafe_code, reason = "descriptor tables in use are reached by address only")]

use core::arch::asm;

use hv_core::addr::convert::index;

use crate::cpu::control::{self, Current, Plan};
use crate::cpu::features::Features;
use crate::cpu::gdt::{ENTRIES, TablePointer};

/// One assertion: what must hold, in words, and whether it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assertion {
    /// What must hold.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
}

/// Number of assertions.
pub const COUNT: usize = 15;

/// What the assertions look at.
#[derive(Debug, Clone, Copy)]
struct State {
    features: Features,
    registers: Current,
    table: [u64; ENTRIES],
    /// The selector of the task state.
    task: u16,
    /// Offset of the I/O permission map in the task state.
    port_map: u16,
}

/// Reads this CPU's state and judges it. `gate_rings` are the privilege levels of the gates of the
/// interrupt table in order of vectors; `published` are the vectors that ring 3 may raise.
#[must_use]
pub fn check(features: Features, gate_rings: impl Iterator<Item = u64>, published: &[u8]) -> [Assertion; COUNT] {
    judge(&State::read(features), Gates::of(gate_rings, published))
}

impl State {
    fn read(features: Features) -> State {
        let mut pointer = TablePointer::default();
        let task: u64;
        // SAFETY: stores the ten bytes of the register into a variable of that layout, and the task
        // register's selector, zero-extended, into a register.
        unsafe {
            asm!("sgdt [{}]", "str {}", in(reg) &raw mut pointer, out(reg) task, options(nostack, preserves_flags));
        }
        let mut table = [0; ENTRIES];
        let entries = usize::from(pointer.limit).wrapping_add(1).div_euclid(size_of::<u64>());
        let source: *const u64 = core::ptr::with_exposed_provenance(index(pointer.base));
        for (position, entry) in table.iter_mut().enumerate().take(entries) {
            let address = source.wrapping_add(position);
            // SAFETY: this CPU uses the table of which these are entries, so it is mapped.
            *entry = unsafe { address.read_volatile() };
        }
        let task = u16::try_from(task).unwrap_or(0);
        State { features, registers: Current::read(), table, task, port_map: read_port_map(&table, task) }
    }
}

/// The offset of the I/O permission map in the task state that the table's entry names.
fn read_port_map(table: &[u64; ENTRIES], selector: u16) -> u16 {
    let Some(base) = task_state_base(table, selector) else {
        return 0;
    };
    let field: *const u16 = core::ptr::with_exposed_provenance(index(base.wrapping_add(102)));
    // SAFETY: the CPU accepted this task state by `ltr`, so it is mapped up to its limit.
    unsafe { field.read_volatile() }
}

fn task_state_entry(table: &[u64; ENTRIES], selector: u16) -> Option<[u64; 2]> {
    let first = usize::from(selector / 8);
    let low = *table.get(first)?;
    let high = *table.get(first.checked_add(1)?)?;
    (selector != 0).then_some([low, high])
}

fn task_state_base(table: &[u64; ENTRIES], selector: u16) -> Option<u64> {
    let [low, high] = task_state_entry(table, selector)?;
    Some(((low >> 16) & 0x00ff_ffff) | ((low >> 32) & 0xff00_0000) | (high << 32))
}

/// Whether ring 3 can raise vectors that are not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gates {
    Closed,
    Open,
}

impl Gates {
    fn of(gate_rings: impl Iterator<Item = u64>, published: &[u8]) -> Gates {
        let is_published = |vector: usize| published.iter().any(|known| usize::from(*known) == vector);
        match gate_rings.enumerate().all(|(vector, ring)| ring == 0 || is_published(vector)) {
            true => Gates::Closed,
            false => Gates::Open,
        }
    }
}

fn judge(state: &State, gates: Gates) -> [Assertion; COUNT] {
    let registers = &state.registers;
    let plan = Plan::for_features(state.features);
    // AM and NE aside, the plan has no optional bit of CR0; ET reads as 1 on every CPU.
    let assertions = [
        ("CR0 is as planned: write protection on, caches on", registers.cr0 == plan.cr0),
        ("CR4 is as planned: nothing on that is not managed", registers.cr4 == plan.cr4),
        ("SMEP, SMAP and UMIP are on where the CPU has them", guards_are_on(state)),
        ("EFER is as planned: SYSCALL and no-execute on", registers.efer == plan.efer),
        ("the I/O privilege level is 0", registers.flags & (0b11 << 12) == 0),
        ("interrupts are off in ring 0", registers.flags & (1 << 9) == 0),
        ("no port is open to ring 3", port_map_is_beyond_limit(state)),
        ("ring 0's segments have DPL 0 and do not conform", ring0_segments_are_private(&state.table)),
        ("ring 3 has one data and one 64-bit code segment only", ring3_segments_are_flat(&state.table)),
        ("only published vectors can be raised from ring 3", gates == Gates::Closed),
        ("SYSENTER is disabled", registers.sysenter_cs == 0),
        ("SYSCALL clears TF, IF, DF, IOPL, NT and AC", registers.fmask == control::FMASK),
        ("SYSCALL and SYSRET load the flat selectors", registers.star == control::STAR),
        ("no debug facility is on (DEBUGCTL)", registers.debugctl == 0),
        ("the page-attribute table is the fixed one", registers.pat == control::PAT),
    ];
    assertions.map(|(name, holds)| Assertion { name, holds })
}

/// Independent of the plan, so that a fault of the plan shows as well.
fn guards_are_on(state: &State) -> bool {
    let guards = [(Features::SMEP, 20), (Features::SMAP, 21), (Features::UMIP, 11)];
    guards.iter().all(|(feature, bit)| !state.features.contains(*feature) || state.registers.cr4 & (1_u64 << bit) != 0)
}

fn port_map_is_beyond_limit(state: &State) -> bool {
    let Some([low, _]) = task_state_entry(&state.table, state.task) else {
        return false;
    };
    // Granularity must be bytes, and the limit's upper four bits 0.
    u64::from(state.port_map) > low & 0xffff && low & (0x8f << 48) == 0
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
