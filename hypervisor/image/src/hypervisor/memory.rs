//! The machine's memory at start-up: what is free, what the hypervisor keeps, its own page tables.

use core::ops::Range;

use hv_arch::boot::{BootInfo, LOW_MEMORY_END};
use hv_arch::mmu::{direct, own};
use hv_arch::{boot, heap, mmu};
use hv_core::addr::{Mfn, Phys};
use hv_core::firmware::RegionKind;
use hv_core::frame::FrameTable;
use protocol::layout::PAGE_SIZE;

/// Frames of the heap: 4 MiB. Tables for the most VMs that a system can have fit in it.
const HEAP_FRAMES: u64 = 1024;
/// The start-up tables map this much; all that is set aside here lies below.
const MAPPED_AT_START: Phys = Phys(1 << 32);

/// What the rest of the start works with.
pub(super) struct Memory {
    /// The record of every frame: what guests can get is free.
    pub(super) frames: FrameTable<'static>,
    /// The root that is loaded while no guest is. It is loaded now.
    pub(super) root: Mfn,
}

/// Frames taken from the start of one free range, one after the other.
struct Early {
    next: Mfn,
    end: Mfn,
}

impl Early {
    fn take(&mut self, frames: u64) -> Mfn {
        let first = self.next;
        self.next = first.offset(frames);
        if self.next > self.end {
            boot::refuse("there is not enough memory below 4 GiB for the hypervisor itself");
        }
        first
    }
}

/// Sets the machine's memory up.
pub(super) fn set_up(boot: &BootInfo) -> Memory {
    let end = usable(boot).map(|range| range.end.0).max().unwrap_or(0);
    let Some(range) = largest_free(boot) else {
        boot::refuse("the memory map names no usable memory below 4 GiB");
    };
    let mut early = Early { next: range.start, end: range.end };
    let root = own::build(&boot.image, Mfn(end).start(), &mut || early.take(1));
    let heap = early.take(HEAP_FRAMES);
    let records = early.take(end.div_ceil(PAGE_SIZE / 8));
    mmu::load_root(root);
    heap::start(heap, HEAP_FRAMES);
    let frames = FrameTable::new(direct::records(records, end));
    usable(boot).for_each(|range| frames.release_range(range));
    in_use(boot).for_each(|range| frames.reserve(range));
    frames.reserve(range.start..early.next);
    Memory { frames, root }
}

/// Ranges of RAM as firmware says, in whole frames.
fn usable(boot: &BootInfo) -> impl Iterator<Item = Range<Mfn>> {
    boot.data.regions().filter(|region| region.kind == RegionKind::Usable).map(|region| {
        let first = region.start.0.div_ceil(PAGE_SIZE);
        Mfn(first)..Mfn::containing(region.end())
    })
}

/// The largest range below 4 GiB that is RAM and not in use.
fn largest_free(boot: &BootInfo) -> Option<Range<Mfn>> {
    let mut best: Option<Range<Mfn>> = None;
    for range in usable(boot) {
        let end = range.end.min(Mfn::containing(MAPPED_AT_START));
        let mut start = range.start;
        while start < end {
            let taken = in_use(boot).filter(|taken| taken.end > start).min_by_key(|taken| taken.start);
            let taken = taken.unwrap_or(end..end);
            let length = |range: &Range<Mfn>| range.end.0.saturating_sub(range.start.0);
            let free = start..taken.start.min(end);
            if best.as_ref().is_none_or(|best| length(&free) > length(best)) {
                best = Some(free);
            }
            start = taken.end.max(start.offset(1));
        }
    }
    best
}

/// What is in use, in whole frames.
fn in_use(boot: &BootInfo) -> impl Iterator<Item = Range<Mfn>> {
    let frames = |start: Phys, end: Phys| Mfn::containing(start)..Mfn(end.0.div_ceil(PAGE_SIZE));
    let image = boot.image.start..boot.image.end;
    let module = boot.data.module;
    let reserved = boot.data.regions().filter(|region| region.kind != RegionKind::Usable);
    [Some(Phys(0)..LOW_MEMORY_END), Some(image), module.map(|region| region.start..region.end())]
        .into_iter()
        .flatten()
        .map(move |range| frames(range.start, range.end))
        .chain(reserved.map(move |region| frames(region.start, region.end())))
}
