//! Tests of a VM's memory: `audit` recounts everything from the tables, `model` says naively what
//! each call must answer, `random` compares the two over sequences of calls, `clauses` has the
//! single cases.
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
mod model;
mod random;

use super::{FrameList, Machine, Memory, Region};
use crate::addr::Mfn;
use crate::fakes::{FakeMemory, free_table, records};
use crate::frame::{Class, Kind};
use protocol::{Gfn, VmId};

pub(super) const VM: VmId = VmId(3);
/// Guest frames: two runs of 512, and some behind.
pub(super) const FRAMES: u64 = 1024 + 16;
/// Frames of the region of channel 1; channel 0 does not exist.
pub(super) const CHANNEL_FRAMES: u64 = 4;

pub(super) type TestMachine<'m> = Machine<'m, FakeMemory>;

/// Runs a test on a machine with a VM's memory in it, whose pool has `pool` frames and which has no
/// space yet.
pub(super) fn with_memory(pool: u64, test: impl FnOnce(TestMachine<'_>, Memory)) {
    let records = records(2600);
    let frames = free_table(&records);
    let tables = FakeMemory::new(2600);
    let machine = Machine { frames: &frames, tables: &tables };
    let claim = |owner, kind, number, count, alignment| {
        let first = frames.claim_run(Class::FREE, Class::new(owner, kind), number, (count, alignment)).unwrap();
        // The guest's memory keeps its garbage, which must not get anywhere else.
        for offset in (0..count).filter(|_| kind != Kind::Data) {
            super::TableMemory::clear(&tables, first.offset(offset));
        }
        first
    };
    let own = claim(None, Kind::Channel, 0, 1, 1);
    let mut slots = [None; 16];
    slots[5] = Some(own);
    let run = FrameList::run_length(FRAMES);
    let list = FrameList::new(VM, claim(Some(VM), Kind::FrameList, 0, run, 1), FRAMES);
    let mut memory = Memory::new(VM, list, slots, claim(Some(VM), Kind::Shared, 0, 1, 1));
    for (number, count, alignment) in [(0, 512, 512), (512, 512, 512), (1024, FRAMES - 1024, 1)] {
        let first = claim(Some(VM), Kind::Data, number, count, alignment);
        for offset in 0..count {
            list.set(machine, Gfn(number + offset), Some(first.offset(offset)));
        }
    }
    for _ in 0..pool {
        let frame = claim(Some(VM), Kind::Kept, 0, 1, 1);
        memory.give(machine, frame, Kind::Kept).unwrap();
    }
    let first = claim(None, Kind::Channel, 0, CHANNEL_FRAMES, 1);
    memory.channels[1] = Some(Region { first, frames: CHANNEL_FRAMES });
    test(machine, memory);
}

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
