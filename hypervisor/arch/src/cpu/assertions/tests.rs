//! Tests of the start-up assertions: each is violated once, and only it is reported.

use super::{State, are_closed, judge};
use crate::cpu::control::{REGISTERS, Settings};
use crate::cpu::features::Features;
use crate::cpu::gdt::table;
use crate::trap::descriptors::Gate;

fn good() -> State {
    let features = Features::all();
    let table = table(0xffff_82d0_8012_3400);
    State {
        features,
        settings: Settings::planned(features),
        flags: 2,
        table,
        task: table[6],
        port_map: 104,
        gates_are_closed: true,
    }
}

/// The words of the assertions that the change violates.
fn violated(change: impl FnOnce(&mut State)) -> Vec<&'static str> {
    let mut state = good();
    change(&mut state);
    judge(&state).filter(|(_, holds)| !holds).map(|(words, _)| words).collect()
}

#[test]
fn a_planned_state_violates_nothing() {
    assert!(violated(|_| ()).is_empty());
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn each_bit_of_the_control_registers_is_guarded() {
    for bit in 0..64 {
        assert!(!violated(|state| state.settings.cr0 ^= 1 << bit).is_empty(), "CR0 bit {bit}");
        assert!(!violated(|state| state.settings.cr4 ^= 1 << bit).is_empty(), "CR4 bit {bit}");
        for (position, (_, _, words)) in REGISTERS.into_iter().enumerate() {
            assert_eq!(violated(|state| state.settings.registers[position] ^= 1 << bit), [words], "bit {bit}");
        }
    }
}

#[test]
fn a_guard_that_is_off_is_named_besides_the_plan() {
    for bit in [11, 20, 21] {
        assert_eq!(violated(|state| state.settings.cr4 &= !(1 << bit)).len(), 2);
    }
    let without = |state: &mut State| {
        state.features.remove(Features::SMEP);
        state.settings.cr4 &= !(1 << 20);
    };
    assert!(violated(without).is_empty());
}

#[test]
fn privilege_in_the_flags_is_found() {
    assert_eq!(violated(|state| state.flags |= 1 << 12).len(), 1);
    assert_eq!(violated(|state| state.flags |= 1 << 13).len(), 1);
    assert_eq!(violated(|state| state.flags |= 1 << 9).len(), 1);
}

#[test]
fn an_open_port_map_is_found() {
    for offset in [0, 102, 103] {
        assert_eq!(violated(|state| state.port_map = offset).len(), 1);
    }
    assert_eq!(violated(|state| state.task |= 0xffff).len(), 1);
    assert_eq!(violated(|state| state.task |= 1 << 55).len(), 1);
    assert_eq!(violated(|state| state.task = 0).len(), 1);
}

#[test]
fn a_wrong_segment_is_found() {
    for (entry, bit) in [(1, 45), (1, 46), (1, 42), (2, 45), (6, 46), (1, 47)] {
        assert_eq!(violated(|state| state.table[entry] ^= 1 << bit).len(), 1, "entry {entry} bit {bit}");
    }
    for (entry, bit) in [(4, 45), (4, 43), (5, 42), (5, 53), (5, 44), (3, 47), (0, 0)] {
        assert_eq!(violated(|state| state.table[entry] ^= 1 << bit).len(), 1, "entry {entry} bit {bit}");
    }
}

#[test]
fn an_unpublished_gate_for_ring_3_is_found() {
    let open = |open: usize| core::array::from_fn(|vector| Gate::new(0, 8, 0, if vector == open { 3 } else { 0 }));
    assert!(are_closed(&open(3)));
    assert!(are_closed(&open(256)));
    for vector in [0, 2, 4, 0x80, 255] {
        assert!(!are_closed(&open(vector)), "vector {vector}");
    }
    assert_eq!(violated(|state| state.gates_are_closed = false).len(), 1);
}
