//! Grants of the VM's frames, which only itself can use.

use core::sync::atomic::{AtomicU64, Ordering};

use protocol::xen::structure::{
    GrantCopy, GrantCopySide, GrantGetVersion, GrantMap, GrantQuerySize, GrantSetupTable, GrantUnmap,
};
use protocol::xen::{DOMID_SELF, Errno, call, grant, memory};

use super::events::own_number;
use super::tables::is_own;
use super::{Attack, Outcome, refused, same};
use crate::kernel::abi::{HOLE, HYPERVISOR, reserve, word_at};
use crate::kernel::raw;
use crate::kernel::smp::{beside, give_way, is_over};
use crate::kernel::world::{
    FRAME, Own, RO, RW, entry_of, error, first_root, flush, frame_at, grant_frames, hypercall, map_lazily, pin, unpin,
    update,
};

/// In the order in which they run.
pub const ALL: &[Attack] = &[
    ("GR-01", again_and_again),
    ("GR-02", references_that_are_none),
    ("GR-03", each_order),
    ("GR-04", something_else_is_there),
    ("GR-05", unmapped_while_written),
    ("GR-06", places_that_cannot_be),
    ("GR-07", unmapped_by_both),
    ("GR-08", marks_of_each_use),
    ("GR-09", other_kinds_of_entries),
    ("GR-10", released_while_granted),
    ("GR-11", other_owners),
    ("GR-12", one_frame_many_times),
    ("GR-13", entry_that_changes),
    ("GR-14", frames_that_are_not_memory),
    ("GR-16", parts_of_pages),
    ("GR-17", rights),
    ("GR-19", onto_a_page_in_use),
    // The last: it shows that those before have left no use.
    ("GR-18", until_refused),
];

/// An entry that grants reading and writing, one that grants reading.
const GRANTED: u16 = grant::PERMIT_ACCESS;
const TO_READ: u16 = grant::PERMIT_ACCESS | grant::READ_ONLY;
/// The marks of a use that reads, and of one that writes as well.
const READ: u16 = grant::READING;
const WRITTEN: u16 = grant::READING | grant::WRITING;
/// How a grant is mapped: to write, to read.
const HOST: u32 = grant::MAP_HOST;
const HOST_READS: u32 = grant::MAP_HOST | grant::MAP_READ_ONLY;
/// Uses that a VM can have at a time.
const USES: usize = 256;
/// References of all frames of the table.
const REFERENCES: u32 = 8 * grant::ENTRIES;

/// The first frame of the table of grants, shown.
#[derive(Clone, Copy)]
struct Table {
    page: Own,
    own: u16,
}

impl Table {
    fn new() -> Result<Table, super::Wrong> {
        let page = Own::new();
        same("the table", crate::kernel::world::map(page.at, grant_frames()[0] << 12 | RW), 0)?;
        Ok(Table { page, own: own_number() })
    }

    /// Writes an entry.
    fn set(self, reference: u32, flags: u16, frame: u64) {
        let word = frame << 32 | u64::from(self.own) << 16 | u64::from(flags);
        raw::store(self.page.word(reference.into()), word);
    }

    /// The flags of an entry.
    fn flags(self, reference: u32) -> u16 {
        raw::load(self.page.word(reference.into())) as u16
    }

    /// Takes all entries back; none may be in use.
    fn empty(self) -> Outcome {
        for reference in 0..grant::ENTRIES {
            same("a mark that is left", self.flags(reference) & WRITTEN, 0)?;
            raw::store(self.page.word(reference.into()), 0);
        }
        Ok(())
    }
}

/// An operation with one element.
fn one<T>(command: u64, element: &mut T) -> i64 {
    hypercall(call::GRANT_TABLE_OP, [command, core::ptr::from_mut(element) as u64, 1])
}

/// Maps a grant: its status, and the handle.
fn map(reference: u32, host_addr: u64, flags: u32) -> (i16, u32) {
    let mut asked = GrantMap { host_addr, flags, reference, dom: DOMID_SELF, status: 77, ..GrantMap::default() };
    let result = one(grant::MAP, &mut asked);
    if result == 0 { (asked.status, asked.handle) } else { (99, 0) }
}

/// Takes a mapping out.
fn unmap(handle: u32, host_addr: u64) -> i16 {
    let mut asked = GrantUnmap { host_addr, handle, status: 77, ..GrantUnmap::default() };
    if one(grant::UNMAP, &mut asked) == 0 { asked.status } else { 99 }
}

/// A frame as a side of a copy, and a grant.
fn side(place: u64, offset: u16) -> GrantCopySide {
    GrantCopySide { place, domid: DOMID_SELF, offset, ..GrantCopySide::default() }
}

/// Copies, where the flags say which sides are grants.
fn copy(source: GrantCopySide, dest: GrantCopySide, len: u16, flags: u16) -> i16 {
    let mut asked = GrantCopy { source, dest, len, flags, status: 77, pad0: 0 };
    if one(grant::COPY, &mut asked) == 0 { asked.status } else { 99 }
}

/// Releases a frame: how many that were.
fn release(frame: u64) -> i64 {
    reserve(memory::DECREASE_RESERVATION, &mut [frame], DOMID_SELF)
}

/// A grant is mapped and taken out, over and over: no handle comes twice, and an old one means nothing.
fn again_and_again() -> Outcome {
    let table = Table::new()?;
    let [page, place] = Own::several();
    table.set(8, GRANTED, page.frame);
    let mut last = u32::MAX;
    for _ in 0..400 {
        let (status, handle) = map(8, place.at, HOST);
        same("mapped", status, grant::OKAY)?;
        same("the same handle", i64::from(handle == last), 0)?;
        same("an old handle", unmap(last, place.at), grant::BAD_HANDLE)?;
        same("its marks", table.flags(8), GRANTED | WRITTEN)?;
        same("taken out", unmap(handle, place.at), grant::OKAY)?;
        same("no mark", table.flags(8), GRANTED)?;
        last = handle;
    }
    for handle in [last, last ^ 1 << 8, last ^ 1 << 30, 0, 255, 256, 1 << 31, u32::MAX] {
        same("no handle", unmap(handle, place.at), grant::BAD_HANDLE)?;
    }
    table.empty()
}

/// References behind the table, and all of the table while it is empty.
fn references_that_are_none() -> Outcome {
    let table = Table::new()?;
    let [place, page] = Own::several();
    let before = word_at(entry_of(place.at)) & FRAME;
    for reference in (0..REFERENCES).step_by(3).chain([511, 512, REFERENCES - 1]) {
        same("nothing is granted", map(reference, place.at, HOST).0, grant::GENERAL_ERROR)?;
        let from = copy(side(reference.into(), 0), side(page.frame, 0), 8, grant::COPY_SOURCE_GRANT);
        same("nothing to copy", from, grant::GENERAL_ERROR)?;
    }
    for reference in [REFERENCES, REFERENCES + 1, 8191, 1 << 16, 1 << 31, u32::MAX] {
        same("behind the table", map(reference, place.at, HOST).0, grant::BAD_REFERENCE)?;
        for flags in [grant::COPY_SOURCE_GRANT, grant::COPY_TARGET_GRANT, 3] {
            let sides = [reference.into(), page.frame];
            let [source, dest] = if flags == grant::COPY_TARGET_GRANT { [sides[1], sides[0]] } else { sides };
            same("behind the table", copy(side(source, 0), side(dest, 0), 8, flags), grant::BAD_REFERENCE)?;
        }
    }
    same("as it was", word_at(entry_of(place.at)) & FRAME, before)?;
    table.empty()
}

/// One frame granted twice and mapped at three places; each order of undoing.
fn each_order() -> Outcome {
    let table = Table::new()?;
    let [page, places @ ..]: [Own; 4] = Own::several();
    table.set(8, GRANTED, page.frame);
    table.set(9, GRANTED, page.frame);
    let uses = [(8, HOST), (9, HOST), (8, HOST_READS)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut handles = [0; 3];
        for (number, (reference, flags)) in uses.into_iter().enumerate() {
            let (status, handle) = map(reference, places[number].at, flags);
            same("mapped", status, grant::OKAY)?;
            handles[number] = handle;
        }
        page.read_only();
        for (done, number) in order.into_iter().enumerate() {
            let writers = order[done..].iter().filter(|left| **left != 2).count();
            same("a table while it can be written", i64::from(pin(1, page.frame) == 0), i64::from(writers == 0))?;
            let _ = unpin(page.frame);
            same("at another's place", unmap(handles[number], places[(number + 1) % 3].at), grant::BAD_ADDRESS)?;
            same("taken out", unmap(handles[number], places[number].at), grant::OKAY)?;
            same("twice", unmap(handles[number], places[number].at), grant::BAD_HANDLE)?;
            let left = &order[done + 1..];
            let marks = |reads: bool, writes: bool| {
                GRANTED
                    | if writes {
                        WRITTEN
                    } else if reads {
                        READ
                    } else {
                        0
                    }
            };
            same("marks", table.flags(8), marks(left.contains(&2), left.contains(&0)))?;
            same("marks", table.flags(9), marks(false, left.contains(&1)))?;
        }
        same("a table", pin(1, page.frame), 0)?;
        same("unpinned", unpin(page.frame), 0)?;
        same("to write", page.show(RW), 0)?;
    }
    table.empty()
}

/// A mapping is replaced by ordinary calls: it cannot be taken out by its handle until it is there again.
fn something_else_is_there() -> Outcome {
    let table = Table::new()?;
    let [page, other, place] = Own::several();
    table.set(8, GRANTED, page.frame);
    for flags in [HOST, HOST_READS] {
        let (status, handle) = map(8, place.at, flags);
        same("mapped", status, grant::OKAY)?;
        let right = if flags == HOST { RW } else { RO };
        let wrong = if flags == HOST { RO } else { RW };
        for word in
            [0, other.entry(RW), other.entry(RO), place.entry(RW), page.entry(wrong), page.entry(wrong) & !1 & !FRAME]
        {
            same("replaced", map_lazily(place.at, word), 0)?;
            let there = word_at(entry_of(place.at)) & (FRAME | 3);
            same("something else is there", unmap(handle, place.at), grant::GENERAL_ERROR)?;
            same("and stays", word_at(entry_of(place.at)) & (FRAME | 3), there)?;
            same("in use", table.flags(8) & READ, READ)?;
        }
        same("there again", map_lazily(place.at, page.entry(right)), 0)?;
        same("taken out", unmap(handle, place.at), grant::OKAY)?;
        same("nothing is there", word_at(entry_of(place.at)) & 1, 0)?;
    }
    table.empty()
}

/// Where the other vCPU writes, how often it tried, and how often that went well.
static PLACE: AtomicU64 = AtomicU64::new(0);
static TRIED: AtomicU64 = AtomicU64::new(0);
static WROTE: AtomicU64 = AtomicU64::new(0);

/// A mapping is taken out while the other vCPU writes through it: no write arrives afterwards.
fn unmapped_while_written() -> Outcome {
    fn write() {
        let at = PLACE.load(Ordering::SeqCst);
        while !is_over() {
            if raw::try_store(at + 8, 0xbad).is_ok() {
                WROTE.fetch_add(1, Ordering::SeqCst);
            }
            TRIED.fetch_add(1, Ordering::SeqCst);
        }
    }
    /// Waits until the other vCPU has tried again from the beginning.
    fn wait() {
        let seen = TRIED.load(Ordering::SeqCst);
        while TRIED.load(Ordering::SeqCst) < seen + 2 {
            give_way();
        }
    }
    let table = Table::new()?;
    let [page, place] = Own::several();
    table.set(8, GRANTED, page.frame);
    same("nothing there", crate::kernel::world::map(place.at, 0), 0)?;
    PLACE.store(place.at, Ordering::SeqCst);
    WROTE.store(0, Ordering::SeqCst);
    beside(write, || {
        for _ in 0..25 {
            let (status, handle) = map(8, place.at, HOST);
            same("mapped", status, grant::OKAY)?;
            wait();
            same("taken out", unmap(handle, place.at), grant::OKAY)?;
            raw::store(page.word(1), 0);
            wait();
            same("what is there", raw::load(page.word(1)), 0_u64)?;
        }
        Ok(())
    })?;
    same("it wrote at times", WROTE.load(Ordering::SeqCst) >= 25, true)?;
    table.empty()
}

/// Places of no page, of the hypervisor's, in tables of other levels, in no table: the grant can be mapped afterwards.
fn places_that_cannot_be() -> Outcome {
    let table = Table::new()?;
    let [page, place] = Own::several();
    table.set(8, GRANTED, page.frame);
    let pages =
        [place.at + 1, place.at + 8, place.at + 4095, HYPERVISOR, 0xffff_8000_0000_0000, HOLE, 1 << 47, u64::MAX];
    for at in pages.into_iter().chain([0xffff_7fff_ffff_f000, 0xffff_87ff_ffff_f000, !4095, 0x40_0000]) {
        same("no page", i64::from(map(8, at, HOST).0 < 0), 1)?;
        same("no mark", table.flags(8), GRANTED)?;
    }
    let entries = grant::MAP_CONTAINS_PTE | HOST;
    let root = frame_at(first_root()) << 12;
    let above = [2, 3, 4].map(|level| {
        let (table, slot) = crate::kernel::world::table_of(level, place.at);
        (table << 12) | (slot * 8)
    });
    let wrong =
        [0, 1 << 12, page.machine(0), table.page.machine(0), root, root | (256 * 8), 0x7f_ffff_ffff << 12, HOLE, !7];
    for at in wrong.into_iter().chain(above).chain([1, 4, 7].map(|offset| entry_of(place.at) + offset)) {
        same("no entry", i64::from(map(8, at, entries).0 < 0), 1)?;
        same("no mark", table.flags(8), GRANTED)?;
    }
    for (flags, wanted) in [
        (0, grant::GENERAL_ERROR),
        (grant::MAP_READ_ONLY, grant::GENERAL_ERROR),
        (grant::MAP_DEVICE, grant::NO_SPACE),
        (grant::MAP_DEVICE | HOST, grant::NO_SPACE),
    ] {
        same("flags", map(8, place.at, flags).0, wanted)?;
    }
    // Whatever else the flags hold, the entry is an ordinary one of its frame.
    for bit in (5..32).map(|bit| 1 << bit) {
        let (status, handle) = map(8, place.at, HOST | bit);
        same("mapped", status, grant::OKAY)?;
        let word = word_at(entry_of(place.at));
        same("its frame", word & FRAME, page.frame << 12)?;
        same("neither large nor for all nor uncached", word & 0x198, 0_u64)?;
        same("taken out", unmap(handle, place.at), grant::OKAY)?;
    }
    let (status, handle) = map(8, entry_of(place.at), entries);
    same("its entry", status, grant::OKAY)?;
    same("by its address", unmap(handle, place.at), grant::BAD_ADDRESS)?;
    same("taken out", unmap(handle, entry_of(place.at)), grant::OKAY)?;
    table.empty()
}

/// The handle that both take out, and how the other vCPU fared.
static HANDLE: AtomicU64 = AtomicU64::new(0);
static ROUND: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
static WON: AtomicU64 = AtomicU64::new(0);

/// Both vCPUs take out one mapping: one of them does.
fn unmapped_by_both() -> Outcome {
    fn follow() {
        let mut seen = 0;
        while !is_over() {
            let round = ROUND.load(Ordering::SeqCst);
            if round == seen {
                give_way();
                continue;
            }
            seen = round;
            let status = unmap(HANDLE.load(Ordering::SeqCst) as u32, PLACE.load(Ordering::SeqCst));
            WON.fetch_add(u64::from(status == grant::OKAY), Ordering::SeqCst);
            DONE.store(seen, Ordering::SeqCst);
        }
    }
    let table = Table::new()?;
    let [page, place] = Own::several();
    table.set(8, GRANTED, page.frame);
    PLACE.store(place.at, Ordering::SeqCst);
    for counter in [&ROUND, &DONE, &WON] {
        counter.store(0, Ordering::SeqCst);
    }
    beside(follow, || {
        for round in 1..=150_u64 {
            let (status, handle) = map(8, place.at, HOST);
            same("mapped", status, grant::OKAY)?;
            HANDLE.store(handle.into(), Ordering::SeqCst);
            ROUND.store(round, Ordering::SeqCst);
            let own = unmap(handle, place.at);
            while DONE.load(Ordering::SeqCst) != round {
                give_way();
            }
            same("one of both", u64::from(own == grant::OKAY) + WON.swap(0, Ordering::SeqCst), 1)?;
            same("no mark", table.flags(8), GRANTED)?;
            same("nothing is there", word_at(entry_of(place.at)) & 1, 0)?;
        }
        Ok(())
    })?;
    table.empty()
}

/// Maps and copies of one grant at a time: its marks are those of what is left.
fn marks_of_each_use() -> Outcome {
    let table = Table::new()?;
    let [page, place, other] = Own::several();
    table.set(8, GRANTED, page.frame);
    for flags in [HOST, HOST_READS] {
        let marks = GRANTED | if flags == HOST { WRITTEN } else { READ };
        let (status, handle) = map(8, place.at, flags);
        same("mapped", status, grant::OKAY)?;
        for _ in 0..20 {
            same("copied from", copy(side(8, 0), side(other.frame, 0), 64, grant::COPY_SOURCE_GRANT), grant::OKAY)?;
            same("copied to", copy(side(other.frame, 0), side(8, 0), 64, grant::COPY_TARGET_GRANT), grant::OKAY)?;
            same("to itself", copy(side(8, 0), side(8, 64), 64, 3), grant::OKAY)?;
            same("the marks of the mapping", table.flags(8), marks)?;
        }
        // What the guest does to the marks harms nobody.
        table.set(8, GRANTED, page.frame);
        same("copied from", copy(side(8, 0), side(other.frame, 0), 64, grant::COPY_SOURCE_GRANT), grant::OKAY)?;
        table.set(8, GRANTED | WRITTEN, page.frame);
        same("taken out", unmap(handle, place.at), grant::OKAY)?;
        table.set(8, GRANTED, page.frame);
    }
    table.empty()
}

/// Entries that transfer frames or pass grants on, and entries for others.
fn other_kinds_of_entries() -> Outcome {
    let table = Table::new()?;
    let [page, place] = Own::several();
    for flags in (0..=u16::MAX).step_by(37).chain(0..64) {
        table.set(8, flags, page.frame);
        let (status, handle) = map(8, place.at, HOST);
        let is_good = flags & (grant::KIND_MASK | grant::READ_ONLY) == grant::PERMIT_ACCESS;
        same("mapped", status, if is_good { grant::OKAY } else { grant::GENERAL_ERROR })?;
        if is_good {
            same("taken out", unmap(handle, place.at), grant::OKAY)?;
        } else {
            same("as it was, but for marks", table.flags(8) & !WRITTEN, flags & !WRITTEN)?;
        }
    }
    for other in (0..64).chain([0x7ff0, 0x7ff1, 0x7fff, 0xffff]).filter(|other| *other != u64::from(table.own)) {
        raw::store(table.page.word(8), page.frame << 32 | other << 16 | 1);
        same("for another", map(8, place.at, HOST).0, grant::GENERAL_ERROR)?;
        let to = copy(side(page.frame, 0), side(8, 0), 8, grant::COPY_TARGET_GRANT);
        same("for another", to, grant::GENERAL_ERROR)?;
        same("as it was", raw::load(table.page.word(8)), page.frame << 32 | other << 16 | 1)?;
    }
    raw::store(table.page.word(8), 0);
    table.empty()
}

/// A frame is released that is granted and mapped, that is granted only, and mapped once it is gone.
fn released_while_granted() -> Outcome {
    let table = Table::new()?;
    let [page, place] = Own::several();
    for flags in [HOST, HOST_READS] {
        let frame = crate::kernel::world::frame_at(page.at);
        table.set(8, GRANTED, frame);
        let (status, handle) = map(8, place.at, flags);
        same("mapped", status, grant::OKAY)?;
        same("hidden", crate::kernel::world::map(page.at, 0), 0)?;
        same("released while mapped", release(frame), 0)?;
        same("taken out", unmap(handle, place.at), grant::OKAY)?;
        same("released", release(frame), 1)?;
        same("mapped when it is gone", map(8, place.at, flags).0, grant::GENERAL_ERROR)?;
        let from = copy(side(8, 0), side(place.frame, 0), 8, grant::COPY_SOURCE_GRANT);
        same("copied when it is gone", from, grant::BAD_PAGE)?;
        same("no mark", table.flags(8), GRANTED)?;
        let guest_frame = (page.at - crate::kernel::world::BASE) >> 12;
        let mut taken = [guest_frame];
        same("taken again", reserve(memory::POPULATE_PHYSMAP, &mut taken, DOMID_SELF), 1)?;
        raw::store(crate::kernel::world::list() + guest_frame * 8, taken[0]);
        same("shown", crate::kernel::world::map(page.at, taken[0] << 12 | RW), 0)?;
    }
    table.empty()
}

/// Grants of other VMs, which are there and are not.
fn other_owners() -> Outcome {
    let table = Table::new()?;
    let [page, place] = Own::several();
    table.set(8, GRANTED, page.frame);
    let others = (0..40).chain([0x7ff1, 0x7ff2, 0x7ff3, 0x7ff4, 0x7ffe, 0x7fff, 0x8000, 0xffff]);
    for dom in others.filter(|dom| *dom != table.own) {
        let mut asked = GrantMap { host_addr: place.at, flags: HOST, reference: 8, dom, ..GrantMap::default() };
        same("a call", one(grant::MAP, &mut asked), 0)?;
        same("mapped", asked.status, grant::BAD_DOMAIN)?;
        let foreign = GrantCopySide { domid: dom, ..side(8, 0) };
        for (source, dest) in [(foreign, side(page.frame, 0)), (side(page.frame, 0), foreign)] {
            for flags in 0..4 {
                same("copied", copy(source, dest, 8, flags), grant::BAD_DOMAIN)?;
            }
        }
        let mut list = [u64::MAX; 8];
        let frame_list = (&raw mut list) as u64;
        let mut setup = GrantSetupTable { dom, nr_frames: 1, frame_list, ..GrantSetupTable::default() };
        same("a call", one(grant::SETUP_TABLE, &mut setup), 0)?;
        same("its table", setup.status, grant::BAD_DOMAIN)?;
        same("nothing is told", list[0], u64::MAX)?;
        let mut size = GrantQuerySize { dom, nr_frames: 7, ..GrantQuerySize::default() };
        same("a call", one(grant::QUERY_SIZE, &mut size), 0)?;
        same(
            "its size",
            (i64::from(size.status) << 32) + i64::from(size.nr_frames),
            (i64::from(grant::BAD_DOMAIN) << 32) + 7,
        )?;
        let mut version = GrantGetVersion { dom, ..GrantGetVersion::default() };
        same("its version", one(grant::GET_VERSION, &mut version), error(Errno::NoDomain))?;
    }
    for nr_frames in [9, 10, 1 << 16, 1 << 31, u32::MAX] {
        let mut list = [u64::MAX; 16];
        let frame_list = (&raw mut list) as u64;
        let mut setup = GrantSetupTable { dom: DOMID_SELF, nr_frames, frame_list, ..GrantSetupTable::default() };
        same("a call", one(grant::SETUP_TABLE, &mut setup), 0)?;
        same("more than there are", setup.status, grant::GENERAL_ERROR)?;
        same("nothing is told", list[0], u64::MAX)?;
    }
    for version in [0_u32, 2, 3, u32::MAX] {
        refused("another version", one(grant::SET_VERSION, &mut { version }))?;
    }
    table.empty()
}

/// A page table of one's own, in whose entries grants are mapped.
fn entries_for_grants() -> Result<Own, super::Wrong> {
    let entries = Own::new();
    entries.read_only();
    same("pinned", pin(1, entries.frame), 0)?;
    Ok(entries)
}

/// One frame is mapped as often as can be, and taken out in an odd order.
fn one_frame_many_times() -> Outcome {
    let table = Table::new()?;
    let page = Own::new();
    let entries = entries_for_grants()?;
    table.set(8, GRANTED, page.frame);
    let mut handles = [0; USES];
    for (number, handle) in handles.iter_mut().enumerate() {
        let (status, given) = map(8, entries.machine(number as u64), HOST | grant::MAP_CONTAINS_PTE);
        same("mapped", status, grant::OKAY)?;
        *handle = given;
    }
    same("to read only", page.show(RO), 0)?;
    for number in (0..USES).map(|number| number * 37 % USES) {
        refused("a table while it is mapped", pin(1, page.frame))?;
        same("marks", table.flags(8), GRANTED | WRITTEN)?;
        same("taken out", unmap(handles[number], entries.machine(number as u64)), grant::OKAY)?;
    }
    same("no mark", table.flags(8), GRANTED)?;
    same("a table", pin(1, page.frame) + unpin(page.frame), 0)?;
    same("unpinned", unpin(entries.frame), 0)?;
    table.empty()
}

/// Entries that the other vCPU goes through.
static WORDS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// The other vCPU changes an entry all the time: what is mapped is what it grants at some time, as it grants it.
fn entry_that_changes() -> Outcome {
    fn flip() {
        let at = PLACE.load(Ordering::SeqCst);
        while !is_over() {
            for word in &WORDS {
                raw::store(at, word.load(Ordering::SeqCst));
                // Long enough for a use to see it. An emulator looks for interrupts where code branches.
                if (0..200).any(|_| is_over()) {
                    return;
                }
            }
        }
    }
    let table = Table::new()?;
    let [page, other, place, target] = Own::several();
    let word = |flags: u16, frame: u64| frame << 32 | u64::from(table.own) << 16 | u64::from(flags);
    let root = frame_at(first_root());
    for (slot, word) in
        WORDS.iter().zip([word(GRANTED, page.frame), word(TO_READ, other.frame), word(GRANTED, root), 0])
    {
        slot.store(word, Ordering::SeqCst);
    }
    PLACE.store(table.page.word(8), Ordering::SeqCst);
    raw::store(page.at, 1);
    raw::store(other.at, 2);
    let mapped = core::cell::Cell::new(0_u32);
    beside(flip, || {
        // Long enough for each of the entries to be met.
        for round in (0..50_000).take_while(|round| *round < 400 || mapped.get() == 0) {
            let (status, handle) = map(8, place.at, HOST);
            if status == grant::OKAY {
                mapped.set(mapped.get() + 1);
                same("what it grants to write", word_at(entry_of(place.at)) & FRAME, page.frame << 12)?;
                same("taken out", unmap(handle, place.at), grant::OKAY)?;
            } else {
                same("refused", status, grant::GENERAL_ERROR)?;
            }
            raw::store(target.at, 0);
            let from = copy(side(8, 0), side(target.frame, 0), 8, grant::COPY_SOURCE_GRANT);
            let is_good = matches!(
                (from, raw::load(target.at)),
                (grant::OKAY, 1 | 2) | (grant::GENERAL_ERROR | grant::BAD_PAGE, 0)
            );
            // The root can be read by whoever has it, as anywhere.
            let is_root = from == grant::OKAY && raw::load(target.at) == raw::load(first_root());
            same("copied", i64::from(is_good || is_root), 1)?;
            if round % 10 == 0 {
                give_way();
            }
        }
        Ok(())
    })?;
    raw::store(table.page.word(8), 0);
    same("mapped at times", mapped.get() > 0, true)?;
    table.empty()
}

/// Frames that are no memory of the VM's: nobody's, others', page tables.
fn frames_that_are_not_memory() -> Outcome {
    let table = Table::new()?;
    let [place, target] = Own::several();
    let root = frame_at(first_root());
    let known =
        [0, 1, 0x9f, 0xa0, 0xb8, 0x100, 0xfee00, 0xfec00, 0x7_ffff, 1 << 20, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
    for frame in known.into_iter().filter(|frame| !is_own(*frame)) {
        table.set(8, GRANTED, frame);
        for flags in [HOST, HOST_READS] {
            same("mapped", map(8, place.at, flags).0, grant::GENERAL_ERROR)?;
        }
        for (source, dest, flags) in [
            (side(8, 0), side(target.frame, 0), grant::COPY_SOURCE_GRANT),
            (side(target.frame, 0), side(8, 0), grant::COPY_TARGET_GRANT),
            (side(frame, 0), side(target.frame, 0), 0),
            (side(target.frame, 0), side(frame, 0), 0),
        ] {
            same("copied", copy(source, dest, 64, flags), grant::BAD_PAGE)?;
        }
        same("no mark", table.flags(8), GRANTED)?;
    }
    for frame in [1 << 32, 1 << 40, 1 << 52, u64::MAX >> 12, u64::MAX] {
        same("copied", copy(side(frame, 0), side(target.frame, 0), 64, 0), grant::BAD_PAGE)?;
        same("copied", copy(side(target.frame, 0), side(frame, 0), 64, 0), grant::BAD_PAGE)?;
    }
    let descriptors = Own::new().read_only();
    same("descriptors", hypercall(call::SET_GDT, [(&raw const descriptors.frame) as u64, 512, 0]), 0)?;
    for frame in [root, entry_of(place.at) >> 12, descriptors.frame] {
        table.set(8, GRANTED, frame);
        same("mapped to write", map(8, place.at, HOST).0, grant::GENERAL_ERROR)?;
        same("copied over", copy(side(target.frame, 0), side(8, 0), 64, grant::COPY_TARGET_GRANT), grant::BAD_PAGE)?;
        same("copied over", copy(side(target.frame, 0), side(frame, 0), 64, 0), grant::BAD_PAGE)?;
        same("no mark", table.flags(8), GRANTED)?;
    }
    same("none", hypercall(call::SET_GDT, [0, 0, 0]), 0)?;
    table.empty()
}

/// Offsets and lengths of copies: nothing is written beside what is copied.
fn parts_of_pages() -> Outcome {
    let table = Table::new()?;
    let [source, target] = Own::several();
    table.set(8, TO_READ, source.frame);
    table.set(9, GRANTED, target.frame);
    let byte = |at: u64| (at * 7 + 1) as u8;
    (0..4096).for_each(|at| raw::store_byte(source.at + at, byte(at)));
    let cases: [(u16, u16, u16); 18] = [
        (0, 0, 4096),
        (0, 0, 4097),
        (1, 0, 4096),
        (0, 1, 4096),
        (1, 1, 4095),
        (4095, 0, 1),
        (0, 4095, 1),
        (4095, 4095, 2),
        (4096, 0, 0),
        (0, 4096, 0),
        (4096, 0, 1),
        (0, 4096, 1),
        (4097, 0, 0),
        (u16::MAX, 0, 1),
        (0, u16::MAX, u16::MAX),
        (0, 0, u16::MAX),
        (3, 9, 777),
        (100, 200, 0),
    ];
    for (from, to, length) in cases {
        let is_good = [from, to].iter().all(|offset| u32::from(*offset) + u32::from(length) <= 4096);
        for flags in 0..4 {
            (0..512).for_each(|word| raw::store(target.word(word), u64::MAX));
            let place = |is_grant: bool, grant: u64, frame: u64| if is_grant { grant } else { frame };
            let sides =
                (side(place(flags & 1 != 0, 8, source.frame), from), side(place(flags & 2 != 0, 9, target.frame), to));
            same("copied", copy(sides.0, sides.1, length, flags), if is_good { grant::OKAY } else { grant::BAD_COPY })?;
            let copied = if is_good { u64::from(to)..u64::from(to) + u64::from(length) } else { 0..0 };
            let is_exact = (0..4096_u64).all(|at| {
                let wanted = if copied.contains(&at) { byte(at - u64::from(to) + u64::from(from)) } else { 0xff };
                raw::load_byte(target.at + at) == wanted
            });
            same("exactly that", is_exact, true)?;
        }
    }
    for flags in (2..16).map(|bit| 1 << bit) {
        same("flags", copy(side(8, 0), side(9, 0), 8, flags | 3), grant::BAD_COPY)?;
    }
    // Over itself, in both directions.
    for (from, to) in [(0_u16, 8_u16), (8, 0), (0, 1), (1, 0), (0, 0)] {
        (0..4096).for_each(|at| raw::store_byte(target.at + at, byte(at)));
        same("over itself", copy(side(target.frame, from), side(9, to), 4088, 2), grant::OKAY)?;
        let range = u64::from(to)..u64::from(to) + 4088;
        let is_exact = (0..4096_u64).all(|at| {
            let moved = at.wrapping_sub(u64::from(to)).wrapping_add(u64::from(from));
            raw::load_byte(target.at + at) == byte(if range.contains(&at) { moved } else { at })
        });
        same("as it was", is_exact, true)?;
    }
    table.empty()
}

/// Each use of a grant to read only, and of a page that is shown for reading only.
fn rights() -> Outcome {
    let table = Table::new()?;
    let [page, place, other] = Own::several();
    raw::store(page.at, 0x5ec2e7);
    table.set(8, TO_READ, page.frame);
    same("to write", map(8, place.at, HOST).0, grant::GENERAL_ERROR)?;
    same("copied over", copy(side(other.frame, 0), side(8, 0), 8, grant::COPY_TARGET_GRANT), grant::GENERAL_ERROR)?;
    same("as it was", table.flags(8), TO_READ)?;
    let (status, handle) = map(8, place.at, HOST_READS);
    same("to read", status, grant::OKAY)?;
    // What was there before is the guest's to forget.
    flush();
    same("read", raw::try_load(place.at, 0).unwrap_or(0), 0x5ec2e7_u64)?;
    same("a write", raw::try_store(place.at, 1).is_ok(), false)?;
    same("marks", table.flags(8), TO_READ | READ)?;
    same(
        "copied over while mapped",
        copy(side(other.frame, 0), side(8, 0), 8, grant::COPY_TARGET_GRANT),
        grant::GENERAL_ERROR,
    )?;
    same("marks", table.flags(8), TO_READ | READ)?;
    same("taken out", unmap(handle, place.at), grant::OKAY)?;
    same("nothing is read", raw::try_load(place.at, 0).is_ok(), false)?;
    same("unchanged", raw::load(page.at), 0x5ec2e7_u64)?;
    table.empty()
}

/// A grant is mapped onto a page that is there, and onto another grant.
fn onto_a_page_in_use() -> Outcome {
    let table = Table::new()?;
    let [page, other, place] = Own::several();
    table.set(8, GRANTED, page.frame);
    table.set(9, GRANTED, other.frame);
    for _ in 0..30 {
        same("a page", crate::kernel::world::map(place.at, place.entry(RW)), 0)?;
        same("in use", release(place.frame), 0)?;
        let (status, first) = map(8, place.at, HOST);
        same("mapped", status, grant::OKAY)?;
        // The page that was there is referred to by nothing now.
        same("the page's frame as a table", pin(1, place.frame) + unpin(place.frame), 0)?;
        let (status, second) = map(9, place.at, HOST);
        same("mapped over it", status, grant::OKAY)?;
        same("what is there is another", unmap(first, place.at), grant::GENERAL_ERROR)?;
        same("taken out", unmap(second, place.at), grant::OKAY)?;
        same("nothing is there", unmap(first, place.at), grant::GENERAL_ERROR)?;
        same("there again", map_lazily(place.at, page.entry(RW)), 0)?;
        same("taken out", unmap(first, place.at), grant::OKAY)?;
    }
    table.empty()
}

/// Uses until they are refused: as many each time, and what is refused leaves nothing.
fn until_refused() -> Outcome {
    let table = Table::new()?;
    let [page, other] = Own::several();
    let entries = entries_for_grants()?;
    for round in 0..2 {
        for reference in 0..grant::ENTRIES {
            table.set(reference, GRANTED, page.frame);
        }
        let mut handles = [0; USES];
        let mut count = 0;
        let last = loop {
            let (status, handle) = map(count as u32, entries.machine(count as u64), HOST | grant::MAP_CONTAINS_PTE);
            if status != grant::OKAY || count == USES {
                break status;
            }
            handles[count] = handle;
            count += 1;
        };
        same("refused", last, grant::NO_SPACE)?;
        same("uses", count as u64, USES as u64)?;
        same("no mark", table.flags(count as u32), GRANTED)?;
        same("a copy", copy(side(300, 0), side(other.frame, 0), 8, grant::COPY_SOURCE_GRANT), grant::NO_SPACE)?;
        same("a copy", copy(side(other.frame, 0), side(300, 0), 8, grant::COPY_TARGET_GRANT), grant::NO_SPACE)?;
        same("no mark", table.flags(300), GRANTED)?;
        same("a copy without", copy(side(other.frame, 0), side(page.frame, 0), 8, 0), grant::OKAY)?;
        same("room for one", unmap(handles[7], entries.machine(7)), grant::OKAY)?;
        same("for both sides", copy(side(300, 0), side(301, 0), 8, 3), grant::NO_SPACE)?;
        same("no mark", table.flags(300) | table.flags(301), GRANTED)?;
        for (number, handle) in handles.iter().enumerate().filter(|(number, _)| *number != 7) {
            same("taken out", unmap(*handle, entries.machine(number as u64)), grant::OKAY)?;
        }
        // Half of them by ordinary calls: nothing is there for the handle then.
        if round == 0 {
            let (status, handle) = map(1, entries.machine(1), HOST | grant::MAP_CONTAINS_PTE);
            same("mapped", status, grant::OKAY)?;
            same("away", update(entries.machine(1), 0), 0)?;
            same("nothing there", unmap(handle, entries.machine(1)), grant::GENERAL_ERROR)?;
            same("there again", update(entries.machine(1), page.entry(RW)), 0)?;
            same("taken out", unmap(handle, entries.machine(1)), grant::OKAY)?;
        }
        table.empty()?;
    }
    same("unpinned", unpin(entries.frame), 0)
}
