//! Tests of a VM's memory: `audit` recounts everything from the tables, `random` compares it and the
//! naive model of `fakes::space` over sequences of calls, `clauses` has the single cases.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::fn_params_excessive_bools,
    clippy::missing_errors_doc,
    clippy::wildcard_enum_match_arm,
    reason = "test code: numbers are small and a wrong one fails the test"
)]

mod audit;
mod clauses;
mod entry;
mod flush;
mod random;

use super::Memory;
use crate::addr::Mfn;
use crate::fakes::space::{CHANNEL_FRAMES, FRAMES, TestMachine, VM, with_memory};
use crate::frame::{Class, Kind};
use protocol::{Gfn, VmId};

/// The VM's frames of a kind.
pub(super) fn class(kind: Kind) -> Class {
    Class::new(Some(VM), kind)
}

/// The machine frame of a guest frame.
pub(super) fn frame_of(machine: TestMachine<'_>, memory: &Memory, frame: Gfn) -> Option<Mfn> {
    memory.list().get(machine, frame).ok().flatten()
}

/// A frame of another VM.
pub(super) fn foreign_frame(machine: TestMachine<'_>) -> Mfn {
    let other = Class::new(Some(VmId(9)), Kind::Data);
    machine.frames.claim_run(Class::FREE, other, 0, (1, 1)).unwrap()
}
