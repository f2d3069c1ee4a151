//! References to frames, and memory that comes and goes.

use protocol::xen::structure::MemoryReservation;
use protocol::xen::{DOMID_SELF, Errno, M2P_INVALID, M2P_START, call, memory};

use super::{Attack, Outcome, refused, same};
use crate::kernel::abi::reserve;
use crate::kernel::raw;
use crate::kernel::world::{
    BASE, Own, RO, RW, error, extended, first_root, frame_at, frames, hypercall, list, map, map_lazily, pin, unpin,
    update,
};

/// In the order in which they run.
pub const ALL: &[Attack] = &[
    ("MM-03", list_that_cannot_be_told),
    ("MM-04", secrets),
    ("MM-06", as_far_as_possible),
    ("RC-01", thousands_of_references),
    ("RC-03", nothing_left),
    ("RC-04", each_order),
    ("RC-06", sums_that_wrap),
];

/// The guest frame of a page of the kernel's.
fn guest_frame(page: Own) -> u64 {
    (page.at - BASE) >> 12
}

/// Hides pages and releases their frames.
fn release(pages: &[Own]) -> Outcome {
    for page in pages {
        same("hidden", map_lazily(page.at, 0), 0)?;
    }
    for page in pages {
        same("released", reserve(memory::DECREASE_RESERVATION, &mut [frame_at(page.at)], DOMID_SELF), 1)?;
    }
    Ok(())
}

/// Takes frames for the same pages, and shows them; each must be clear.
fn take(pages: &[Own]) -> Outcome {
    for page in pages {
        let mut taken = [guest_frame(*page)];
        same("taken", reserve(memory::POPULATE_PHYSMAP, &mut taken, DOMID_SELF), 1)?;
        raw::store(list() + guest_frame(*page) * 8, taken[0]);
        same("shown", map(page.at, taken[0] << 12 | RW), 0)?;
        same("clear", (0..512).fold(0, |all, word| all | raw::load(page.word(word))), 0_u64)?;
    }
    Ok(())
}

/// Frames that the VM has now.
fn has() -> i64 {
    ask(memory::CURRENT_RESERVATION)
}

/// A question about the VM's memory.
fn ask(command: u64) -> i64 {
    let own = DOMID_SELF;
    hypercall(call::MEMORY_OP, [command, (&raw const own) as u64, 0])
}

/// Takes frames by a list at an address.
fn take_by(list: u64, count: u64) -> i64 {
    let reservation =
        MemoryReservation { extent_start: list, nr_extents: count, domid: DOMID_SELF, ..MemoryReservation::default() };
    hypercall(call::MEMORY_OP, [memory::POPULATE_PHYSMAP, (&raw const reservation) as u64, 0])
}

/// Frames are taken by lists that can be read and not written: nobody would know which they are.
fn list_that_cannot_be_told() -> Outcome {
    let [list, page, other] = Own::several();
    (0..512).for_each(|word| raw::store(list.word(word), guest_frame(page)));
    release(&[page, other])?;
    list.read_only();
    let before = has();
    for count in [1, 2, 64, 65, 512] {
        same("told nowhere", take_by(list.at, count), error(Errno::Fault))?;
        same("as many as before", has(), before)?;
    }
    for frame in [page.frame, other.frame] {
        same("not listed", raw::load(M2P_START + frame * 8), M2P_INVALID)?;
    }
    // The first element can be told, the second cannot.
    let [first, second] = Own::several();
    raw::store(first.word(511), guest_frame(page));
    raw::store(second.word(0), guest_frame(other));
    second.read_only();
    same("the first", take_by(first.word(511), 2), 1)?;
    same("one more", has(), before + 1)?;
    let taken = raw::load(first.word(511));
    same("given back", reserve(memory::DECREASE_RESERVATION, &mut [taken], DOMID_SELF), 1)?;
    take(&[page, other])
}

/// Memory with secrets, page tables and descriptors is given back and taken again: all of it is clear.
fn secrets() -> Outcome {
    let pages: [Own; 12] = Own::several();
    for round in 0..4 {
        let pages = pages.map(|page| Own { frame: frame_at(page.at), ..page });
        for (number, page) in pages.iter().enumerate() {
            if number % 3 == round % 3 {
                (0..512).for_each(|word| raw::store(page.word(word), pages[(number + 1) % 12].entry(RO)));
                page.read_only();
                same("a table", pin(1, page.frame), 0)?;
                same("unpinned", unpin(page.frame), 0)?;
            } else if number % 3 == (round + 1) % 3 {
                page.read_only();
                same("a root", pin(4, page.frame), 0)?;
                same("unpinned", unpin(page.frame), 0)?;
            } else {
                (0..512).for_each(|word| raw::store(page.word(word), 0x5ec2_e700 + word));
            }
        }
        release(&pages)?;
        take(&pages)?;
    }
    Ok(())
}

/// Memory is released as far as possible and taken again, several times; more than that is refused.
fn as_far_as_possible() -> Outcome {
    let pages: [Own; 100] = Own::several();
    let most = frames() as i64;
    for _ in 0..3 {
        same("all of it", has(), most)?;
        let pages = pages.map(|page| Own { frame: frame_at(page.at), ..page });
        let mut numbers = pages.map(|page| page.frame);
        for page in &pages {
            same("hidden", map_lazily(page.at, 0), 0)?;
        }
        same("released", reserve(memory::DECREASE_RESERVATION, &mut numbers, DOMID_SELF), 100)?;
        same("as many less", has(), most - 100)?;
        same("twice", reserve(memory::DECREASE_RESERVATION, &mut numbers, DOMID_SELF), 0)?;
        same("as many as it can have", ask(memory::MAXIMUM_RESERVATION), most)?;
        let mut wanted = [0; 120];
        wanted.iter_mut().enumerate().for_each(|(number, slot)| *slot = guest_frame(pages[number % 100]));
        same("taken, and no more", reserve(memory::POPULATE_PHYSMAP, &mut wanted, DOMID_SELF), 100)?;
        same("all of it again", has(), most)?;
        same("one more", reserve(memory::POPULATE_PHYSMAP, &mut [1], DOMID_SELF), 0)?;
        same("one more", reserve(memory::INCREASE_RESERVATION, &mut [1], DOMID_SELF), 0)?;
        for (page, frame) in pages.iter().zip(wanted) {
            same("listed", raw::load(M2P_START + frame * 8), guest_frame(*page))?;
            raw::store(list() + guest_frame(*page) * 8, frame);
            same("shown", map(page.at, frame << 12 | RW), 0)?;
            same("clear", raw::load(page.at) | raw::load(page.word(511)), 0_u64)?;
        }
    }
    Ok(())
}

/// One frame in all entries of many tables: every reference is counted.
fn thousands_of_references() -> Outcome {
    let [page, tables @ ..]: [Own; 21] = Own::several();
    for table in &tables {
        (0..512).for_each(|slot| raw::store(table.word(slot), page.entry(RW)));
        table.read_only();
    }
    for table in &tables {
        same("pinned", pin(1, table.frame), 0)?;
    }
    same("hidden", map(page.at, 0), 0)?;
    let release = || reserve(memory::DECREASE_RESERVATION, &mut [page.frame], DOMID_SELF);
    same("released", release(), 0)?;
    for table in &tables[1..] {
        same("unpinned", unpin(table.frame), 0)?;
    }
    for slot in 0..512 {
        refused("a table while it can be written", pin(1, page.frame))?;
        same("taken out", update(tables[0].machine(slot), if slot % 2 == 0 { 0 } else { page.entry(RO) }), 0)?;
    }
    same("a table", pin(1, page.frame), 0)?;
    same("released", release(), 0)?;
    same("unpinned", unpin(page.frame), 0)?;
    same("released", release(), 0)?;
    same("unpinned", unpin(tables[0].frame), 0)?;
    same("released", release(), 1)?;
    take(&[page])
}

/// Frames when there is none: adding is refused, taking away goes on.
fn nothing_left() -> Outcome {
    let [page, table, other] = Own::several();
    raw::store(table.word(0), page.entry(RW));
    let most = frames() as i64;
    same("all of it", has(), most)?;
    for _ in 0..50 {
        same("one more", reserve(memory::POPULATE_PHYSMAP, &mut [guest_frame(page)], DOMID_SELF), 0)?;
        same("several more", reserve(memory::INCREASE_RESERVATION, &mut [1, 2, 3], DOMID_SELF), 0)?;
    }
    table.read_only();
    same("pinned", pin(1, table.frame), 0)?;
    same("unpinned", unpin(table.frame), 0)?;
    release(&[other])?;
    same("one less", has(), most - 1)?;
    take(&[other])?;
    same("one more", reserve(memory::POPULATE_PHYSMAP, &mut [guest_frame(page)], DOMID_SELF), 0)?;
    // A place in no list: the frame is not taken.
    release(&[other])?;
    for number in [u64::MAX, M2P_INVALID - 1, 1 << 52] {
        let mut taken = [number];
        let result = reserve(memory::POPULATE_PHYSMAP, &mut taken, DOMID_SELF);
        if result == 1 {
            same("listed as is said", raw::load(M2P_START + taken[0] * 8), number)?;
            same("given back", reserve(memory::DECREASE_RESERVATION, &mut taken, DOMID_SELF), 1)?;
        }
        same("one less", has(), most - 1)?;
    }
    take(&[other])
}

/// One frame at four places, taken out in each order: in use until the last.
fn each_order() -> Outcome {
    let [page, places @ ..]: [Own; 4] = Own::several();
    let places = [page, places[0], places[1], places[2]];
    let orders = (0..256_usize).map(|code| [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6]);
    for order in orders.filter(|order| (0..4).all(|place| order.contains(&place))) {
        let frame = frame_at(page.at);
        for (number, place) in places.iter().enumerate() {
            let bits = if number % 2 == 0 { RW } else { RO };
            same("shown", map(place.at, frame << 12 | bits), 0)?;
        }
        for number in order {
            same("in use", reserve(memory::DECREASE_RESERVATION, &mut [frame], DOMID_SELF), 0)?;
            same("taken out", map_lazily(places[number].at, 0), 0)?;
        }
        same("released", reserve(memory::DECREASE_RESERVATION, &mut [frame], DOMID_SELF), 1)?;
        take(&[page])?;
    }
    Ok(())
}

/// Counts and places whose sum wraps, and progress that nobody made.
fn sums_that_wrap() -> Outcome {
    let page = Own::new();
    let before = has();
    let own = u64::from(DOMID_SELF);
    let numbers = [u64::MAX; 2];
    let at = numbers.as_ptr() as u64;
    for count in [1 << 60, 1 << 61, 1 << 62, 1 << 63, u64::MAX, u64::MAX / 8, u64::MAX / 8 + 1] {
        for start in [at, 8, !7, page.at] {
            let reservation = MemoryReservation {
                extent_start: start,
                nr_extents: count,
                domid: DOMID_SELF,
                ..MemoryReservation::default()
            };
            for done in [0_u64, 1, 2, 1 << 20, (1 << 58) - 1] {
                for operation in [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP] {
                    let command = operation | done << memory::OPERATION_BITS;
                    let result = hypercall(call::MEMORY_OP, [command, (&raw const reservation) as u64, 0]);
                    same("no more than was said", result < 0 || result as u64 == done, true)?;
                }
            }
        }
        for array in [!15, u64::MAX - 4095, 0_u64.wrapping_sub(1 << 40)] {
            let one = count | 1;
            refused("changes", raw::call(call::MMU_UPDATE, [array, one & 0x7fff_ffff | 0x4000_0000, 0, own, 0]))?;
            refused("a batch", hypercall(call::MULTICALL, [array, count, 0]))?;
            refused("descriptors", hypercall(call::SET_GDT, [array, 7168, 0]))?;
        }
    }
    // A call that says that it goes on has done what it says, and nothing else.
    let mut done = [u32::MAX, 77];
    let report = (&raw mut done) as u64;
    let change = [page.machine(3), 5];
    let result = raw::call(call::MMU_UPDATE, [change.as_ptr() as u64, 1 | 1 << 31, report, own, 0]);
    same("goes on", result, 0)?;
    let [told, behind] = core::hint::black_box(done);
    same("its report does not wrap", u64::from(told) << 32 | u64::from(behind), u64::from(u32::MAX) << 32 | 77)?;
    same("done once", raw::load(page.word(3)), 5_u64)?;
    same("a root", extended(protocol::xen::mmuext::NEW_BASEPTR, frame_at(first_root()), 0), 0)?;
    same("as many as before", has(), before)
}
