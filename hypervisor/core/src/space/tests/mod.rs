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
mod model;
mod random;

use super::{FrameList, Machine, Memory, Parts, Region};
use crate::addr::Mfn;
use crate::fakes::{FakeMemory, free_table, records};
use crate::frame::{Kind, Owner, Use};
use protocol::{Gfn, VmId};

pub(super) const VM: VmId = VmId(3);
pub(super) const OWNER: Owner = Owner::Vm(VM);
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
    let claim = |owner, kind, count, alignment, number| {
        let usage = Use { owner, kind, number };
        let first = frames.claim_run(usage, count, alignment).unwrap();
        // The guest's memory keeps its garbage, which must not get anywhere else.
        for offset in (0..count).filter(|_| kind != Kind::Data) {
            super::TableMemory::clear(&tables, first.offset(offset));
        }
        first
    };
    let own = claim(Owner::Hypervisor, Kind::Hypervisor, 1, 1, 0);
    let mut slots = [None; 16];
    slots[5] = Some(own);
    let run = FrameList::run_length(FRAMES);
    let mut memory = Memory::new(Parts {
        vm: VM,
        list: FrameList::new(claim(OWNER, Kind::FrameList, run, 1, 0), FRAMES),
        slots,
        time_page: claim(OWNER, Kind::Shared, 1, 1, 0),
    });
    for (number, count, alignment) in [(0, 512, 512), (512, 512, 512), (1024, FRAMES - 1024, 1)] {
        let first = claim(OWNER, Kind::Data, count, alignment, number);
        for offset in 0..count {
            memory.set_frame(machine, Gfn(number + offset), first.offset(offset));
        }
    }
    for _ in 0..pool {
        let frame = claim(OWNER, Kind::Kept, 1, 1, 0);
        memory.give(machine, frame, Kind::Kept);
    }
    let first = claim(Owner::Hypervisor, Kind::Channel, CHANNEL_FRAMES, 1, 0);
    memory.attach_channel(1, Region { first, frames: CHANNEL_FRAMES });
    test(machine, memory);
}

/// A frame of another VM.
pub(super) fn foreign_frame(machine: TestMachine<'_>) -> Mfn {
    let usage = Use::new(Owner::Vm(VmId(9)), Kind::Data);
    machine.frames.claim_run(usage, 1, 1).unwrap()
}
