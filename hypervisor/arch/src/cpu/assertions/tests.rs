//! Tests of the start-up assertions: each is violated once, and only it is reported.

use super::{COUNT, Gates, State, judge};
use crate::cpu::control::{self, Current, Plan};
use crate::cpu::features::Features;
use crate::cpu::gdt::{TASK_STATE, table};

fn good() -> State {
    let features = Features::all();
    let plan = Plan::for_features(features);
    State {
        features,
        registers: Current {
            cr0: plan.cr0,
            cr4: plan.cr4,
            efer: plan.efer,
            fmask: control::FMASK,
            star: control::STAR,
            pat: control::PAT,
            sysenter_cs: 0,
            debugctl: 0,
            flags: 2,
        },
        table: table(0xffff_82d0_8012_3400),
        task: TASK_STATE,
        port_map: 104,
    }
}

/// The words of the assertions that the change violates.
fn violated(change: impl FnOnce(&mut State)) -> Vec<&'static str> {
    let mut state = good();
    change(&mut state);
    judge(&state, Gates::Closed).iter().filter(|line| !line.holds).map(|line| line.name).collect()
}

#[test]
fn a_planned_state_violates_nothing() {
    assert!(violated(|_| ()).is_empty());
    assert_eq!(judge(&good(), Gates::Closed).len(), COUNT);
}

#[test]
fn each_bit_of_the_control_registers_is_guarded() {
    for bit in 0..64 {
        assert!(!violated(|state| state.registers.cr0 ^= 1 << bit).is_empty(), "CR0 bit {bit}");
        assert!(!violated(|state| state.registers.cr4 ^= 1 << bit).is_empty(), "CR4 bit {bit}");
        assert_eq!(violated(|state| state.registers.efer ^= 1 << bit).len(), 1, "EFER bit {bit}");
        assert_eq!(violated(|state| state.registers.fmask ^= 1 << bit).len(), 1, "FMASK bit {bit}");
        assert_eq!(violated(|state| state.registers.star ^= 1 << bit).len(), 1, "STAR bit {bit}");
        assert_eq!(violated(|state| state.registers.pat ^= 1 << bit).len(), 1, "PAT bit {bit}");
        assert_eq!(violated(|state| state.registers.debugctl ^= 1 << bit).len(), 1, "DEBUGCTL bit {bit}");
        assert_eq!(violated(|state| state.registers.sysenter_cs ^= 1 << bit).len(), 1);
    }
}

#[test]
fn a_guard_that_is_off_is_named_besides_the_plan() {
    for bit in [11, 20, 21] {
        assert_eq!(violated(|state| state.registers.cr4 &= !(1 << bit)).len(), 2);
    }
    let without = |state: &mut State| {
        state.features.remove(Features::SMEP);
        state.registers.cr4 &= !(1 << 20);
    };
    assert!(violated(without).is_empty());
}

#[test]
fn privilege_in_the_flags_is_found() {
    assert_eq!(violated(|state| state.registers.flags |= 1 << 12).len(), 1);
    assert_eq!(violated(|state| state.registers.flags |= 1 << 13).len(), 1);
    assert_eq!(violated(|state| state.registers.flags |= 1 << 9).len(), 1);
}

#[test]
fn an_open_port_map_is_found() {
    for offset in [0, 102, 103] {
        assert_eq!(violated(|state| state.port_map = offset).len(), 1);
    }
    assert_eq!(violated(|state| state.table[6] |= 0xffff).len(), 1);
    assert_eq!(violated(|state| state.table[6] |= 1 << 55).len(), 1);
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
    let rings = |open: usize| (0..256).map(move |vector| if vector == open { 3 } else { 0 });
    assert_eq!(Gates::of(rings(3), &[3]), Gates::Closed);
    assert_eq!(Gates::of(rings(3), &[]), Gates::Open);
    assert_eq!(Gates::of(rings(0x80), &[3, 4]), Gates::Open);
    let report = judge(&good(), Gates::Open);
    assert_eq!(report.iter().filter(|line| !line.holds).count(), 1);
}
