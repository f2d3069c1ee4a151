//! The hypervisor's own tables: its image with the rights that each part needs, the direct map, and
//! holes below the stacks. Built once, before any guest exists; every guest root shares the slots.
use core::ops::Range;

use hv_core::addr::convert::index;
use hv_core::addr::{Mfn, Phys};
use protocol::layout::{HYPERVISOR_FIRST_SLOT, LARGE_PAGE_SIZE, PAGE_SIZE};

use super::direct::{self, load_entry, store_entry};
use crate::boot::{IMAGE_BASE, Image};
use crate::local;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const UNCACHED: u64 = (1 << 3) | (1 << 4);
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Registers of interrupt controllers and timers lie here on every PC.
const DEVICES: Range<u64> = 0xfec0_0000..0xff00_0000;
/// The direct map covers at least this much, for firmware tables and devices.
const LOW_MEMORY: u64 = 1 << 32;

/// Builds the tables. `memory_end` is the first address behind all RAM; `frame` supplies frames below
/// 4 GiB, which the start-up tables map.
///
/// Returns the root that is loaded while no guest is.
pub fn build(image: &Image, memory_end: Phys, frame: &mut dyn FnMut() -> Mfn) -> Mfn {
    let mut table = move || {
        let new = frame();
        direct::clear_frame(new);
        new
    };
    let root = table();
    let Image { text, rodata, data, end, .. } = image;
    for (start, end, rights) in [(text, rodata, 0), (rodata, data, NO_EXECUTE), (data, end, NO_EXECUTE | WRITABLE)] {
        for physical in (start.0..end.0).step_by(index(PAGE_SIZE)) {
            let at = IMAGE_BASE.wrapping_add(physical);
            let is_guard = physical == image.stack_guard.0 || local::stack_guards().any(|guard| guard == at);
            if !is_guard {
                map(root, at, physical | PRESENT | GLOBAL | rights, 1, &mut table);
            }
        }
    }
    for at in (0..memory_end.0.max(LOW_MEMORY)).step_by(index(LARGE_PAGE_SIZE)) {
        map_direct(image, root, at, &mut table);
    }
    root
}

/// Maps 2 MiB of the direct map. Where the image's code or constants lie, in small pages, so that
/// they cannot be written through it either.
fn map_direct(image: &Image, root: Mfn, at: u64, table: &mut dyn FnMut() -> Mfn) {
    let rights = PRESENT | WRITABLE | GLOBAL | NO_EXECUTE | if DEVICES.contains(&at) { UNCACHED } else { 0 };
    let fixed = image.text.0..image.data.0;
    let address = direct::BASE.wrapping_add(at);
    if fixed.start >= at.wrapping_add(LARGE_PAGE_SIZE) || fixed.end <= at {
        map(root, address, at | rights | LARGE, 2, table);
        return;
    }
    for page in 0..512_u64 {
        let offset = page.wrapping_mul(PAGE_SIZE);
        let physical = at.wrapping_add(offset);
        let rights = if fixed.contains(&physical) { rights & !WRITABLE } else { rights };
        map(root, address.wrapping_add(offset), physical | rights, 1, table);
    }
}

/// Stores a leaf entry at a level (1 or 2), with the tables that lead to it.
pub(super) fn map(root: Mfn, address: u64, entry: u64, level: u32, table: &mut dyn FnMut() -> Mfn) {
    let mut at = root;
    for step in (level.wrapping_add(1)..=4).rev() {
        let slot = slot(address, step);
        let next = load_entry(at, slot);
        at = if next & PRESENT == 0 {
            let new = table();
            store_entry(at, slot, new.start().0 | PRESENT | WRITABLE);
            new
        } else {
            Mfn::containing(Phys(next & ADDRESS))
        };
    }
    store_entry(at, slot(address, level), entry);
}

/// Index of an address in the table of a level.
pub(super) const fn slot(address: u64, level: u32) -> usize {
    let shift = level.wrapping_sub(1).wrapping_mul(9).wrapping_add(12);
    index((address >> shift) & 511)
}

/// The level-1 table for an address of the hypervisor's, if there is one.
#[cfg(feature = "xen")]
pub(super) fn table_of(root: Mfn, address: u64) -> Option<Mfn> {
    (2..=4).rev().try_fold(root, |table, level| {
        let entry = load_entry(table, slot(address, level));
        (entry & PRESENT != 0).then(|| Mfn::containing(Phys(entry & ADDRESS)))
    })
}

/// The tables that the hypervisor's top-level slots lead to, for roots of guests.
#[must_use]
pub fn slots(root: Mfn) -> [Option<Mfn>; 16] {
    core::array::from_fn(|number| {
        let entry = load_entry(root, index(HYPERVISOR_FIRST_SLOT).wrapping_add(number));
        (entry & PRESENT != 0).then(|| Mfn::containing(Phys(entry & ADDRESS)))
    })
}
