//! Page tables and descriptors.

use protocol::xen::structure::MmuUpdate;
use protocol::xen::{DOMID_SELF, Errno, call, entry, mmu, mmuext};

use super::facts::{HOLE, HYPERVISOR};
use crate::kernel::raw;
use crate::kernel::world::{
    FRAME, Own, RO, RW, TABLE, check, console_frame, entry_of, error, extended, first_root, frame_at, hypercall, map,
    pin, shared_frame, slot, table_of, unpin, update, update_for, user_tree,
};

const INVALID: i64 = error(Errno::Invalid);
const BUSY: i64 = error(Errno::Busy);
const NOT_PERMITTED: i64 = error(Errno::NotPermitted);
/// A frame behind every memory, and the one of all ones.
const BEYOND: u64 = 0x7f_ffff_ffff;
const NO_FRAME: u64 = 0xff_ffff_ffff;

pub fn run() {
    requests();
    entries();
    pins();
    roots();
    other_operations();
    descriptors();
}

fn requests() {
    let page = Own::new();
    let list = |at: u64, count: u64, done: u64, domain: u64| raw::call(call::MMU_UPDATE, [at, count, done, domain, 0]);
    let own = u64::from(DOMID_SELF);
    check("nothing to update", list(0, 0, 0, own), 0);
    check(
        "a list that cannot be read",
        [list(HYPERVISOR, 1, 0, own), list(16, 1, 0, own), list(HOLE, 1, 0, own)],
        [error(Errno::Fault); 3],
    );
    for domain in [0, 0x7ff1, 0x7ff2, 0x7fff, 0xffff, 0x0005_7ff0] {
        check("another VM", update_for(page.machine(0), 1, domain), error(Errno::NoDomain));
    }
    for command in [4, 5, 6, 7] {
        check("no such command", update(page.machine(0) | command, 1), error(Errno::NotImplemented));
    }
    check("a word of memory", (update(page.machine(3), 0x77), raw::load(page.word(3))), (0, 0x77));
    for frame in [0, BEYOND, NO_FRAME, u64::MAX >> 12] {
        check("nobody's frame", update(frame << 12, 1), INVALID);
    }
    let first = MmuUpdate { ptr: page.machine(0), val: 1 };
    let second = MmuUpdate { ptr: page.machine(1), val: 2 };
    let wrong = MmuUpdate { ptr: page.machine(2) | 5, val: 3 };
    let three = [first, second, wrong];
    let mut done = [u32::MAX; 2];
    let result = list((&raw const three) as u64, 3, (&raw mut done) as u64, own);
    check("stops at the first that fails", (result, done), (error(Errno::NotImplemented), [2, u32::MAX]));
    check("nowhere to tell how many", list((&raw const three) as u64, 1, HYPERVISOR, own), error(Errno::Fault));
    check("of the list of frames", update(page.machine(0) | mmu::MACHPHYS, 0x1234), 0);
    check("is what the guest says", raw::load(protocol::xen::M2P_START + page.frame * 8), 0x1234);
    let back = (page.at - crate::kernel::world::BASE) >> 12;
    check("and back", update(page.machine(0) | mmu::MACHPHYS, back), 0);
    check("not of others' frames", update(BEYOND << 12 | mmu::MACHPHYS, 1), INVALID);
}

fn entries() {
    let [page, other] = Own::several();
    let place = entry_of(page.at);
    let root = frame_at(first_root());
    check("a page", update(place, other.entry(RW)), 0);
    check("twice the same", update(place, other.entry(RW)), 0);
    check("caching that is not usual", [8, 0x10, 0x80].map(|bit| update(place, other.entry(RW | bit))), [INVALID; 3]);
    check("behind memory", update(place, BEYOND << 12 | RW), NOT_PERMITTED);
    check("the frame of all ones", update(place, NO_FRAME << 12 | RW), INVALID);
    check("nobody's frame", update(place, RW), BUSY);
    check("a page table for writing", update(place, root << 12 | RW), BUSY);
    check("a page table for reading", update(place, root << 12 | RO), 0);
    check("made one to write", update(place, root << 12 | RW), BUSY);
    check("all bits that mean nothing", update(place, other.entry(RW | 7 << 9 | 0x3ff << 52 | 1 << 63)), 0);
    check("an entry that is not present", [update(place, 0xffe), update(place, 0)], [0; 2]);
    check("one that names memory", update(place, other.entry(2)), INVALID);
    check(
        "a kernel's page",
        (update(place, other.entry(0x63)), word_at(place)),
        (0, other.entry(0x67) | entry::GUEST_KERNEL),
    );
    check("a page for all spaces", (update(place, other.entry(0x167)), word_at(place) & 0x100), (0, 0));
    check("bits of the processor lost", (update(place, other.entry(0x7)), word_at(place) & 0x60), (0, 0));
    check("set", update(place, other.entry(RW)), 0);
    check(
        "bits of the processor kept",
        (update(place | mmu::PRESERVE_AD, other.entry(0x7)), word_at(place) & 0x60),
        (0, 0x60),
    );
    check("as it was", map(page.at, page.entry(RW)), 0);
    for level in [2, 3, 4] {
        let (table, index) = table_of(level, page.at);
        let place = (table << 12) | (index * 8);
        let word = word_at(place);
        for bit in [8, 0x10, 0x80, 0x100] {
            check("bits of an upper entry", update(place, word | bit), INVALID);
        }
        check("a page as a table", update(place, page.entry(TABLE)), INVALID);
        check("behind memory", update(place, BEYOND << 12 | TABLE), INVALID);
        check("a table of another level", update(place, root << 12 | TABLE), INVALID);
        check("the same again", update(place, word), 0);
        check("it is unchanged", word_at(place) & FRAME, word & FRAME);
    }
    check("the hypervisor's entries", (256..272).all(|slot| update((root << 12) | (slot * 8), 0) == INVALID), true);
    for address in [HYPERVISOR, HOLE, 0x40_0000, 0xffff_9000_0000_0000] {
        check("no table there", map(address, page.entry(RW)), INVALID);
    }
    check("shared page for reading", map(page.at, shared_frame() << 12 | RO), 0);
    check("shared page as it is", map(page.at, console_frame() << 12 | RW), 0);
    check("as it was again", map(page.at, page.entry(RW)), 0);
}

/// The word at a machine address.
pub fn word_at(machine: u64) -> u64 {
    raw::load(crate::kernel::world::place_of(machine >> 12) + (machine & 0xfff))
}

fn pins() {
    let [page, table] = Own::several();
    check("a page that can be written", pin(1, page.frame), INVALID);
    for frame in [0, BEYOND, NO_FRAME, u64::MAX] {
        check("nobody's frame", [pin(1, frame), pin(4, frame), unpin(frame)], [INVALID; 3]);
    }
    check("not pinned", unpin(page.frame), INVALID);
    table.read_only();
    check("pinned", pin(1, table.frame), 0);
    check("twice", pin(1, table.frame), INVALID);
    check("as another level", [pin(2, table.frame), pin(4, table.frame)], [INVALID; 2]);
    check("to write", table.show(RW), BUSY);
    check("an entry", update(table.machine(7), page.entry(RO)), 0);
    check(
        "which refers",
        super::facts::reserve(protocol::xen::memory::DECREASE_RESERVATION, &mut [page.frame], DOMID_SELF),
        0,
    );
    check("unpinned", unpin(table.frame), 0);
    check("twice", unpin(table.frame), INVALID);
    check("as another level now", pin(2, table.frame), error(Errno::Invalid));
    check("to write now", table.show(RW), 0);
    let wrong = [
        page.entry(RW | 8),
        page.entry(RW | 0x80),
        BEYOND << 12 | RW,
        RW,
        table.entry(RW),
        frame_at(first_root()) << 12 | RW,
    ];
    for word in wrong {
        raw::store(table.word(511), word);
        table.read_only();
        let result = pin(1, table.frame);
        check("a table with a wrong entry", result < 0, true);
        check("can be written again", table.show(RW), 0);
    }
    raw::store(table.word(511), 0xffe);
    table.read_only();
    check("what is not present is harmless", (pin(1, table.frame), unpin(table.frame)), (0, 0));
    check("given back", table.show(RW), 0);
}

fn roots() {
    let root = frame_at(first_root());
    let page = Own::new();
    let switch = |frame| extended(mmuext::NEW_BASEPTR, frame, 0);
    let user = |frame| extended(mmuext::NEW_USER_BASEPTR, frame, 0);
    check("the root that it has", switch(root), 0);
    check("no root", [switch(page.frame), switch(0), switch(NO_FRAME)], [INVALID; 3]);
    check("no user root", [user(page.frame), user(NO_FRAME)], [INVALID; 2]);
    let tree = user_tree(&[(0, page.entry(RW))]);
    check("a root that is not pinned", user(tree[0].frame), 0);
    check("the same", user(tree[0].frame), 0);
    check("its tables are tables", tree.map(|table| table.show(RW)), [BUSY; 4]);
    check("a table of another level", user(tree[1].frame), INVALID);
    check("none", user(0), 0);
    check("its tables are memory", tree.map(|table| table.show(RW)), [0; 4]);
    let second = Own::new();
    let high = slot(4, page.at);
    raw::store(second.word(high), raw::load(first_root() + high * 8));
    second.read_only();
    check("another root", switch(second.frame), 0);
    check("goes on in it", raw::load(second.word(high)) & FRAME, raw::load(first_root() + high * 8) & FRAME);
    check("the hypervisor's entries", raw::load(second.word(257)), raw::load(first_root() + 257 * 8));
    check(
        "cannot be released",
        super::facts::reserve(protocol::xen::memory::DECREASE_RESERVATION, &mut [second.frame], DOMID_SELF),
        0,
    );
    check("back", switch(root), 0);
    check("is memory", second.show(RW), 0);
}

fn other_operations() {
    let [page, other] = Own::several();
    raw::store(page.at, 5);
    for (operation, first, second) in [
        (mmuext::TLB_FLUSH_LOCAL, 0, 0),
        (mmuext::TLB_FLUSH_ALL, 0, 0),
        (mmuext::INVLPG_LOCAL, page.at, 0),
        (mmuext::INVLPG_LOCAL, HOLE, 0),
        (mmuext::INVLPG_LOCAL, HYPERVISOR, 0),
        (mmuext::INVLPG_LOCAL, u64::MAX, 0),
        (mmuext::INVLPG_ALL, HOLE, 0),
        (mmuext::TLB_FLUSH_MULTI, 0, other.at),
        (mmuext::INVLPG_MULTI, HOLE, other.at),
        (mmuext::SET_LDT, 0, 0),
        (mmuext::COPY_PAGE, other.frame, page.frame),
    ] {
        check("an operation", (operation, extended(operation, first, second)), (operation, 0));
    }
    check("copied", raw::load(other.at), 5);
    check("cleared", (extended(mmuext::CLEAR_PAGE, other.frame, 0), raw::load(other.at)), (0, 0));
    let root = frame_at(first_root());
    for (operation, first, second, wanted) in [
        (mmuext::TLB_FLUSH_MULTI, 0, HYPERVISOR, Errno::Invalid),
        (mmuext::SET_LDT, HYPERVISOR, 1, Errno::Invalid),
        (mmuext::SET_LDT, page.at, 8193, Errno::Invalid),
        (mmuext::SET_LDT, page.at + 8, 1, Errno::Invalid),
        (mmuext::CLEAR_PAGE, root, 0, Errno::Invalid),
        (mmuext::CLEAR_PAGE, BEYOND, 0, Errno::Invalid),
        (mmuext::COPY_PAGE, root, page.frame, Errno::Invalid),
        (mmuext::COPY_PAGE, page.frame, BEYOND, Errno::Invalid),
        (mmuext::FLUSH_CACHE, 0, 0, Errno::Access),
        (mmuext::FLUSH_CACHE_GLOBAL, 0, 0, Errno::Access),
        (mmuext::MARK_SUPER, page.frame, 0, Errno::NotSupported),
        (mmuext::UNMARK_SUPER, page.frame, 0, Errno::NotSupported),
        (14, 0, 0, Errno::NotImplemented),
        (u32::MAX, 0, 0, Errno::NotImplemented),
    ] {
        check("a wrong one", (operation, extended(operation, first, second)), (operation, error(wanted)));
    }
}

/// Descriptors that a guest can have, as they then stand, and ones that it cannot.
const CODE: u64 = 0x00af_9b00_0000_ffff;
const GOOD: [(u64, u64); 4] = [
    (0, 0),
    (CODE, CODE | 0x60 << 40),
    (0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff),
    (0x0000_0900_dead_beef, 0x0000_0900_dead_beef),
];
const BAD: [u8; 8] = [0x82, 0x85, 0x89, 0x8b, 0x8c, 0x8e, 0x8f, 0xec];

fn descriptors() {
    let table = Own::new();
    let set = |list: &[u64], entries: u64| hypercall(call::SET_GDT, [list.as_ptr() as u64, entries, 0]);
    let write = |address, value| hypercall(call::UPDATE_DESCRIPTOR, [address, value, 0]);
    check("too many", set(&[table.frame; 15], 7169), INVALID);
    check("a list that cannot be read", hypercall(call::SET_GDT, [HYPERVISOR, 16, 0]), error(Errno::Fault));
    check("a page that can be written", set(&[table.frame], 16), INVALID);
    check("nobody's frame", set(&[BEYOND], 16), INVALID);
    check("a page table", set(&[frame_at(first_root())], 16), INVALID);
    for kind in BAD {
        raw::store(table.word(511), u64::from(kind) << 40);
        table.read_only();
        check("a table with a wrong one", (kind, set(&[table.frame], 512)), (kind, INVALID));
        check("is still memory", table.show(RW), 0);
    }
    raw::store(table.word(511), 0);
    table.read_only();
    check("a table", set(&[table.frame], 512), 0);
    check("not for writing", table.show(RW), BUSY);
    check("not by the other call", update(table.machine(0), 0), INVALID);
    for (word, stored) in GOOD {
        check("a descriptor", (write(table.machine(3), word), raw::load(table.word(3))), (0, stored));
    }
    for kind in BAD {
        check("a wrong one", write(table.machine(3), u64::from(kind) << 40), INVALID);
    }
    check("misaligned", [1, 4, 7].map(|offset| write(table.machine(3) + offset, 0)), [INVALID; 3]);
    check("nobody's", write(BEYOND << 12, 0), INVALID);
    check("of a page table", write(frame_at(first_root()) << 12, 0), INVALID);
    let page = Own::new();
    check("of memory", (write(page.machine(1), GOOD[2].0), raw::load(page.word(1))), (0, GOOD[2].1));
    selectors(table);
    check("no table", hypercall(call::SET_GDT, [0, 0, 0]), 0);
    check("is memory", table.show(RW), 0);
}

/// Loads selectors of the guest's own table.
fn selectors(table: Own) {
    let write = |entry, value| hypercall(call::UPDATE_DESCRIPTOR, [table.machine(entry), value, 0]);
    check("data", write(4, GOOD[2].0), 0);
    let load = |selector: u64| raw::attempt!("mov es, {x:x}", x = in(reg) selector).err();
    check("loads", load(4 << 3 | 3), None);
    check("is marked as used", raw::load(table.word(4)) >> 40 & 1, 1);
    check("not there", write(4, 0), 0);
    check("does not load", load(4 << 3 | 3).map(|trap| (trap.vector, trap.code)), Some((13, 4 << 3)));
    for selector in [0xe00b, 0xe013, 0xe043, 0xe053, 0xfffb, 0x2003] {
        check("the hypervisor's", (selector, load(selector).map(|trap| trap.vector)), (selector, Some(13)));
    }
    check("the flat ones", [load(0xe02b), load(0)], [None; 2]);
}
