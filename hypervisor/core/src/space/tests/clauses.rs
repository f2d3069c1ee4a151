//! Single cases: what the random sequences reach seldom or not at all.

use super::audit::audit;
use super::{FRAMES, TestMachine, class, foreign_frame, with_memory};
use crate::frame::tests::KINDS;
use crate::frame::{Kind, MAX_REFERENCES};
use crate::space::{Covered, Memory, Teardown, WORK_PAGES};
use protocol::call::{Map, Pair, Protect, Unmap};
use protocol::flags::{MapFlags, MemoryOperation};
use protocol::layout::{self, KERNEL_START, PAGE_SIZE};
use protocol::shared::MemoryBatchEntry;
use protocol::{Gfn, GuestVirt, SpaceId, Status};

const FIRST: SpaceId = SpaceId::FIRST;
const LARGE_SIZE: u64 = 512 * PAGE_SIZE;

fn map(address: u64, frame: u64, count: u64, flags: MapFlags) -> Map {
    Map { space: FIRST, address: GuestVirt(address), frame: Gfn(frame), count, flags }
}

fn unmap(address: u64, count: u64) -> Unmap {
    Unmap { space: FIRST, address: GuestVirt(address), count }
}

/// Settles without a CPU that could remember anything.
fn pages(machine: TestMachine<'_>, memory: &mut Memory, covered: Covered) -> u64 {
    memory.settle(machine, covered.flush, |_| {});
    covered.pages
}

fn mapped(machine: TestMachine<'_>, memory: &mut Memory, call: Map) -> Result<u64, Status> {
    let covered = memory.map(machine, call)?;
    Ok(pages(machine, memory, covered))
}

#[test]
fn a_frame_mapped_as_often_as_can_be_counted_is_refused_once_more_and_nothing_leaks() {
    with_memory(12, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        for page in 0..MAX_REFERENCES {
            let call = map(page * PAGE_SIZE, 7, 1, MapFlags::WRITE);
            assert_eq!(mapped(machine, &mut memory, call), Ok(1));
        }
        let before = memory.pool_frames();
        let once_more = map(1 << 40, 7, 1, MapFlags::WRITE);
        assert_eq!(mapped(machine, &mut memory, once_more), Err(Status::QuotaExceeded));
        // A large page over it is refused, too, and drops the references that it had counted.
        let large = map(1 << 40, 0, 1, MapFlags::LARGE);
        assert_eq!(mapped(machine, &mut memory, large), Err(Status::QuotaExceeded));
        assert_eq!(memory.pool_frames(), before);
        audit(machine, &memory, &[]);
    });
}

#[test]
fn a_large_page_translates_to_the_small_frame_at_the_address() {
    with_memory(12, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        let call = map(LARGE_SIZE, 512, 1, MapFlags::LARGE | MapFlags::WRITE);
        assert_eq!(mapped(machine, &mut memory, call), Ok(1));
        let flags = MapFlags::LARGE | MapFlags::WRITE;
        let address = GuestVirt(LARGE_SIZE + 3 * PAGE_SIZE + 5);
        let found = memory.translate(machine, FIRST, address);
        assert_eq!(found, Ok(Pair(515, flags.bits())));
    });
}

#[test]
fn a_part_of_a_large_page_is_never_taken_out_or_changed() {
    with_memory(12, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        for (address, frame) in [(0, 0), (LARGE_SIZE, 512)] {
            mapped(machine, &mut memory, map(address, frame, 1, MapFlags::LARGE)).unwrap();
        }
        for (page, count) in [(0, 511), (1, 512), (511, 512), (5, 1)] {
            let refused = memory.unmap(machine, unmap(page * PAGE_SIZE, count));
            assert_eq!(refused, Err(Status::Misaligned));
            let call = Protect { space: FIRST, address: GuestVirt(page * PAGE_SIZE), count, flags: MapFlags::LARGE };
            assert_eq!(memory.protect(machine, call), Err(Status::Misaligned));
        }
        let covered = memory.unmap(machine, unmap(0, 512)).unwrap();
        assert_eq!(pages(machine, &mut memory, covered), 512);
        assert_eq!(audit(machine, &memory, &[]).len(), 1);
    });
}

#[test]
fn a_large_page_replaces_an_emptied_table_which_comes_back_only_after_the_flush() {
    with_memory(8, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        assert_eq!(mapped(machine, &mut memory, map(0, 1, 1, MapFlags::empty())), Ok(1));
        let small_left = memory.map(machine, map(0, 512, 1, MapFlags::LARGE));
        assert_eq!(small_left, Err(Status::AlreadyMapped));
        let covered = memory.unmap(machine, unmap(0, 1)).unwrap();
        assert_eq!(pages(machine, &mut memory, covered), 1);
        let before = memory.pool_frames();
        let covered = memory.map(machine, map(0, 512, 1, MapFlags::LARGE)).unwrap();
        assert_eq!(memory.pool_frames(), before);
        let mut flushes = 0;
        memory.settle(machine, covered.flush, |flush| {
            assert_eq!(flush, 0..u64::MAX);
            flushes += 1;
        });
        assert_eq!((flushes, memory.pool_frames()), (1, before + 1));
        audit(machine, &memory, &[]);
    });
}

#[test]
fn frames_that_no_longer_lie_together_make_no_large_page() {
    with_memory(12, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        assert_eq!(memory.release(machine, Gfn(600), 2), Ok(2));
        let call = map(0, 512, 1, MapFlags::LARGE);
        assert_eq!(memory.map(machine, call), Err(Status::InvalidArgument));
        assert_eq!(memory.reclaim(machine, Gfn(600), 2), Ok(2));
        assert_eq!(memory.map(machine, call), Err(Status::InvalidArgument));
        audit(machine, &memory, &[]);
    });
}

#[test]
fn no_store_leads_a_cpu_to_a_table_that_is_not_clear_yet() {
    with_memory(20, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        memory.space_create(machine).unwrap();
        machine.tables.take_stores();
        for address in [0, 1 << 39, KERNEL_START, layout::PHYSMAP.0] {
            mapped(machine, &mut memory, map(address, 5, 3, MapFlags::WRITE)).unwrap();
        }
        let mut written = std::collections::HashSet::new();
        for store in machine.tables.take_stores() {
            assert_eq!(store.old, 0, "an entry changed in place");
            let next = (store.new >> 12) & 0xff_ffff_ffff;
            let is_table = machine.frames.number(crate::addr::Mfn(next), class(Kind::Table)).is_some();
            // Taken from the pool, so clear; nothing was stored in it before it could be reached.
            assert!(!is_table || !written.contains(&next));
            written.insert(store.table.0);
        }
    });
}

#[test]
fn a_space_full_of_pages_is_destroyed_in_steps_that_each_get_on() {
    with_memory(16, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        let space = memory.space_create(machine).unwrap();
        let before = memory.pool_frames();
        for (address, frame, flags) in [
            (0, 0, MapFlags::empty()),
            (LARGE_SIZE, 512, MapFlags::LARGE),
            (2 * LARGE_SIZE, 512, MapFlags::empty()),
            (1 << 45, 0, MapFlags::LARGE),
            ((1 << 45) + LARGE_SIZE, 0, MapFlags::LARGE),
        ] {
            let count = if flags.is_empty() { 512 } else { 1 };
            let call = Map { space, ..map(address, frame, count, flags) };
            mapped(machine, &mut memory, call).unwrap();
        }
        let mut steps = 0;
        while memory.space_destroy(machine, space) == Err(Status::Retry) {
            steps += 1;
            let refused = memory.map(machine, Map { space, ..map(0, 0, 1, MapFlags::empty()) });
            assert_eq!(refused, Err(Status::NotFound));
            assert_eq!(memory.enter(space), Err(Status::NotFound));
            assert!(steps < 20, "no progress");
        }
        assert!(steps > 0, "the test wants more than one step");
        assert_eq!(memory.space_destroy(machine, space), Err(Status::NotFound));
        assert_eq!(memory.pool_frames(), before + 2);
        assert!(audit(machine, &memory, &[]).is_empty());
    });
}

#[test]
fn a_grant_in_the_kernel_half_outlives_the_space_it_was_mapped_through() {
    with_memory(16, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        let space = memory.space_create(machine).unwrap();
        let frame = foreign_frame(machine);
        let address = GuestVirt(KERNEL_START);
        memory.install_grant(machine, space, address, (frame, 200), MapFlags::WRITE).unwrap();
        assert_eq!(memory.unmap(machine, unmap(KERNEL_START, 1)), Err(Status::Busy));
        let found = memory.translate(machine, FIRST, address);
        assert_eq!(found, Ok(Pair((1 << 62) | 200, MapFlags::WRITE.bits())));
        assert_eq!(memory.space_destroy(machine, space), Ok(()));
        let owed = memory.remove_grant(machine, space, address, (frame, 200)).unwrap();
        memory.settle(machine, owed, |_| {});
        assert!(audit(machine, &memory, &[]).is_empty());
    });
}

#[test]
fn a_granted_page_is_taken_out_only_for_its_own_grant() {
    with_memory(16, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        let (frame, address) = (foreign_frame(machine), GuestVirt(0));
        memory.install_grant(machine, FIRST, address, (frame, 200), MapFlags::WRITE).unwrap();
        // Another grant of the same frame: it was mapped here until just now, and is being revoked.
        for other in [(frame, 72), (frame, 201), (frame.offset(1), 200)] {
            assert_eq!(memory.remove_grant(machine, FIRST, address, other), Err(Status::NotMapped));
        }
        let owed = memory.remove_grant(machine, FIRST, address, (frame, 200)).unwrap();
        memory.settle(machine, owed, |_| {});
        assert_eq!(memory.translate(machine, FIRST, address), Err(Status::NotMapped));
    });
}

#[test]
fn a_page_walk_tells_flags_and_no_frame() {
    with_memory(16, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        mapped(machine, &mut memory, map(KERNEL_START, 0, 1, MapFlags::WRITE)).unwrap();
        let steps = |address| {
            let walk = memory.page_walk(machine, FIRST, GuestVirt(address));
            let steps = walk.into_iter().flatten().map(|step| (step.level, step.index, step.flags));
            steps.collect::<Vec<_>>()
        };
        let table = 0b10_0111;
        let (leaf, none) = (0x8000_0000_0000_0267, 0);
        let expected = [(4, 272, table), (3, 0, table), (2, 0, table), (1, 0, leaf)];
        assert_eq!(steps(KERNEL_START), expected);
        assert_eq!(steps(KERNEL_START + PAGE_SIZE)[3], (1, 1, none));
        assert_eq!(steps(0x1234_5678), [(4, 0, none)]);
        assert_eq!(steps(layout::HYPERVISOR_START), []);
    });
}

fn entry(operation: MemoryOperation, address: u64, count: u64) -> MemoryBatchEntry {
    MemoryBatchEntry {
        operation: u32::try_from(operation.number()).unwrap(),
        address,
        count,
        ..MemoryBatchEntry::default()
    }
}

fn run(machine: TestMachine<'_>, memory: &mut Memory, entries: &[MemoryBatchEntry]) -> Result<u64, Status> {
    let (owed, result) = memory.batch(machine, entries);
    memory.settle(machine, owed, |_| {});
    result
}

#[test]
fn a_batch_does_entry_after_entry_and_stops_at_the_first_that_is_not_done_wholly() {
    with_memory(16, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        use MemoryOperation::{Map, Protect, Unmap};
        let good = [entry(Map, 0, 4), entry(Protect, 0, 4), entry(Unmap, 0, 2), entry(Map, 0, 0)];
        assert_eq!(run(machine, &mut memory, &good), Ok(4));
        // Two pages are left at 2 and 3.
        let partly = entry(Unmap, 2 * PAGE_SIZE, 3);
        assert_eq!(run(machine, &mut memory, &[partly]), Err(Status::NotMapped));
        let second = [entry(Map, 0, 1), entry(Map, 0, 1)];
        assert_eq!(run(machine, &mut memory, &second), Ok(1));
        assert_eq!(run(machine, &mut memory, &second), Err(Status::AlreadyMapped));
        assert_eq!(run(machine, &mut memory, &[]), Ok(0));
    });
}

#[test]
fn a_batch_refuses_what_its_entries_do_not_mean() {
    with_memory(16, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        use MemoryOperation::{Map, Protect, Unmap};
        let zero = |operation| entry(operation, 0, 0);
        for bad in [
            MemoryBatchEntry { operation: 0, ..zero(Map) },
            MemoryBatchEntry { operation: 4, ..zero(Map) },
            MemoryBatchEntry { operation: u32::MAX, ..zero(Map) },
            MemoryBatchEntry { flags: 8, ..zero(Map) },
            MemoryBatchEntry { flags: 1 << 63, ..zero(Protect) },
            MemoryBatchEntry { frame: 1, ..zero(Unmap) },
            MemoryBatchEntry { flags: 1, ..zero(Unmap) },
            MemoryBatchEntry { frame: 1, ..zero(Protect) },
        ] {
            assert_eq!(run(machine, &mut memory, &[bad]), Err(Status::InvalidArgument));
        }
    });
}

#[test]
fn a_long_batch_stops_early_without_a_refusal() {
    with_memory(16, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        let map = |page: u64| entry(MemoryOperation::Map, page * PAGE_SIZE, 512);
        let entries: Vec<_> = (0..5).map(|part| map(part * 512)).collect();
        let done = run(machine, &mut memory, &entries).unwrap();
        assert!(done >= 1 && done * 512 <= WORK_PAGES + 512);
        assert_eq!(run(machine, &mut memory, &entries[usize::try_from(done).unwrap()..]), Ok(2));
    });
}

#[test]
fn a_memory_taken_down_leaves_every_frame_kept_and_clear() {
    with_memory(40, |machine, mut memory| {
        memory.space_create(machine).unwrap();
        let space = memory.space_create(machine).unwrap();
        for address in [0, KERNEL_START] {
            let small = Map { space, ..map(address, 0, 300, MapFlags::WRITE) };
            mapped(machine, &mut memory, small).unwrap();
            let large = Map { space, ..map(address + LARGE_SIZE, 0, 1, MapFlags::LARGE) };
            mapped(machine, &mut memory, large).unwrap();
        }
        assert_eq!(memory.release(machine, Gfn(1024), 10), Ok(10));
        assert_eq!(memory.reclaim(machine, Gfn(1024), 5), Ok(5));
        memory.vcpu_pages[0] = Some(memory.pin(machine, Gfn(1034)).unwrap());
        let outside = memory.pin(machine, Gfn(9)).unwrap();
        memory.enter(FIRST).unwrap();
        assert_eq!(memory.teardown_step(machine), Err(Status::Busy));
        memory.leave(FIRST);
        let mut result = memory.teardown_step(machine);
        while result == Ok(Teardown::Again) {
            result = memory.teardown_step(machine);
        }
        // A grant that was not revoked holds it up, and nothing else.
        assert_eq!(result, Err(Status::Busy));
        memory.unpin(machine, outside);
        while memory.teardown_step(machine) == Ok(Teardown::Again) {}
        for kind in KINDS {
            let expected = match kind {
                Kind::Kept => FRAMES + 40,
                Kind::FrameList => FRAMES.div_ceil(512),
                Kind::Shared => 1,
                _ => 0,
            };
            assert_eq!(machine.frames.count(class(kind)), expected, "{kind:?}");
        }
        for frame in (0..machine.frames.frames()).map(crate::addr::Mfn) {
            let own = [Kind::Kept, Kind::FrameList, Kind::Shared].iter();
            let mut own = own.filter_map(|kind| machine.frames.references(frame, class(*kind)));
            assert!(own.next().is_none() || machine.tables.is_clear(frame));
        }
    });
}
