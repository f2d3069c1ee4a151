//! Single cases.

use super::{
    CPU, FIRST, FREE, Fixture, HYPERVISORS, L, LIST, OTHERS, OWN, RO, RW, SHARED, TestMachine, current, entry, own,
    poke, typed,
};
use crate::addr::Mfn;
use crate::frame::typed::{Level, Type};
use crate::frame::{Class, Kind};
use crate::paging::{Paging, Place, Progress};
use crate::space::TableMemory;
use protocol::xen::{Errno, M2P_INVALID};
use protocol::{GuestVirt, VcpuId};

const DONE: Result<Progress<()>, Errno> = Ok(Progress::Done(()));
const INVALID: Result<Progress<()>, Errno> = Err(Errno::Invalid);
const BUSY: Result<Progress<()>, Errno> = Err(Errno::Busy);

/// Frame numbers of a small tree of the VM's.
const ROOT: Mfn = own(0);
const TABLE_3: Mfn = own(1);
const TABLE_2: Mfn = own(2);
const TABLE_1: Mfn = own(3);
const PAGE: Mfn = own(4);
const SPARE: Mfn = own(5);

fn with(test: impl FnOnce(TestMachine<'_>, Paging)) {
    Fixture::new(40).run(4, test);
}

/// A tree that maps [`PAGE`] for writing at address 0, and its own first table for reading behind it.
fn with_tree(test: impl FnOnce(TestMachine<'_>, Paging)) {
    with(|machine, mut paging| {
        poke(machine, ROOT, 0, entry(TABLE_3, RW));
        poke(machine, TABLE_3, 0, entry(TABLE_2, RW));
        poke(machine, TABLE_2, 0, entry(TABLE_1, RW));
        poke(machine, TABLE_1, 0, entry(PAGE, RW));
        poke(machine, TABLE_1, 1, entry(TABLE_1, RO));
        assert_eq!(paging.pin(machine, CPU, ROOT, Level::L4), DONE);
        test(machine, paging);
    });
}

fn update(
    machine: TestMachine<'_>,
    paging: &mut Paging,
    (frame, index): (Mfn, u64),
    value: u64,
) -> Result<Progress<()>, Errno> {
    paging.update(machine, CPU, frame.0 << 12 | index << 3, value)
}

#[test]
fn a_pinned_tree_is_validated_counted_and_adjusted() {
    with_tree(|machine, paging| {
        let word = |frame, index| machine.tables.load(frame, index);
        for (frame, level) in [(ROOT, L[3]), (TABLE_3, L[2]), (TABLE_2, L[1]), (TABLE_1, L[0])] {
            assert!(typed(machine.frames, frame).is_table(level), "{frame:?}");
            assert_eq!(typed(machine.frames, frame).count(), 1, "{frame:?}");
        }
        assert!(typed(machine.frames, ROOT).is_pinned());
        assert_eq!(current(machine.frames, PAGE), Type::Writable);
        assert_eq!(typed(machine.frames, TABLE_1).references(), 2);
        // U everywhere; a page that was the kernel's is marked.
        assert_eq!(word(TABLE_1, 0), entry(PAGE, RW | 4 | 1 << 52));
        assert_eq!(word(TABLE_2, 0), entry(TABLE_1, RW | 4));
        assert_eq!(word(ROOT, 0), entry(TABLE_3, RW | 4 | 0x20));
        assert_eq!(word(ROOT, 256), entry(Mfn(LIST[0]), 0x25 | 1 << 63));
        assert_eq!(word(ROOT, 261), entry(HYPERVISORS, 0x23));
        assert_eq!(word(ROOT, 257), 0);
        let at = |address| paging.find(machine, ROOT, GuestVirt(address));
        assert_eq!(at(0x1000), Some(Place { table: TABLE_1, index: 1 }));
        assert_eq!(at(0x20_0000), None);
        assert_eq!(at(0xffff_8000_0000_0000), None);
        assert_eq!(at(0x0000_8000_0000_0000), None);
        assert_eq!(paging.find(machine, PAGE, GuestVirt(0)), None);
    });
}

#[test]
fn what_is_unpinned_leaves_no_count() {
    with_tree(|machine, mut paging| {
        assert_eq!(paging.pin(machine, CPU, ROOT, Level::L4), INVALID);
        assert_eq!(paging.unpin(machine, ROOT), DONE);
        for frame in 0..6 {
            assert_eq!(typed(machine.frames, own(frame)).references(), 0);
        }
        assert_eq!(paging.unpin(machine, ROOT), INVALID);
        assert_eq!(typed(machine.frames, ROOT).last(), Type::Table(Level::L4));
        assert!(!typed(machine.frames, ROOT).is_validated());
    });
}

#[test]
fn a_table_cannot_be_mapped_for_writing_nor_memory_be_a_table() {
    with_tree(|machine, mut paging| {
        assert_eq!(update(machine, &mut paging, (TABLE_1, 2), entry(TABLE_2, RW)), BUSY);
        assert_eq!(update(machine, &mut paging, (TABLE_1, 1), entry(TABLE_1, RW)), BUSY);
        assert_eq!(update(machine, &mut paging, (TABLE_1, 2), entry(TABLE_2, RO)), DONE);
        assert_eq!(paging.pin(machine, CPU, PAGE, Level::L1), INVALID);
        assert_eq!(update(machine, &mut paging, (TABLE_2, 1), entry(PAGE, RW)), INVALID);
        assert_eq!(update(machine, &mut paging, (TABLE_2, 1), entry(TABLE_2, RW)), INVALID);
        assert_eq!(update(machine, &mut paging, (TABLE_2, 1), entry(TABLE_1, RW)), DONE);
        assert_eq!(typed(machine.frames, TABLE_1).count(), 2);
        assert_eq!(paging.take_descriptors(machine, TABLE_1), Err(Errno::Invalid));
        assert_eq!(paging.take_writable(machine, TABLE_1), Err(Errno::Invalid));
    });
}

#[test]
fn targets_are_the_vm_s_own() {
    with_tree(|machine, mut paging| {
        let mut page = |frame: u64, bits| update(machine, &mut paging, (TABLE_1, 2), entry(Mfn(frame), bits));
        for frame in [0, OTHERS.0, HYPERVISORS.0, FREE.0, LIST[0], LIST[3]] {
            assert_eq!(page(frame, RO), BUSY, "{frame}");
            assert_eq!(page(frame, RW), BUSY, "{frame}");
        }
        assert_eq!(page(40, RO), Err(Errno::NotPermitted));
        assert_eq!(page((1 << 40) - 2, RO), Err(Errno::NotPermitted));
        assert_eq!(page((1 << 40) - 1, RO), INVALID);
        assert_eq!(page(SHARED.0, RW), DONE);
        for frame in [0, OTHERS.0, HYPERVISORS.0, FREE.0, LIST[0], LIST[3], SHARED.0, 40, (1 << 40) - 1] {
            let table = update(machine, &mut paging, (TABLE_2, 2), entry(Mfn(frame), RW));
            assert_eq!(table, INVALID, "{frame}");
            let plain = update(machine, &mut paging, (Mfn(frame), 2), 7);
            assert_eq!(plain, if frame == SHARED.0 { DONE } else { INVALID }, "{frame}");
        }
    });
}

#[test]
fn the_hypervisor_s_entries_of_a_root_are_out_of_reach() {
    with_tree(|machine, mut paging| {
        for slot in 256..272 {
            assert_eq!(update(machine, &mut paging, (ROOT, slot), 0), INVALID);
        }
        assert_eq!(update(machine, &mut paging, (ROOT, 255), 0), DONE);
        assert_eq!(update(machine, &mut paging, (ROOT, 272), 0), DONE);
        assert_eq!(update(machine, &mut paging, (TABLE_3, 256), 0), DONE);
    });
}

#[test]
fn frames_that_are_no_tables_are_written_as_they_are() {
    with_tree(|machine, mut paging| {
        assert_eq!(update(machine, &mut paging, (PAGE, 7), 0xffff), DONE);
        assert_eq!(machine.tables.load(PAGE, 7), 0xffff);
        assert_eq!(update(machine, &mut paging, (SPARE, 7), 0xffff), DONE);
        assert_eq!(typed(machine.frames, SPARE).last(), Type::None);
        paging.take_descriptors(machine, own(6)).unwrap();
        assert_eq!(update(machine, &mut paging, (own(6), 7), 0), INVALID);
    });
}

#[test]
fn a_frame_that_was_a_table_is_flushed_before_it_is_written() {
    with_tree(|machine, mut paging| {
        assert_eq!(paging.pin(machine, CPU, SPARE, Level::L1), DONE);
        assert_eq!(update(machine, &mut paging, (TABLE_2, 3), entry(SPARE, RW)), DONE);
        assert_eq!(paging.unpin(machine, SPARE), DONE);
        assert_eq!(update(machine, &mut paging, (TABLE_2, 3), 0), DONE);
        assert_eq!(machine.tables.take_flushes(), 0);
        assert_eq!(update(machine, &mut paging, (SPARE, 0), entry(TABLE_1, RW)), DONE);
        assert_eq!(machine.tables.take_flushes(), 1);
        assert_eq!(typed(machine.frames, SPARE).last(), Type::Writable);
    });
}

/// A guest that takes many tables off its tree and then lets each go pays one flush and not one for each.
#[test]
fn what_a_table_showed_that_no_cpu_can_know_needs_no_flush() {
    with_tree(|machine, mut paging| {
        poke(machine, SPARE, 0, entry(own(7), RW));
        assert_eq!(paging.pin(machine, CPU, SPARE, Level::L1), DONE);
        assert_eq!(update(machine, &mut paging, (TABLE_2, 3), entry(SPARE, RW)), DONE);
        assert_eq!(update(machine, &mut paging, (TABLE_2, 3), 0), DONE);
        paging.take_writable(machine, own(6)).unwrap();
        paging.drop_writable(machine, own(6));
        assert_eq!(paging.pin(machine, CPU, own(6), Level::L1), DONE);
        assert_eq!(machine.tables.take_flushes(), 1);
        assert_eq!(paging.unpin(machine, SPARE), DONE);
        assert_eq!(paging.pin(machine, CPU, own(7), Level::L1), DONE);
        assert_eq!(machine.tables.take_flushes(), 0);
    });
}

#[test]
fn memory_that_was_written_is_flushed_before_it_is_a_table() {
    with_tree(|machine, mut paging| {
        assert_eq!(update(machine, &mut paging, (TABLE_1, 0), 0), DONE);
        assert_eq!(machine.tables.take_flushes(), 0);
        assert_eq!(paging.pin(machine, CPU, PAGE, Level::L1), DONE);
        assert_eq!(machine.tables.take_flushes(), 1);
        assert_eq!(paging.unpin(machine, PAGE), DONE);
        assert_eq!(paging.take_writable(machine, PAGE), Ok(()));
        // Nothing was removed since.
        assert_eq!(machine.tables.take_flushes(), 0);
    });
}

#[test]
fn accessed_and_dirty_bits_are_kept_on_demand() {
    with_tree(|machine, mut paging| {
        poke(machine, TABLE_1, 5, 0);
        let request = TABLE_1.0 << 12;
        assert_eq!(paging.update(machine, CPU, request | 2, entry(PAGE, 3)), DONE);
        assert_eq!(machine.tables.load(TABLE_1, 0), entry(PAGE, RW | 4 | 1 << 52));
        assert_eq!(paging.update(machine, CPU, request, entry(PAGE, 3)), DONE);
        assert_eq!(machine.tables.load(TABLE_1, 0), entry(PAGE, 7 | 1 << 52));
        assert_eq!(paging.update(machine, CPU, request | 4, 0), Err(Errno::NotImplemented));
    });
}

#[test]
fn an_entry_is_changed_by_what_it_is() {
    with_tree(|machine, mut paging| {
        let place = paging.find(machine, ROOT, GuestVirt(0)).unwrap();
        let was = machine.tables.load(TABLE_1, 0);
        assert_eq!(paging.change(machine, place, |_| None), Ok(Progress::Done(was)));
        assert_eq!(paging.change(machine, place, |old| Some(old & !2)), Ok(Progress::Done(was)));
        assert_eq!(current(machine.frames, PAGE), Type::None);
        assert_eq!(paging.set(machine, place, 0), DONE);
        assert_eq!(typed(machine.frames, PAGE).references(), 0);
        assert_eq!(paging.set(machine, Place { table: PAGE, index: 0 }, 0), INVALID);
        assert_eq!(paging.set(machine, Place { index: 512, ..place }, 0), INVALID);
    });
}

#[test]
fn a_wrong_entry_undoes_the_whole_tree() {
    for budget in [1, 2, 100, 4096] {
        with(|machine, mut paging| {
            paging.work = budget;
            poke(machine, ROOT, 0, entry(TABLE_3, RW));
            poke(machine, TABLE_3, 0, entry(TABLE_2, RW));
            poke(machine, TABLE_3, 1, entry(TABLE_2, RW));
            poke(machine, TABLE_2, 0, entry(TABLE_1, RW));
            poke(machine, TABLE_1, 0, entry(PAGE, RW));
            poke(machine, TABLE_2, 511, entry(TABLE_1, RW | 0x80));
            let result = loop {
                match paging.pin(machine, CPU, ROOT, Level::L4) {
                    Ok(Progress::Again) => {}
                    result => break result,
                }
            };
            assert_eq!(result, INVALID);
            for frame in 0..6 {
                assert_eq!(typed(machine.frames, own(frame)).references(), 0);
            }
        });
    }
}

#[test]
fn work_is_bounded_and_told() {
    with_tree(|machine, mut paging| {
        // Four tables with five entries that are present; a root has 496 of the guest's.
        let whole = 4 * 512 - 16 + 5 * 7;
        assert_eq!(paging.take_spent(), whole);
        assert_eq!(paging.take_spent(), 0);
        paging.work = 100;
        assert_eq!(paging.unpin(machine, ROOT), DONE);
        let mut spent = paging.take_spent();
        assert_eq!(spent, 100);
        while paging.drain(machine) == Progress::Again {
            spent += paging.take_spent();
        }
        spent += paging.take_spent();
        assert!(spent > whole - 40 && spent < whole + 40, "{spent}");
    });
}

#[test]
fn a_result_waits_for_the_vcpu_that_asked() {
    with(|machine, mut paging| {
        paging.work = 100;
        assert_eq!(paging.pin(machine, CPU, ROOT, Level::L4), Ok(Progress::Again));
        // Another vCPU ends it.
        while paging.drain(machine) == Progress::Again {}
        assert_eq!(typed(machine.frames, ROOT).count(), 1);
        assert_eq!(paging.pin(machine, VcpuId(1), SPARE, Level::L1), Ok(Progress::Again));
        assert_eq!(typed(machine.frames, ROOT).count(), 1);
        paging.work = 1000;
        assert_eq!(paging.pin(machine, CPU, ROOT, Level::L4), DONE);
        assert_eq!(typed(machine.frames, ROOT).count(), 1);
        assert_eq!(paging.unpin(machine, ROOT), DONE);
        // One that nobody asks for again is dropped with the next.
        paging.work = 100;
        assert_eq!(paging.pin(machine, CPU, ROOT, Level::L4), Ok(Progress::Again));
        while paging.drain(machine) == Progress::Again {}
        paging.work = 1000;
        assert_eq!(paging.take_root(machine, CPU, PAGE), Ok(Progress::Again));
        assert_eq!(paging.take_root(machine, CPU, PAGE), DONE);
        assert_eq!(typed(machine.frames, ROOT).references(), 0);
    });
}

#[test]
fn frames_leave_and_come_clear_and_listed() {
    with_tree(|machine, mut paging| {
        assert_eq!(paging.release(machine, PAGE), BUSY);
        assert_eq!(paging.release(machine, OTHERS), INVALID);
        poke(machine, SPARE, 9, 9);
        assert_eq!(machine.tables.load(Mfn(LIST[3]), 15), 5);
        assert_eq!(paging.release(machine, SPARE), DONE);
        assert_eq!(machine.tables.load(Mfn(LIST[3]), 15), M2P_INVALID);
        assert!(machine.tables.is_clear(SPARE));
        assert!(!paging.owns(machine, SPARE));
        assert_eq!(machine.frames.count(Class::new(Some(super::VM), Kind::Pool)), 5);
        assert_eq!(paging.populate(machine, 77), Ok(SPARE));
        assert_eq!(machine.tables.load(Mfn(LIST[3]), 15), 77);
        assert!(paging.owns(machine, SPARE));
        // The pool has four more, which are no memory of the guest.
        assert_eq!(paging.populate(machine, 1), Err(Errno::NoMemory));
        assert_eq!(machine.frames.count(OWN), 40 - FIRST + 1 - 4);
        assert_eq!(update(machine, &mut paging, (PAGE, 0), 3), DONE);
        assert_eq!(paging.update(machine, CPU, PAGE.0 << 12 | 1, 123), DONE);
        assert_eq!(machine.tables.load(Mfn(LIST[3]), 14), 123);
        assert_eq!(paging.set_m2p(machine, OTHERS, 1), Err(Errno::Invalid));
    });
}

#[test]
fn descriptors_are_for_ring_3() {
    with(|machine, mut paging| {
        let code = 0x00af_9a00_0000_ffff;
        poke(machine, PAGE, 0, code);
        paging.take_descriptors(machine, PAGE).unwrap();
        assert_eq!(machine.tables.load(PAGE, 0), code | 3 << 45 | 1 << 40);
        assert_eq!(paging.take_writable(machine, PAGE), Err(Errno::Invalid));
        paging.update_descriptor(machine, PAGE.0 << 12 | 8, code).unwrap();
        assert_eq!(machine.tables.load(PAGE, 1), code | 3 << 45 | 1 << 40);
        assert_eq!(paging.update_descriptor(machine, PAGE.0 << 12 | 4, code), Err(Errno::Invalid));
        assert_eq!(paging.update_descriptor(machine, PAGE.0 << 12, 0x8c00_0000_0000), Err(Errno::Invalid));
        paging.drop_descriptors(machine, PAGE);
        poke(machine, SPARE, 511, 0x8900_0000_0000);
        assert_eq!(paging.take_descriptors(machine, SPARE), Err(Errno::Invalid));
        assert_eq!(typed(machine.frames, SPARE).references(), 0);
    });
}

#[test]
fn a_full_count_refuses_and_nothing_wraps() {
    with_tree(|machine, mut paging| {
        // Units tests count to 255; the page has one reference.
        for index in 2..256 {
            assert_eq!(update(machine, &mut paging, (TABLE_1, index), entry(PAGE, RW)), DONE);
        }
        assert_eq!(update(machine, &mut paging, (TABLE_1, 300), entry(PAGE, RW)), BUSY);
        assert_eq!(update(machine, &mut paging, (TABLE_1, 300), entry(PAGE, RO)), BUSY);
        assert_eq!(paging.take_writable(machine, PAGE), Err(Errno::Invalid));
        assert_eq!(paging.take_readable(machine, PAGE), Err(Errno::Invalid));
        // What counts nothing needs no room.
        for bit in [9, 10, 11, 52, 57, 58, 62, 63, 5, 6, 2] {
            assert_eq!(update(machine, &mut paging, (TABLE_1, 9), entry(PAGE, RW) ^ 1 << bit), DONE, "{bit}");
        }
        assert_eq!(paging.unpin(machine, ROOT), DONE);
        assert_eq!(typed(machine.frames, PAGE).references(), 0);
    });
}

#[test]
fn a_full_count_of_a_table_refuses_only_what_counts() {
    with_tree(|machine, mut paging| {
        // One entry of level 1 shows the table, one of level 2 leads to it.
        for index in 2..255 {
            assert_eq!(update(machine, &mut paging, (TABLE_2, index), entry(TABLE_1, RW)), DONE, "{index}");
        }
        assert_eq!(update(machine, &mut paging, (TABLE_2, 300), entry(TABLE_1, RW)), INVALID);
        for bit in [1, 9, 52, 63, 5, 6, 2] {
            assert_eq!(update(machine, &mut paging, (TABLE_2, 9), entry(TABLE_1, RW) ^ 1 << bit), DONE, "{bit}");
        }
        assert_eq!(typed(machine.frames, TABLE_1).references(), 255);
    });
}

#[test]
fn a_store_is_allowed_where_every_entry_on_the_way_allows_it() {
    with_tree(|machine, mut paging| {
        assert!(paging.allows_store(machine, ROOT, 0));
        assert!(!paging.allows_store(machine, ROOT, 4096), "shown for reading");
        assert!(!paging.allows_store(machine, ROOT, 2 << 12), "nothing is there");
        for (table, next) in [(ROOT, TABLE_3), (TABLE_3, TABLE_2), (TABLE_2, TABLE_1)] {
            assert_eq!(update(machine, &mut paging, (table, 0), entry(next, RO)), DONE);
            assert!(!paging.allows_store(machine, ROOT, 0), "{table:?} forbids it");
            assert_eq!(update(machine, &mut paging, (table, 0), entry(next, RW)), DONE);
            assert!(paging.allows_store(machine, ROOT, 0));
        }
    });
}

#[test]
fn only_a_validated_table_of_level_4_is_a_root() {
    with_tree(|machine, mut paging| {
        for (frame, is_root) in [(ROOT, true), (TABLE_3, false), (PAGE, false), (SPARE, false), (OTHERS, false)] {
            assert_eq!(paging.is_root(machine, frame), is_root, "{frame:?}");
        }
        assert_eq!(paging.unpin(machine, ROOT), DONE);
        assert!(!paging.is_root(machine, ROOT));
    });
}

#[test]
fn words_that_are_not_present_name_no_memory() {
    with_tree(|machine, mut paging| {
        assert_eq!(update(machine, &mut paging, (TABLE_1, 3), entry(OTHERS, 0)), INVALID);
        assert_eq!(update(machine, &mut paging, (TABLE_2, 3), entry(Mfn(39), 0x80)), INVALID);
        assert_eq!(update(machine, &mut paging, (TABLE_1, 3), entry(Mfn(40), 0x9e)), DONE);
        assert_eq!(update(machine, &mut paging, (TABLE_1, 3), 0x3fff_ffff_ffff_f010), DONE);
        assert_eq!(update(machine, &mut paging, (TABLE_1, 3), 0xffe), DONE);
    });
}
