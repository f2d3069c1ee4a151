//! Page tables, frames and descriptors.

use protocol::xen::structure::MulticallEntry;
use protocol::xen::{DOMID_SELF, Errno, M2P_START, call, memory, mmu, mmuext};

use super::{Attack, Outcome, refused, same};
use crate::kernel::abi::{HOLE, HYPERVISOR, reserve, word_at};
use crate::kernel::raw;
use crate::kernel::world::{
    FRAME, Own, RO, RW, TABLE, console_frame, entry_of, error, extended, first_root, flush, frame_at, frame_of, frames,
    grant_frames, hypercall, map, map_lazily, pin, place_of, shared_frame, table_of, unpin, update, update_for,
    user_tree,
};

/// In the order in which they run.
pub const ALL: &[Attack] = &[
    ("PT-01", large_pages),
    ("PT-02", rights_one_by_one),
    ("PT-03", loops),
    ("PT-04", chains),
    ("PT-05", wide_tree),
    ("PT-08", pins_that_fail),
    ("PT-10", absent_entries),
    ("PT-11", every_bit),
    ("PT-12", wild_numbers),
    ("PT-13", every_frame),
    ("PT-14", caching),
    ("PT-15", misaligned),
    ("PT-18", others_names),
    ("PT-19", reserved_slots),
    ("PT-20", promotion_by_a_parent),
    ("PT-21", not_canonical),
    ("PT-24", pages_for_all),
    ("PT-25", release_in_use),
    ("PT-26", root_in_use),
    ("TL-02", types_in_turn),
    ("TL-05", changes_through_themselves),
    ("TL-06", other_root),
    ("TL-07", released_while_known),
    ("RC-02", errors_many_times),
    ("DS-01", beyond_the_table),
    ("DS-02", every_descriptor),
    ("DS-03", alias_of_descriptors),
    ("DS-04", sizes_of_tables),
];

const BUSY: i64 = error(Errno::Busy);
const INVALID: i64 = error(Errno::Invalid);

/// Places of the entries that lead to an address, from level 1 on.
fn chain(address: u64) -> [u64; 4] {
    [1, 2, 3, 4].map(|level| {
        let (table, slot) = table_of(level, address);
        (table << 12) | (slot * 8)
    })
}

/// Large pages over any frame, at each level, by each call.
fn large_pages() -> Outcome {
    let page = Own::new();
    for place in &chain(page.at)[1..] {
        let word = word_at(*place);
        for frame in [page.frame, word >> 12 & 0xff_ffff_ffff, 0, 0x200, frame_at(first_root())] {
            for command in [mmu::NORMAL, mmu::PRESERVE_AD, mmu::NO_TRANSLATE] {
                refused("a large page", update(place | command, frame << 12 | RW | 0x80))?;
            }
        }
        same("the entry", word_at(*place) & FRAME, word & FRAME)?;
    }
    let table = Own::new();
    raw::store(table.word(3), page.entry(RW | 0x80));
    table.read_only();
    [2, 3, 4].into_iter().try_for_each(|level| refused("pinned with a large page", pin(level, table.frame)))
}

/// A page table shown for reading; then each right in turn by each way.
fn rights_one_by_one() -> Outcome {
    let page = Own::new();
    let place = entry_of(page.at);
    let at = place_of(place >> 12) + (place & 0xfff);
    hypercall(call::VM_ASSIST, [0, 2, 0]);
    for target in chain(page.at).map(|place| place >> 12) {
        let word = target << 12 | RO;
        same("shown for reading", update(place, word), 0)?;
        for bit in (0..12).chain(52..64).map(|bit| 1_u64 << bit).filter(|bit| bit & 1 == 0) {
            for result in
                [update(place, word ^ bit), update(place | mmu::PRESERVE_AD, word ^ bit), map(page.at, word ^ bit)]
            {
                let is_right = bit & 0x9a == 0;
                same("a bit", i64::from(result == 0), i64::from(is_right))?;
            }
            let _ = raw::try_store(at, word ^ bit);
            let _ = raw::try_xor(at, bit);
            same("never for writing", word_at(place) & 3, 1_u64)?;
            same("set again", update(place, word), 0)?;
        }
        same("a store to a table", i64::from(raw::try_store(page.at + 8 * 300, RW | 8).is_ok()), 0)?;
    }
    hypercall(call::VM_ASSIST, [1, 2, 0]);
    same("as it was", map(page.at, page.entry(RW)), 0)
}

/// Tables that lead to themselves and to each other.
fn loops() -> Outcome {
    for level in 1..5 {
        let table = Own::new();
        raw::store(table.word(5), table.entry(if level == 1 { RW } else { TABLE }));
        table.read_only();
        refused("leads to itself", pin(level, table.frame))?;
        rewrite(table, 5, 0)?;
        table.read_only();
        same("empty", pin(level, table.frame), 0)?;
        if level > 1 {
            refused("led to itself later", update(table.machine(5), table.entry(TABLE)))?;
            refused("for reading", update(table.machine(5), table.entry(0x25)))?;
        } else {
            same("itself for reading", update(table.machine(5), table.entry(RO)), 0)?;
            refused("itself for writing", update(table.machine(5), table.entry(RW)))?;
            same("nothing", update(table.machine(5), 0), 0)?;
        }
        same("unpinned", unpin(table.frame), 0)?;
    }
    let root = frame_at(first_root());
    for slot in [0, 1, 255, 272, 300, 510] {
        refused("the root in itself", update((root << 12) | (slot * 8), root << 12 | TABLE))?;
        refused("for reading", update((root << 12) | (slot * 8), root << 12 | 0x25))?;
    }
    Ok(())
}

/// Tables of one level behind each other.
fn chains() -> Outcome {
    for level in 2..5 {
        let tables: [Own; 3] = Own::several();
        for pair in tables.windows(2) {
            raw::store(pair[0].word(1), pair[1].entry(TABLE));
        }
        let _ = tables.map(Own::read_only);
        same("its last one", pin(level, tables[2].frame), 0)?;
        refused("a chain of two", pin(level, tables[1].frame))?;
        refused("a chain of three", pin(level, tables[0].frame))?;
        same("unpinned", unpin(tables[2].frame), 0)?;
        rewrite(tables[1], 1, 0)?;
        tables[1].read_only();
        for table in &tables[1..] {
            same("empty", pin(level, table.frame), 0)?;
        }
        refused("one behind the other later", update(tables[1].machine(1), tables[2].entry(TABLE)))?;
        refused("for reading", update(tables[1].machine(1), tables[2].entry(0x25)))?;
        for table in &tables[1..] {
            same("unpinned", unpin(table.frame), 0)?;
        }
    }
    Ok(())
}

/// The widest tree that few frames make: each table is in all entries of the one above.
fn wide_tree() -> Outcome {
    let [page, first, second, third, root] = Own::several();
    for (table, entry) in [
        (first, page.entry(RO)),
        (second, first.entry(TABLE)),
        (third, second.entry(TABLE)),
        (root, third.entry(TABLE)),
    ] {
        for slot in (0..512).filter(|slot| table != root || !(256..272).contains(slot)) {
            raw::store(table.word(slot), entry);
        }
    }
    let _ = [first, second, third, root].map(Own::read_only);
    for _ in 0..4 {
        same("pinned", pin(4, root.frame), 0)?;
        refused("for writing", first.show(RW))?;
        same("unpinned", unpin(root.frame), 0)?;
    }
    same("is memory", first.show(RW), 0)
}

/// Pins that fail at the first, a middle, and the last entry, and below.
fn pins_that_fail() -> Outcome {
    let [page, first, second] = Own::several();
    raw::store(second.word(0), first.entry(TABLE));
    second.read_only();
    for round in 0..60_u64 {
        let slot = [0, 255, 511][round as usize % 3];
        same("to write", first.show(RW), 0)?;
        (0..512).for_each(|index| raw::store(first.word(index), page.entry(RW)));
        raw::store(first.word(slot), first.entry(RW));
        first.read_only();
        refused("pinned", pin(1, first.frame))?;
        refused("pinned from above", pin(2, second.frame))?;
    }
    Ok(())
}

/// Entries that are not present and name the hypervisor's and others' memory.
fn absent_entries() -> Outcome {
    let table = Own::new();
    let page = Own::new();
    for frame in [1, 0x100, page.frame, shared_frame(), 0x1_0000] {
        for level in 1..5 {
            same("to write", table.show(RW), 0)?;
            // A root keeps the hypervisor's entries.
            (0..512).for_each(|word| raw::store(table.word(word), 0));
            raw::store(table.word(9), frame << 12 | 0x66);
            table.read_only();
            refused("pinned", pin(level, table.frame))?;
            rewrite(table, 9, 0)?;
            table.read_only();
            same("pinned", pin(level, table.frame), 0)?;
            refused("stored", update(table.machine(9), frame << 12 | 0x66))?;
            same("unpinned", unpin(table.frame), 0)?;
        }
    }
    Ok(())
}

/// Whether a machine frame is the VM's own, as its lists say, or one of those that it shares with the hypervisor.
pub fn is_own(frame: u64) -> bool {
    let listed = raw::try_load(M2P_START + frame * 8, 0).unwrap_or(u64::MAX);
    listed < frames() && frame_of(listed) == frame || frame == shared_frame() || grant_frames().contains(&frame)
}

/// Every bit of an entry, single and in pairs, at each level: what is stored is such as may be.
fn every_bit() -> Outcome {
    let [page, other] = Own::several();
    let first = entry_of(page.at);
    let all = || (0..64_u32).flat_map(|one| (one..64).map(move |two| 1_u64 << one | 1 << two));
    for bits in all() {
        let stored = update(first, other.entry(RW) ^ bits);
        let word = word_at(first);
        if stored == 0 && word & 1 == 1 {
            same("bits that no entry has", word & 0x198, 0_u64)?;
            same("for ring 3", word & 4, 4_u64)?;
            same("its own frame", i64::from(is_own((word & FRAME) >> 12)), 1)?;
        }
    }
    same("as it was", map(page.at, page.entry(RW)), 0)?;
    let [root, third, second, first] = user_tree(&[(0, page.entry(RO))]);
    same("pinned", pin(4, root.frame), 0)?;
    for (table, index, below) in [(root, 0, third), (third, 0, second), (second, 2, first)] {
        let (place, right) = (table.machine(index), below.entry(TABLE));
        for bits in all() {
            let word = right ^ bits;
            let stored = update(place, word) == 0;
            let is_forbidden = word & 1 == 1 && word & 0x198 != 0;
            let is_good = word & 0x199 == 1 && word & FRAME == right & FRAME;
            // Between these are other frames, and words that are not present and name no memory.
            if stored && is_forbidden || !stored && is_good {
                return same("refused or not", word, 0);
            }
            same("as before", update(place, right), 0)?;
            same("it is", word_at(place) & (FRAME | 0x19d), right & (FRAME | 0x19d))?;
        }
    }
    same("unpinned", unpin(root.frame), 0)
}

/// Frame numbers that are none, in each call that takes one.
fn wild_numbers() -> Outcome {
    let page = Own::new();
    let place = entry_of(page.at);
    for number in
        [0, 1 << 20, (1 << 29) - 1, 1 << 29, (1 << 39) + 1, (1 << 40) - 1, 1 << 40, (1 << 52) - 1, 1 << 52, u64::MAX]
    {
        refused("a page", update(place, (number << 12 & FRAME) | RW))?;
        refused("a page", map(page.at, (number << 12 & FRAME) | RO))?;
        for operation in [
            mmuext::PIN_L1,
            1,
            2,
            mmuext::PIN_L4,
            mmuext::UNPIN,
            mmuext::NEW_BASEPTR,
            mmuext::CLEAR_PAGE,
            mmuext::COPY_PAGE,
        ] {
            refused("an operation", extended(operation, number, page.frame))?;
        }
        if number != 0 {
            refused("a user root", extended(mmuext::NEW_USER_BASEPTR, number, 0))?;
        }
        refused("a source", extended(mmuext::COPY_PAGE, page.frame, number))?;
        refused("a word", update(number << 12, 1))?;
        refused("the list", update(number << 12 | mmu::MACHPHYS, 1))?;
        refused("a descriptor", hypercall(call::UPDATE_DESCRIPTOR, [number << 12, 0, 0]))?;
        refused("descriptors", hypercall(call::SET_GDT, [(&raw const number) as u64, 16, 0]))?;
        same("released", reserve(memory::DECREASE_RESERVATION, &mut [number], DOMID_SELF), 0)?;
        let record = [number, 0_u64];
        refused("a record", hypercall(call::VCPU_OP, [10, 1, (&raw const record) as u64]))?;
    }
    Ok(())
}

/// Frames of the machine that are looked at.
const LOOKED_AT: u64 = 1 << 18;

/// Every frame of the machine: only the VM's own can be shown, for reading or writing, and only they are listed.
fn every_frame() -> Outcome {
    let page = Own::new();
    let place = entry_of(page.at);
    let mut shown = 0_u64;
    for frame in 0..LOOKED_AT {
        if frame % 512 == 0 && raw::try_load(M2P_START + frame * 8, 0).is_err() {
            // No frame of these is the VM's: some are tried all the same.
            for frame in [frame, frame + 77, frame + 511] {
                refused("another's frame", update(place, frame << 12 | RO))?;
            }
        }
    }
    for frame in (0..LOOKED_AT).filter(|frame| raw::try_load(M2P_START + (frame & !511) * 8, 0).is_ok()) {
        let result = update(place, frame << 12 | RO);
        same("shown if its own", i64::from(result == 0), i64::from(is_own(frame)))?;
        shown += u64::from(result == 0);
    }
    same("as it was", map(page.at, page.entry(RW)), 0)?;
    same("as many as it has", shown, frames() + 1 + grant_frames().len() as u64)
}

/// Memory that is not cached as usual.
fn caching() -> Outcome {
    let page = Own::new();
    for target in [page.frame, shared_frame(), console_frame()] {
        for bits in [8, 0x10, 0x18, 0x80, 0x88, 0x90, 0x98] {
            refused("a page", map(page.at, target << 12 | RW | bits))?;
            refused("for reading", map(page.at, target << 12 | RO | bits))?;
        }
    }
    let table = Own::new();
    raw::store(table.word(0), page.entry(RO | 0x10));
    table.read_only();
    refused("in a table", pin(1, table.frame))
}

/// Stores that are not a whole word, at the end of a table, over its end.
fn misaligned() -> Outcome {
    let page = Own::new();
    let place = entry_of(page.at);
    let table = place_of(place >> 12);
    hypercall(call::VM_ASSIST, [0, 2, 0]);
    let ends = || [raw::load(table + 4088), raw::load(table)].map(|word| word & !0x60);
    let before = ends();
    for offset in [4089, 4092, 4095, 1, 4, 7] {
        for value in [0, RW, u64::MAX] {
            same("a store", i64::from(raw::try_store(table + offset, value).is_ok()), 0)?;
            same("an exchange", i64::from(raw::try_exchange(table + offset, value).is_ok()), 0)?;
        }
    }
    same("both ends", i64::from(ends() == before), 1)?;
    for offset in 0..8 {
        // The low bits of a request are its command: 1 is about another word.
        if offset != 1 {
            let _ = update(place | offset, page.entry(RW));
        }
        if offset != 0 {
            refused("a descriptor", hypercall(call::UPDATE_DESCRIPTOR, [page.machine(0) + offset, 0, 0]))?;
        }
    }
    let list = [0xff_u8; 64];
    for offset in 1..8 {
        let at = (&raw const list) as u64 + offset;
        refused("a list", raw::call(call::MMU_UPDATE, [at, 1, 0, DOMID_SELF.into(), 0]))?;
        refused("a list", raw::call(call::MMUEXT_OP, [at, 1, 0, DOMID_SELF.into(), 0]))?;
    }
    hypercall(call::VM_ASSIST, [1, 2, 0]);
    same("as it was", map(page.at, page.entry(RW)), 0)
}

/// Calls in the names of others.
fn others_names() -> Outcome {
    let page = Own::new();
    let list = [page.frame];
    let domains = || (0..16).chain([0x7ff1, 0x7ff2, 0x7ff3, 0x7ff4, 0x7ffe]);
    let named = domains().filter(|domain| update_for(page.machine(0), 1, *domain) == 0).count();
    same("names for itself", named as i64, 1)?;
    for domain in domains().filter(|domain| update_for(page.machine(0), 1, *domain) != 0) {
        for word in [domain, (domain + 1) << 16 | 0x7ff0, (domain + 1) << 16 | domain] {
            refused("an update", update_for(page.machine(0), 1, word))?;
            refused("an operation", raw::call(call::MMUEXT_OP, [list.as_ptr() as u64, 1, 0, word, 0]))?;
        }
        let domain = domain as u16;
        refused("released", reserve(memory::DECREASE_RESERVATION, &mut [page.frame], domain))?;
        refused("taken", reserve(memory::POPULATE_PHYSMAP, &mut [1], domain))?;
    }
    Ok(())
}

/// The entries of a root that are the hypervisor's.
fn reserved_slots() -> Outcome {
    let [root, other, page] = Own::several();
    let own = frame_at(first_root());
    for slot in 256..272 {
        for word in [0, page.entry(TABLE), own << 12 | TABLE, u64::MAX] {
            for command in 0..4 {
                let result = update((own << 12) | (slot * 8) | command, word);
                if command != mmu::MACHPHYS {
                    refused("an entry", result)?;
                }
            }
        }
        raw::store(root.word(slot), page.entry(TABLE));
    }
    // What a guest wrote there before does not stay.
    let guest_frame = (first_root() - crate::kernel::world::BASE) >> 12;
    same("listed again", update(own << 12 | mmu::MACHPHYS, guest_frame), 0)?;
    raw::store(root.word(511), raw::load(first_root() + 511 * 8));
    root.read_only();
    same("another root", pin(4, root.frame), 0)?;
    for slot in 256..272 {
        same("its entries", raw::load(root.word(slot)) & !0x60, raw::load(first_root() + slot * 8) & !0x60)?;
    }
    same("loaded", extended(mmuext::NEW_BASEPTR, root.frame, 0), 0)?;
    same("back", extended(mmuext::NEW_BASEPTR, own, 0), 0)?;
    same("unpinned", unpin(root.frame), 0)?;
    // A table of the hypervisor's that its old entries name cannot be used.
    same("to write", root.show(RW), 0)?;
    for slot in 256..272 {
        let frame = (raw::load(root.word(slot)) & FRAME) >> 12;
        for level in 2..5 {
            raw::store(other.word(0), frame << 12 | TABLE);
            other.read_only();
            refused("a table of the hypervisor's", pin(level, other.frame))?;
            same("to write", other.show(RW), 0)?;
        }
        refused("shown", map(page.at, frame << 12 | RO))?;
    }
    Ok(())
}

/// Memory with forged entries that becomes a table because another table leads to it.
fn promotion_by_a_parent() -> Outcome {
    let [second, forged, page] = Own::several();
    let own = frame_at(first_root());
    for word in [own << 12 | RW, page.entry(RW | 0x80), RW, HYPERVISOR & FRAME | RW] {
        same("to write", second.show(RW), 0)?;
        same("to write", forged.show(RW), 0)?;
        raw::store(second.word(0), 0);
        raw::store(forged.word(100), word);
        second.read_only();
        forged.read_only();
        same("empty", pin(2, second.frame), 0)?;
        refused("led to later", update(second.machine(0), forged.entry(TABLE)))?;
        same("unpinned", unpin(second.frame), 0)?;
        rewrite(second, 0, forged.entry(TABLE))?;
        second.read_only();
        refused("led to before", pin(2, second.frame))?;
    }
    Ok(())
}

/// Addresses that are none.
fn not_canonical() -> Outcome {
    let page = Own::new();
    let addresses =
        (47..64).map(|bit| 1_u64 << bit).chain([HOLE, 0x7fff_ffff_f000, 0x8000_0000_0000, 0xffff_7fff_ffff_f000]);
    for address in addresses.chain([HYPERVISOR, 0xffff_8000_0000_0000, 0xffff_87ff_ffff_f000]) {
        for flags in [0, 1, 2, 4, 5, 6] {
            refused("mapped", hypercall(call::UPDATE_VA_MAPPING, [address, page.entry(RW), flags]))?;
        }
        for operation in [mmuext::INVLPG_LOCAL, mmuext::INVLPG_ALL, mmuext::TLB_FLUSH_ALL] {
            same("flushed", extended(operation, address, 0), 0)?;
        }
        let _ = extended(mmuext::INVLPG_MULTI, address, address);
        let _ = extended(mmuext::SET_LDT, address, 8);
        let _ = hypercall(call::STACK_SWITCH, [0xe02b, address, 0]);
        let _ = hypercall(call::SET_SEGMENT_BASE, [1, address, 0]);
    }
    Ok(())
}

/// Pages that would be shown to all.
fn pages_for_all() -> Outcome {
    let [page, table] = Own::several();
    for bits in [0x100, 0x163, 0x161, 1 << 52 | 0x167] {
        same("a page", map(page.at, page.entry(RW | bits)), 0)?;
        same("not for all", word_at(entry_of(page.at)) & 0x100, 0_u64)?;
    }
    raw::store(table.word(0), page.entry(RO | 0x100));
    table.read_only();
    same("pinned", pin(1, table.frame), 0)?;
    same("not for all", raw::load(table.word(0)) & 0x100, 0_u64)?;
    same("unpinned", unpin(table.frame), 0)
}

/// Frames that are in use are released, in each way of use.
fn release_in_use() -> Outcome {
    let release = |frame: u64| reserve(memory::DECREASE_RESERVATION, &mut [frame], DOMID_SELF);
    let [page, table, descriptors] = Own::several();
    same("shown", release(page.frame), 0)?;
    page.read_only();
    same("shown for reading", release(page.frame), 0)?;
    table.read_only();
    same("pinned", pin(1, table.frame), 0)?;
    same("hidden", map(table.at, 0), 0)?;
    same("a page table", release(table.frame), 0)?;
    same("shown", table.show(RO), 0)?;
    same("unpinned", unpin(table.frame), 0)?;
    descriptors.read_only();
    same("descriptors", hypercall(call::SET_GDT, [(&raw const descriptors.frame) as u64, 512, 0]), 0)?;
    same("hidden", map(descriptors.at, 0), 0)?;
    same("descriptors", release(descriptors.frame), 0)?;
    same("shown", descriptors.show(RO), 0)?;
    same("none", hypercall(call::SET_GDT, [0, 0, 0]), 0)?;
    for frame in [shared_frame(), console_frame(), frame_at(first_root())] {
        same("the VM's own pages", release(frame), 0)?;
    }
    for level in 1..4 {
        same("a table in use", release(table_of(level, page.at).0), 0)?;
    }
    Ok(())
}

/// The root that is in use loses its pin, is to be written, and to be another table.
fn root_in_use() -> Outcome {
    let own = frame_at(first_root());
    same("unpinned", unpin(own), 0)?;
    refused("to write", map(first_root(), own << 12 | RW))?;
    refused("another table", pin(3, own))?;
    same("released", reserve(memory::DECREASE_RESERVATION, &mut [own], DOMID_SELF), 0)?;
    same("pinned again", pin(4, own), 0)?;
    let tree = user_tree(&[]);
    same("a user root", extended(mmuext::NEW_USER_BASEPTR, tree[0].frame, 0), 0)?;
    for table in tree {
        refused("to write", table.show(RW))?;
    }
    same("none", extended(mmuext::NEW_USER_BASEPTR, 0, 0), 0)
}

/// A frame is each type in turn, with stale translations left of the one before.
fn types_in_turn() -> Outcome {
    let [frame, page] = Own::several();
    let list = (&raw const frame.frame) as u64;
    let begin = |kind: u32| match kind {
        0..4 => pin(kind + 1, frame.frame),
        _ => hypercall(call::SET_GDT, [list, 512, 0]),
    };
    let end = |kind: u32| match kind {
        0..4 => unpin(frame.frame),
        _ => hypercall(call::SET_GDT, [0, 0, 0]),
    };
    for first in 0..5 {
        for second in 0..5 {
            // The CPU knows the page for writing.
            (0..512).for_each(|word| raw::store(frame.word(word), 0));
            same("to read, nothing forgotten", map_lazily(frame.at, frame.entry(RO)), 0)?;
            same("a type", begin(first), 0)?;
            same("a store", i64::from(raw::try_store(frame.at, page.entry(RW)).is_ok()), 0)?;
            if second != first {
                refused("another type", begin(second))?;
            }
            same("no type", end(first), 0)?;
            if first == 3 {
                // The hypervisor's entries are left in it.
                refused("another type", begin(0))?;
                same("clear", extended(mmuext::CLEAR_PAGE, frame.frame, 0), 0)?;
            }
            same("another type", begin(second), 0)?;
            same("a store", i64::from(raw::try_store(frame.at, page.entry(RW)).is_ok()), 0)?;
            same("no type", end(second), 0)?;
            same("to write", map_lazily(frame.at, frame.entry(RW)), 0)?;
        }
    }
    Ok(())
}

/// One batch: a change by address, the table above changed, a change by the same address.
fn changes_through_themselves() -> Outcome {
    let [one, two, page, other] = Own::several();
    let [_, third, second, _] = user_tree(&[]);
    let entry = |args: [u64; 4]| MulticallEntry {
        op: call::UPDATE_VA_MAPPING,
        args: [args[0], args[1], args[2], args[3], 0, 0],
        ..MulticallEntry::default()
    };
    one.read_only();
    two.read_only();
    let own = frame_at(first_root());
    same("user's half in the kernel's root", update(own << 12, third.entry(TABLE)), 0)?;
    same("a table", update(second.machine(2), one.entry(TABLE)), 0)?;
    let change = [second.machine(2), two.entry(TABLE)];
    let mut batch = [
        entry([0x40_0000, page.entry(RW), 0, 0]),
        MulticallEntry {
            op: call::MMU_UPDATE,
            args: [(&raw const change) as u64, 1, 0, DOMID_SELF.into(), 0, 0],
            ..MulticallEntry::default()
        },
        entry([0x40_0000, other.entry(RW), 0, 0]),
    ];
    same("a batch", hypercall(call::MULTICALL, [(&raw mut batch) as u64, 3, 0]), 0)?;
    same("its results", batch.iter().map(|entry| entry.result as i64).sum::<i64>(), 0)?;
    same("the first table", raw::load(one.at) & FRAME, page.frame << 12)?;
    same("the second table", raw::load(two.at) & FRAME, other.frame << 12)?;
    raw::store(page.at, 1);
    raw::store(other.at, 2);
    same("what is read", raw::try_load(0x40_0000, 0).unwrap_or(0), 2_u64)?;
    same("away", update(own << 12, 0), 0)?;
    flush();
    same("nothing is read", i64::from(raw::try_load(0x40_0000, 0).is_ok()), 0)?;
    Ok(())
}

/// A page of another root is not there after the change of roots.
fn other_root() -> Outcome {
    let page = Own::new();
    let [root, ..] = user_tree(&[(0, page.entry(RW))]);
    let own = frame_at(first_root());
    same("to write", root.show(RW), 0)?;
    raw::store(root.word(511), raw::load(first_root() + 511 * 8));
    root.read_only();
    same("pinned", pin(4, root.frame), 0)?;
    for _ in 0..100 {
        same("the other root", extended(mmuext::NEW_BASEPTR, root.frame, 0), 0)?;
        raw::store(0x40_0000, 7);
        same("the first", extended(mmuext::NEW_BASEPTR, own, 0), 0)?;
        same("not there", i64::from(raw::try_load(0x40_0000, 0).is_ok()), 0)?;
        same("not there", i64::from(raw::try_store(0x40_0000, 8).is_ok()), 0)?;
    }
    same("unpinned", unpin(root.frame), 0)
}

/// A frame is released while the CPU may still know it for writing; whoever has it next sees nothing.
fn released_while_known() -> Outcome {
    for count in [1_usize, 63, 64, 65] {
        let pages: [Own; 65] = Own::several();
        let mut frames = pages.map(|page| page.frame);
        for page in &pages[..count] {
            raw::store(page.at, 0xdead);
            same("hidden, nothing forgotten", map_lazily(page.at, 0), 0)?;
        }
        same("released", reserve(memory::DECREASE_RESERVATION, &mut frames[..count], DOMID_SELF), count as i64)?;
        for page in &pages[..count] {
            same("a store", i64::from(raw::try_store(page.at, 0xbad).is_ok()), 0)?;
        }
        let mut taken = pages.map(|page| (page.at - crate::kernel::world::BASE) >> 12);
        same("taken", reserve(memory::POPULATE_PHYSMAP, &mut taken[..count], DOMID_SELF), count as i64)?;
        for (page, frame) in pages.iter().zip(&taken[..count]) {
            same("shown", map(page.at, frame << 12 | RW), 0)?;
            same("clear", (0..512).map(|word| raw::load(page.word(word))).max().unwrap_or(1), 0_u64)?;
            raw::store(crate::kernel::world::list() + ((page.at - crate::kernel::world::BASE) >> 12) * 8, *frame);
        }
        crate::kernel::world::give_back(crate::kernel::world::pages_in_use() - 65);
    }
    Ok(())
}

/// Errors of many calls, many times: nothing is kept of them.
fn errors_many_times() -> Outcome {
    let [page, table] = Own::several();
    let own = frame_at(first_root());
    table.read_only();
    for _ in 0..300 {
        refused("pinned", pin(2, page.frame))?;
        refused("a page", map(page.at, own << 12 | RW))?;
        refused("a root", extended(mmuext::NEW_BASEPTR, page.frame, 0))?;
        refused("a user root", extended(mmuext::NEW_USER_BASEPTR, table_of(3, page.at).0, 0))?;
        refused("descriptors", hypercall(call::SET_GDT, [(&raw const page.frame) as u64, 512, 0]))?;
        refused("cleared", extended(mmuext::CLEAR_PAGE, own, 0))?;
        same("released", reserve(memory::DECREASE_RESERVATION, &mut [page.frame], DOMID_SELF), 0)?;
        let two = [table.frame, page.frame];
        refused("one of two", hypercall(call::SET_GDT, [two.as_ptr() as u64, 1024, 0]))?;
    }
    Ok(())
}

/// Selectors behind a table.
fn beyond_the_table() -> Outcome {
    let table = Own::new();
    (0..512).for_each(|entry| raw::store(table.word(entry), 0x00cf_f300_0000_ffff));
    table.read_only();
    same("a table", hypercall(call::SET_GDT, [(&raw const table.frame) as u64, 16, 0]), 0)?;
    for selector in (0..0x1_0000_u64).step_by(8).map(|selector| selector | 3) {
        let loaded = raw::load_selector(selector);
        // The frame is the guest's as a whole, whatever it says of entries.
        let is_own = selector < 0x1000 || matches!(selector, 0xe02b | 0xe023 | 0xe033);
        if loaded && !is_own {
            return same("loaded", selector, 0);
        }
    }
    raw::load_selector(0);
    same("none", hypercall(call::SET_GDT, [0, 0, 0]), 0)
}

/// Every kind of descriptor.
fn every_descriptor() -> Outcome {
    let table = Own::new().read_only();
    same("a table", hypercall(call::SET_GDT, [(&raw const table.frame) as u64, 512, 0]), 0)?;
    for access in 0..256_u64 {
        for flags in 0..16_u64 {
            let word = flags << 52 | access << 40 | 0x000f_0000_0000_ffff;
            let stored = hypercall(call::UPDATE_DESCRIPTOR, [table.machine(5), word, 0]);
            let is_harmless = access & 0x80 == 0 || access & 0x10 != 0 || access & 0xf == 0;
            same("stored", i64::from(stored == 0), i64::from(is_harmless))?;
            let now = raw::load(table.word(5));
            if stored == 0 && access & 0x90 == 0x90 {
                same("for ring 3", now >> 45 & 3, 3_u64)?;
            }
            // Whatever it is, loading it harms nobody.
            raw::load_selector(5 << 3 | 3);
            raw::load_selector(5 << 3);
        }
    }
    raw::load_selector(0);
    same("none", hypercall(call::SET_GDT, [0, 0, 0]), 0)
}

/// Descriptors that are also shown for writing, before and after.
fn alias_of_descriptors() -> Outcome {
    let [table, alias] = Own::several();
    let list = (&raw const table.frame) as u64;
    table.read_only();
    same("an alias", map(alias.at, table.entry(RW)), 0)?;
    refused("with an alias", hypercall(call::SET_GDT, [list, 512, 0]))?;
    same("an alias to read", map(alias.at, table.entry(RO)), 0)?;
    same("a table", hypercall(call::SET_GDT, [list, 512, 0]), 0)?;
    same("an alias to write", map(alias.at, table.entry(RW)), BUSY)?;
    refused("cleared", extended(mmuext::CLEAR_PAGE, table.frame, 0))?;
    refused("copied over", extended(mmuext::COPY_PAGE, table.frame, alias.frame))?;
    let record = [table.frame, 0];
    refused("a record", hypercall(call::VCPU_OP, [10, 1, (&raw const record) as u64]))?;
    same("as it was", map(alias.at, alias.entry(RW)), 0)?;
    same("none", hypercall(call::SET_GDT, [0, 0, 0]), 0)
}

/// Sizes of descriptor tables.
fn sizes_of_tables() -> Outcome {
    let table = Own::new().read_only();
    let list = [table.frame; 15];
    for entries in [0, 1, 511, 512, 513, 7167, 7168] {
        same("a size", hypercall(call::SET_GDT, [list.as_ptr() as u64, entries, 0]), 0)?;
    }
    for entries in [7169, 7680, 8192, 0x7fff_ffff, 0xffff_ffff] {
        same("too many", hypercall(call::SET_GDT, [list.as_ptr() as u64, entries, 0]), INVALID)?;
    }
    for entries in [1, 8192, 8193, 0xffff_ffff] {
        let _ = extended(mmuext::SET_LDT, HYPERVISOR, entries);
        let _ = extended(mmuext::SET_LDT, 0, entries);
        raw::load_selector(7);
    }
    raw::load_selector(0);
    same("no local table", extended(mmuext::SET_LDT, 0, 0), 0)?;
    same("none", hypercall(call::SET_GDT, [0, 0, 0]), 0)
}

/// Makes a page plain memory and writes a word of it.
fn rewrite(page: Own, index: u64, value: u64) -> Outcome {
    same("to write", page.show(RW), 0)?;
    raw::store(page.word(index), value);
    Ok(())
}
