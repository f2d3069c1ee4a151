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

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use protocol::{Gfn, VmId};

use super::{FakeMemory, free_table, records};
use crate::addr::Mfn;
use crate::frame::{Class, FrameTable, Kind};
use crate::space::{FrameList, HypervisorSlots, Machine, Memory, Region, TableMemory};

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

/// A machine with a VM in it, to which it comes back for each test.
#[derive(Debug)]
pub struct Fixture {
    tables: FakeMemory,
    records: Vec<AtomicU64>,
    /// The records and the frame list, as they are to be.
    words: Vec<u64>,
    listed: Vec<(Mfn, Vec<u8>)>,
    list: FrameList,
    slots: HypervisorSlots,
    time_page: Mfn,
    region: Region,
    /// Frames for the pool.
    pool: Vec<Mfn>,
}

impl Fixture {
    /// A VM whose pool has `pool` frames.
    #[must_use]
    pub fn new(pool: u64) -> Fixture {
        let records = records(MACHINE_FRAMES);
        let frames = free_table(&records);
        let tables = FakeMemory::new(MACHINE_FRAMES);
        let machine = Machine { frames: &frames, tables: &tables };
        let claim = |owner, kind, number, count, alignment| {
            let first = frames.claim_run(Class::FREE, Class::new(owner, kind), number, (count, alignment)).unwrap();
            // The guest's memory keeps its garbage, which must not get anywhere else.
            for offset in (0..count).filter(|_| kind != Kind::Data) {
                TableMemory::clear(&tables, first.offset(offset));
            }
            first
        };
        let mut slots = [None; 16];
        slots[5] = Some(claim(None, Kind::Channel, 0, 1, 1));
        let run = FrameList::run_length(FRAMES);
        let first = claim(Some(VM), Kind::FrameList, 0, run, 1);
        let list = FrameList::new(VM, first, FRAMES);
        let time_page = claim(Some(VM), Kind::Shared, 0, 1, 1);
        for (number, count, alignment) in [(0, 512, 512), (512, 512, 512), (1024, FRAMES - 1024, 1)] {
            let first = claim(Some(VM), Kind::Data, number, count, alignment);
            for offset in 0..count {
                list.set(machine, Gfn(number + offset), Some(first.offset(offset)));
            }
        }
        let pool = (0..pool).map(|_| claim(Some(VM), Kind::Kept, 0, 1, 1)).collect();
        let region = Region { first: claim(None, Kind::Channel, 0, CHANNEL_FRAMES, 1), frames: CHANNEL_FRAMES };
        let listed = (0..run).map(|offset| first.offset(offset)).map(|frame| (frame, tables.bytes(frame).to_vec()));
        let listed = listed.collect();
        let words = records.iter().map(|record| record.load(Ordering::Relaxed)).collect();
        Fixture { tables, records, words, listed, list, slots, time_page, region, pool }
    }

    /// Runs a test on the machine and the VM's memory, which has no space yet. Whatever tests before did
    /// is undone; the VM's frames hold garbage.
    pub fn run(&mut self, test: impl FnOnce(TestMachine<'_>, Memory)) {
        for (record, word) in self.records.iter().zip(&self.words) {
            record.store(*word, Ordering::Relaxed);
        }
        self.tables.take_stores();
        let machine = Machine { frames: &FrameTable::new(&self.records), tables: &self.tables };
        for (frame, bytes) in &self.listed {
            self.tables.write(*frame, 0, bytes);
        }
        for number in (0..FRAMES).map(Gfn) {
            self.tables.write(self.list.get(machine, number).unwrap().unwrap(), 0, &[0xa5]);
        }
        let mut memory = Memory::new(VM, self.list, self.slots, self.time_page);
        for frame in &self.pool {
            memory.give(machine, *frame, Kind::Kept).unwrap();
        }
        memory.channels[1] = Some(self.region);
        test(machine, memory);
    }
}

/// Runs one test on a machine with a VM's memory in it, whose pool has `pool` frames and which has no
/// space yet.
pub fn with_memory(pool: u64, test: impl FnOnce(TestMachine<'_>, Memory)) {
    Fixture::new(pool).run(test);
}
