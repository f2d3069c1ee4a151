//! Tests of the page-table engine: `clauses` has the single cases; `specification` says naively what every
//! call must do, `machine` has CPUs with caches, `world` compares the engine with both, and `random`
//! drives them;
//! `entries` has every entry, `interruption` every point where a call can be cut, `exploration` all short
//! sequences.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::missing_errors_doc,
    reason = "test code: numbers are small and a wrong one fails the test"
)]

mod clauses;
mod entries;
mod exploration;
mod interruption;
mod machine;
mod random;
mod specification;
mod world;

use super::{GuestTables, Paging};
use crate::addr::Mfn;
use crate::fakes::{FakeMemory, free_table, records};
use crate::frame::typed::{Level, Type, Typed};
use crate::frame::{Class, FrameTable, Kind};
use crate::space::entry::LeafKind;
use crate::space::{Machine, ValidEntry};
use core::sync::atomic::AtomicU64;
use protocol::flags::MapFlags;
use protocol::xen::M2P_INVALID;
use protocol::{VcpuId, VmId};

pub(super) const VM: VmId = VmId(3);
pub(super) const OWN: Class = Class::new(Some(VM), Kind::Paged);
pub(super) const FOREIGN: Class = Class::new(Some(VmId(4)), Kind::Paged);
/// Tables of the list "machine frame to guest frame", from level 3, and the page of it.
pub(super) const LIST: [u64; 4] = [1, 2, 3, 4];
/// A frame of another VM, one of the hypervisor's, a free one, and one that the hypervisor shares with
/// the guest.
pub(super) const OTHERS: Mfn = Mfn(5);
pub(super) const HYPERVISORS: Mfn = Mfn(6);
pub(super) const FREE: Mfn = Mfn(7);
pub(super) const SHARED: Mfn = Mfn(8);
/// First frame of the VM, all zero.
pub(super) const FIRST: u64 = 10;
/// Entry of a page as guests write it: present, for writing, accessed and dirty; or for reading.
pub(super) const RW: u64 = 0x63;
pub(super) const RO: u64 = 0x61;

pub(super) type TestMachine<'m> = Machine<'m, FakeMemory>;

/// The records and memory of a small machine.
pub(super) struct Fixture {
    records: Vec<AtomicU64>,
    pub(super) memory: FakeMemory,
    frames: u64,
}

impl Fixture {
    /// A machine of `frames` frames.
    pub(super) fn new(frames: u64) -> Fixture {
        let count = usize::try_from(frames).unwrap();
        Fixture { records: records(count), memory: FakeMemory::new(count), frames }
    }

    /// Runs a test with a VM that owns the last `own` frames but `pool`, which its pool has.
    pub(super) fn run<R>(&self, pool: u64, test: impl FnOnce(TestMachine<'_>, Paging) -> R) -> R {
        let frames = free_table(&self.records);
        let machine = Machine { frames: &frames, tables: &self.memory };
        let mut slots = [None; 16];
        slots[0] = Some(HYPERVISORS);
        slots[5] = Some(HYPERVISORS);
        let mut paging = Paging::new(VM, slots, Some(Mfn(LIST[0])));
        set_up(machine, &mut paging, self.frames, pool);
        self.memory.take_stores();
        test(machine, paging)
    }
}

/// Gives the frames their classes and builds the list.
pub(super) fn set_up(machine: Machine<'_, impl GuestTables>, paging: &mut Paging, frames: u64, pool: u64) {
    let to = |frame, class| machine.frames.change(frame, Class::FREE, class, 0).unwrap();
    for (at, frame) in LIST.into_iter().enumerate() {
        to(Mfn(frame), Class::new(Some(VM), if at < 3 { Kind::Table } else { Kind::Shared }));
        machine.tables.clear(Mfn(frame));
    }
    for at in [0, 1] {
        machine.tables.store(Mfn(LIST[at]), 0, ValidEntry::table(Mfn(LIST[at + 1])).unwrap());
    }
    let page = ValidEntry::leaf(Mfn(LIST[3]), MapFlags::empty(), LeafKind::Special).unwrap();
    machine.tables.store(Mfn(LIST[2]), 0, page);
    (0..512).for_each(|word| machine.tables.store_word(Mfn(LIST[3]), word, M2P_INVALID));
    to(OTHERS, FOREIGN);
    to(HYPERVISORS, Class::new(None, Kind::Table));
    to(SHARED, OWN);
    paging.take_writable(machine, SHARED).unwrap();
    for frame in FIRST..frames {
        to(Mfn(frame), OWN);
        machine.tables.clear(Mfn(frame));
        paging.set_m2p(machine, Mfn(frame), frame - FIRST).unwrap();
    }
    for frame in frames - pool..frames {
        machine.frames.change(Mfn(frame), OWN, Class::new(Some(VM), Kind::Kept), 0).unwrap();
        paging.give(machine, Mfn(frame), Class::new(Some(VM), Kind::Kept)).unwrap();
    }
}

/// A frame of the VM by its number there.
pub(super) const fn own(number: u64) -> Mfn {
    Mfn(FIRST + number)
}

/// An entry for a frame.
pub(super) const fn entry(frame: Mfn, bits: u64) -> u64 {
    frame.0 << 12 | bits
}

/// How a frame is used.
pub(super) fn typed(frames: &FrameTable<'_>, frame: Mfn) -> Typed {
    frames.typed(frame, OWN).unwrap()
}

pub(super) const CPU: VcpuId = VcpuId(0);
pub(super) const L: [Level; 4] = Level::ALL;

/// Writes a word of memory, whatever it is used as.
pub(super) fn poke(machine: Machine<'_, impl GuestTables>, frame: Mfn, index: usize, value: u64) {
    machine.tables.store_word(frame, index, value);
}

/// The type that a frame is in use by.
pub(super) fn current(frames: &FrameTable<'_>, frame: Mfn) -> Type {
    typed(frames, frame).current()
}
