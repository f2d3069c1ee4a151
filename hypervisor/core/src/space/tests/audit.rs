//! Recounts everything that the records claim, by walking all tables. Written apart from the code
//! under test: it reads raw words.

use std::collections::{BTreeMap, BTreeSet};

use super::{CHANNEL_FRAMES, FRAMES, TestMachine, class, frame_of};
use crate::addr::Mfn;
use crate::frame::{Class, Kind};
use crate::space::{Memory, TableMemory};
use protocol::flags::MapFlags;
use protocol::{Gfn, SpaceId};

/// A page as the CPU sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) frame: u64,
    pub(super) flags: MapFlags,
    pub(super) software: u64,
}

/// Pages by address, of the lower half of each space and of the kernel half.
pub(super) type View = BTreeMap<(Option<SpaceId>, u64), Seen>;

const FRAME: u64 = 0x000f_ffff_ffff_f000;

struct Walk<'m> {
    machine: TestMachine<'m>,
    tables: BTreeSet<u64>,
    view: View,
}

impl Walk<'_> {
    fn table(&mut self, space: Option<SpaceId>, table: u64, level: u32, base: u64) {
        assert!(self.tables.insert(table), "table {table:#x} is used twice");
        let known = self.machine.frames.references(Mfn(table), class(Kind::Table));
        assert_eq!(known, Some(0), "table {table:#x}");
        for slot in 0..512_u64 {
            let word = self.machine.tables.load(Mfn(table), usize::try_from(slot).unwrap());
            if word != 0 {
                self.entry(space, word, level, base + (slot << (3 + 9 * level)));
            }
        }
    }

    fn entry(&mut self, space: Option<SpaceId>, word: u64, level: u32, address: u64) {
        assert_eq!(word & 0b10_0101, 0b10_0101, "{word:#x}: present, user, accessed");
        assert_eq!(word & 0b1_0001_1000, 0, "{word:#x}: cacheability or global");
        let frame = (word & FRAME) >> 12;
        if level > 1 && word & 0x80 == 0 {
            assert_eq!(word & !FRAME, 0b10_0111, "{word:#x}");
            return self.table(space, frame, level - 1, address);
        }
        assert!(level <= 2);
        let mut flags = MapFlags::empty();
        flags.set(MapFlags::WRITE, word & 2 != 0);
        flags.set(MapFlags::EXECUTE, word >> 63 == 0);
        flags.set(MapFlags::LARGE, level == 2);
        let software = ((word >> 9) & 7) | ((word >> 52) & 0x7f) << 8;
        let seen = Seen { frame, flags, software };
        self.view.insert((space, address), seen);
    }
}

/// Checks every invariant that can be recounted, and returns what the CPUs would see.
pub(super) fn audit(machine: TestMachine<'_>, memory: &Memory, pinned: &[Gfn]) -> View {
    let mut walk = Walk { machine, tables: BTreeSet::new(), view: View::new() };
    let word = |table: Mfn, slot: usize| machine.tables.load(table, slot);
    let mut kernel_half: Option<Vec<u64>> = None;
    for (space, found) in (0..).map(SpaceId).zip(&memory.spaces) {
        let Some(found) = found else {
            continue;
        };
        let roots = found.roots;
        for root in [roots.kernel, roots.user] {
            assert!(walk.tables.insert(root.0));
            for slot in 256..272 {
                assert_eq!(word(root, slot) != 0, slot == 261, "hypervisor slot {slot}");
                assert_eq!(word(root, slot) & 4, 0, "hypervisor slot {slot} is for users");
            }
        }
        for slot in 0..256 {
            let lower = word(roots.kernel, slot);
            assert_eq!(lower, word(roots.user, slot));
            if lower != 0 {
                walk.entry(Some(space), lower, 4, u64::try_from(slot).unwrap() << 39);
            }
        }
        let upper: Vec<u64> = (272..512).map(|slot| word(roots.kernel, slot)).collect();
        assert!((272..512).all(|slot| word(roots.user, slot) == 0));
        if let Some(shared) = &kernel_half {
            assert_eq!(shared, &upper);
            continue;
        }
        for (slot, entry) in (272_u64..).zip(&upper) {
            if *entry != 0 {
                walk.entry(None, *entry, 4, 0xffff_0000_0000_0000 | (slot << 39));
            }
        }
        kernel_half = Some(upper);
    }
    recount(machine, memory, &walk, pinned);
    walk.view
}

fn recount(machine: TestMachine<'_>, memory: &Memory, walk: &Walk<'_>, pinned: &[Gfn]) {
    let frames = machine.frames;
    let mut references: BTreeMap<u64, u64> = BTreeMap::new();
    for seen in walk.view.values() {
        let count = if seen.flags.contains(MapFlags::LARGE) { 512 } else { 1 };
        if seen.software & 3 == 1 {
            for frame in seen.frame..seen.frame + count {
                *references.entry(frame).or_default() += 1;
            }
        }
    }
    for frame in pinned {
        let frame = frame_of(machine, memory, *frame).unwrap();
        *references.entry(frame.0).or_default() += 1;
    }
    let mut data = 0;
    for number in 0..FRAMES {
        if let Some(frame) = frame_of(machine, memory, Gfn(number)) {
            data += 1;
            assert_eq!(frames.number(frame, class(Kind::Data)), Some(number));
            let counted = references.remove(&frame.0).unwrap_or(0);
            assert_eq!(frames.references(frame, class(Kind::Data)), Some(counted));
        }
    }
    assert!(references.is_empty(), "mapped frames that are not the VM's");
    assert_eq!(frames.count(class(Kind::Data)), data);
    let tables = u64::try_from(walk.tables.len()).unwrap();
    assert_eq!(frames.count(class(Kind::Table)), tables);
    assert_eq!(frames.count(class(Kind::Pool)), memory.pool_frames());
    for frame in 0..frames.frames() {
        if frames.number(Mfn(frame), class(Kind::Pool)).is_some() {
            assert!(machine.tables.is_clear(Mfn(frame)), "pool frame {frame:#x}");
        }
    }
    let channel = frames.count(Class::new(None, Kind::Channel));
    // One more stands for the hypervisor's own table.
    assert_eq!(channel, CHANNEL_FRAMES + 1);
}
