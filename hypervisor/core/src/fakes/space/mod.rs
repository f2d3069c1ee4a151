//! The memory of one VM on a machine of its own, and what its calls must answer.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::fn_params_excessive_bools,
    clippy::missing_errors_doc,
    clippy::unwrap_used,
    reason = "for tests: numbers are small and a wrong one fails the test"
)]

mod model;

pub use model::{Half, Model, Page};

use protocol::{Gfn, VmId};

use super::{FakeMemory, free_table, records};
use crate::frame::{Class, Kind};
use crate::space::{FrameList, Machine, Memory, Region, TableMemory};

/// Whose memory it is.
pub const VM: VmId = VmId(3);
/// Guest frames: two runs of 512, and some behind.
pub const FRAMES: u64 = 1024 + 16;
/// Frames of the region of channel 1; channel 0 does not exist.
pub const CHANNEL_FRAMES: u64 = 4;

/// The machine.
pub type TestMachine<'m> = Machine<'m, FakeMemory>;

/// Frames of the machine.
pub const MACHINE_FRAMES: usize = 1600;

/// Runs a test on a machine with a VM's memory in it, whose pool has `pool` frames and which has no
/// space yet.
pub fn with_memory(pool: u64, test: impl FnOnce(TestMachine<'_>, Memory)) {
    with_memory_in(&FakeMemory::new(MACHINE_FRAMES), pool, test);
}

/// The same on frames that were used before: what a test before left in them is garbage to this one.
pub fn with_memory_in(tables: &FakeMemory, pool: u64, test: impl FnOnce(TestMachine<'_>, Memory)) {
    let records = records(MACHINE_FRAMES);
    let frames = free_table(&records);
    let machine = Machine { frames: &frames, tables };
    let claim = |owner, kind, number, count, alignment| {
        let first = frames.claim_run(Class::FREE, Class::new(owner, kind), number, (count, alignment)).unwrap();
        // The guest's memory keeps its garbage, which must not get anywhere else.
        for offset in (0..count).filter(|_| kind != Kind::Data) {
            TableMemory::clear(tables, first.offset(offset));
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
