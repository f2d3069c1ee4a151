//! Every entry that a guest can write: all flags, at all levels, for all kinds of frames.

use super::specification::{Call, Spec, Use, word};
use super::world::{END, World, with_world};
use super::{FIRST, FREE, HYPERVISORS, L, LIST, OTHERS, SHARED, own};
use crate::addr::Mfn;
use crate::frame::typed::{Level, Type, Typed};
use crate::paging::Progress;
use crate::space::TableMemory;
use protocol::VcpuId;
use protocol::xen::Errno;

/// Frames of a tree; the table of level `n` is frame `4 - n`. Behind it are pages.
const PAGE: u64 = FIRST + 4;
const UNTYPED: u64 = FIRST + 5;
const WRITTEN: u64 = FIRST + 6;
const DESCRIPTORS: u64 = FIRST + 7;
/// Another table of each level, level 1 first.
const OTHER_TABLES: u64 = FIRST + 8;

fn table(level: Level) -> u64 {
    L.into_iter().rev().position(|other| other == level).map_or(0, |at| FIRST + u64::try_from(at).unwrap())
}

/// What an entry can be about.
fn targets() -> Vec<u64> {
    let tables = (OTHER_TABLES..OTHER_TABLES + 4).chain([table(Level::L1), table(Level::L4)]);
    let others = [0, OTHERS.0, FREE.0, HYPERVISORS.0, LIST[0], LIST[3], SHARED.0];
    let beyond = [END - 1, END, END + 1, 1 << 28, (1 << 36) - 1, (1 << 40) - 2, (1 << 40) - 1];
    [UNTYPED, WRITTEN, DESCRIPTORS].into_iter().chain(tables).chain(others).chain(beyond).collect()
}

/// A tree whose tables have entry 0, and frames of each use.
fn build(world: &mut World<'_>) {
    for level in [Level::L4, Level::L3, Level::L2] {
        let below = table(level.below().unwrap());
        let entry = Call::Update(table(level), 0, 0, below << 12 | 0x67);
        world.finish(0, entry).unwrap();
    }
    let page = Call::Update(table(Level::L1), 0, 0, PAGE << 12 | 0x63);
    world.finish(0, page).unwrap();
    world.finish(0, Call::Pin(table(Level::L4), Level::L4)).unwrap();
    world.finish(0, Call::Take(WRITTEN, Use::Writable)).unwrap();
    world.finish(0, Call::Take(DESCRIPTORS, Use::Descriptors)).unwrap();
    for (frame, level) in (OTHER_TABLES..).zip(L) {
        world.finish(0, Call::Pin(frame, level)).unwrap();
    }
    world.check();
}

/// What an entry of a table of a level refers to, by the rules of the ABI alone.
fn target(spec: &Spec, level: Level, stored: u64) -> Result<(), Errno> {
    if stored & 1 == 0 {
        return Ok(());
    }
    let frame = stored >> 12 & 0xff_ffff_ffff;
    let counts = spec.count();
    let used = counts.get(&frame).and_then(|counted| counted.used);
    match level.below() {
        None if !spec.is_own(frame) => Err(Errno::Busy),
        None if stored & 2 == 0 => Ok(()),
        None => {
            if matches!(used, None | Some(Use::Writable)) {
                Ok(())
            } else {
                Err(Errno::Busy)
            }
        }
        Some(_) if !spec.is_own(frame) => Err(Errno::Invalid),
        // An untyped frame here is empty, so it can be a table.
        Some(below) if used.is_none_or(|used| used == Use::Table(below)) => Ok(()),
        Some(_) => Err(Errno::Invalid),
    }
}

/// Writes entries for a frame with the given flags (12 low bits, 12 high ones) at a level, each over
/// nothing, and compares answer, word and counts. Returns how many.
fn compare(world: &mut World<'_>, level: Level, frame: u64, flags: impl Iterator<Item = u64>) -> u64 {
    const SLOT: usize = 7;
    let (machine, into) = (world.machine, table(level));
    // The rules for frames see only whether an entry is present and for writing.
    let expected = [0, 1, 2, 3].map(|bits| target(&world.spec, level, frame << 12 | bits));
    let record = || [frame, into].map(|frame| machine.frames.typed(Mfn(frame), super::OWN));
    let (before, flushes) = (record(), machine.tables.flushes.get());
    let mut compared = 0;
    for bits in flags {
        let written = bits >> 12 << 52 | frame << 12 | bits & 0xfff;
        let stored = word(level, written, END);
        let rights = usize::try_from(written & 3).unwrap();
        let wanted = stored.and_then(|stored| expected[rights].map(|()| stored));
        let request = into << 12 | u64::try_from(SLOT).unwrap() << 3;
        let answer = world.paging.update(machine, VcpuId(0), request, written);
        assert_eq!(answer, wanted.map(|_| Progress::Done(())), "{level:?} {written:x}");
        assert_eq!(machine.tables.load(Mfn(into), SLOT), wanted.unwrap_or(0), "{level:?} {written:x}");
        if wanted.is_ok() {
            let after = record();
            let counts = |record: Option<Typed>| {
                record.map_or((Type::None, 0, 0), |record| (record.current(), record.count(), record.references()))
            };
            let (was, is) = (counts(before[0]), counts(after[0]));
            let by_type = u64::from(written & 1 == 1 && (level != Level::L1 || written & 2 == 2));
            let general = written & 1;
            assert_eq!((is.1, is.2), (was.1 + by_type, was.2 + general), "{level:?} {written:x}");
            assert_eq!(world.paging.update(machine, VcpuId(0), request, 0), Ok(Progress::Done(())));
        }
        assert_eq!(
            record().map(|record| record.map(Typed::references)),
            before.map(|record| record.map(Typed::references))
        );
        compared += 1;
    }
    // Only the untyped frame ever changes its type.
    assert!(frame == UNTYPED || machine.tables.flushes.get() == flushes);
    compared
}

/// All flags, with the frames given by number.
fn sweep(step: usize) -> u64 {
    let mut compared = 0;
    for level in L {
        for frame in targets() {
            // A table that is full of itself is another test.
            with_world(8192, |mut world| {
                build(&mut world);
                compared += compare(&mut world, level, frame, (0..1 << 24).step_by(step));
            });
        }
    }
    compared
}

#[test]
fn flags_are_as_specified() {
    // Coprime to every power of two, so every bit is seen both ways with every other near it.
    let compared = sweep(8191);
    assert!(compared > 4 * 20 * 2000, "{compared}");
}

#[test]
#[ignore = "2^24 flags at 4 levels for 23 frames: cargo test --release -p hv-core all_flags -- --ignored"]
fn all_flags_are_as_specified() {
    assert_eq!(sweep(1), u64::try_from(targets().len()).unwrap() << 26);
}

/// Replacing an entry by another one: what differs decides whether anything is counted.
#[test]
fn every_change_of_an_entry_counts_what_it_must() {
    let flags = [0x61_u64, 0x63, 0x05, 1 << 63 | 0x67, 1 << 52 | 0x67];
    let frames = [UNTYPED, WRITTEN, SHARED.0, own(8).0, own(9).0, own(10).0];
    let words: Vec<_> = frames.iter().flat_map(|frame| flags.map(|flags| frame << 12 | flags)).chain([0]).collect();
    for level in L {
        with_world(8192, |mut world| {
            build(&mut world);
            for old in &words {
                for (command, new) in (0..).zip(&words) {
                    let update = |value| Call::Update(table(level), 9, command % 2 * 2, value);
                    // Whatever the answer is: it is compared.
                    let _ = world.finish(0, update(*old));
                    let _ = world.finish(0, update(*new));
                }
                world.check();
            }
        });
    }
}

#[test]
fn the_specification_knows_every_bit() {
    for bits in super::specification::BITS {
        assert_eq!(bits.len(), 64);
        assert!(bits.bytes().all(|bit| b"kdrf".contains(&bit)));
        assert_eq!((&bits[..12], bits[12..52].trim_matches('f')), ("kkkkkkkkkkkk", ""));
    }
}

#[test]
fn every_descriptor_is_as_specified() {
    // Bits 40 to 55 decide; the others are kept.
    for access in 0..1 << 16 {
        for rest in [0, u64::MAX] {
            let word = access << 40 | rest & !(0xffff << 40);
            assert_eq!(crate::abi::xen::descriptor::sanitise(word), super::specification::descriptor(word), "{word:x}");
        }
    }
}
