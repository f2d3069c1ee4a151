//! Which guest frames hold what when a Xen VM starts: the order of Xen's own builder, since guests
//! count on it.
//!
//! From frame 0 on the first mapping shows a hole, the kernel, the module and the list of frames (if
//! these have no other place), the start info, the store's and the console's page, the page tables, the
//! stack and some free frames. Behind it lie the module and the list with its tables, if they have
//! another place.

use protocol::Gfn;
use protocol::layout::PAGE_SIZE;
use protocol::manifest::{Segment, VmManifest, XenKernel};

use super::super::plan::Piece;
use crate::space::FrameList;

/// The first mapping ends at a multiple of so many frames: 4 MiB.
pub(super) const MAPPING_FRAMES: u64 = 1024;
/// Free frames at the end of the first mapping, at least: 512 KiB.
const SLACK_FRAMES: u64 = 128;
/// Slots of a table.
pub(super) const SLOTS: u64 = 512;
/// Level of the pages themselves, where tables have 1 to 4.
pub(super) const PAGES: u32 = 0;
/// Level of the tables that the root leads to.
pub(super) const TOP_TABLES: u32 = 3;

/// Consecutive pages, consecutive frames that they show, and consecutive frames with the tables that
/// lead to them: those of level 3, of level 2, of level 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The first page's address.
    pub(super) start: u64,
    /// Pages, at least one.
    pub(super) pages: u64,
    /// The frame that the first page shows.
    pub(super) shown: Gfn,
    /// The frame of the first table.
    pub(super) tables: Gfn,
}

impl Mapping {
    /// How many tables of a level it has, or pages.
    pub(super) const fn count(self, level: u32) -> u64 {
        let last = self.start.saturating_add(self.pages.saturating_sub(1).saturating_mul(PAGE_SIZE));
        number(last, level).wrapping_sub(number(self.start, level)).wrapping_add(1)
    }

    /// Tables of all levels but the root.
    pub(super) const fn table_frames(self) -> u64 {
        self.count(1).saturating_add(self.count(2)).saturating_add(self.count(TOP_TABLES))
    }

    /// The frame of the table of a level at a position, or of the page.
    pub(super) const fn frame(self, level: u32, position: u64) -> Gfn {
        let (first, above) = match level {
            PAGES => (self.shown, 0),
            1 => (self.tables, self.count(TOP_TABLES).saturating_add(self.count(2))),
            2 => (self.tables, self.count(TOP_TABLES)),
            _ => (self.tables, 0),
        };
        Gfn(first.0.saturating_add(above).saturating_add(position))
    }

    /// The slot that leads there, and its table; no table when that is the root.
    pub(super) const fn place(self, level: u32, position: u64) -> (Option<Gfn>, u64) {
        let number_of_it = number(self.start, level).wrapping_add(position);
        let slot = number_of_it % SLOTS;
        if level == TOP_TABLES {
            return (None, slot);
        }
        let above = level.wrapping_add(1);
        let parent = (number_of_it / SLOTS).wrapping_sub(number(self.start, above));
        (Some(self.frame(above, parent)), slot)
    }
}

/// The number of the table of a level that leads to an address, among all of this level, or of the page.
pub(super) const fn number(address: u64, level: u32) -> u64 {
    address >> 12_u32.wrapping_add(9_u32.wrapping_mul(level))
}

/// The frames of a Xen VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// The first module's first frame.
    pub(super) module: Gfn,
    /// The list of machine frames.
    pub(super) p2m: Gfn,
    /// The start info.
    pub(super) start_info: Gfn,
    /// The store's page.
    pub(super) store: Gfn,
    /// The console's page.
    pub(super) console: Gfn,
    /// The root.
    pub(super) root: Gfn,
    /// What the kernel starts with; its tables follow the root.
    pub(super) first: Mapping,
    /// The first stack, one frame.
    pub(super) stack: Gfn,
    /// Where the list of machine frames is mapped, if not in the first mapping.
    pub(super) second: Option<Mapping>,
    /// The first frame behind all that.
    pub(super) end: Gfn,
}

impl Plan {
    /// The plan of a VM whose segments have been checked. Numbers saturate; the check compares them
    /// with the VM's memory.
    #[must_use]
    pub(super) fn of(vm: &VmManifest, kernel: XenKernel) -> Plan {
        let module_frames = vm.modules.first().map_or(0, |module| module.bytes.div_ceil(PAGE_SIZE));
        let p2m_frames = FrameList::run_length(vm.memory_frames);
        let mut next = segment_frames(vm, kernel).last().map_or(0, |piece| piece.first.0.saturating_add(piece.frames));
        let mut take = |frames: u64, is_here: bool| {
            let first = next;
            next = next.saturating_add(if is_here { frames } else { 0 });
            Gfn(first)
        };
        let module = take(module_frames, !kernel.module_by_frame);
        let p2m = take(p2m_frames, kernel.p2m_address.is_none());
        let [start_info, store, console, root] = [(); 4].map(|()| take(1, true));
        let tables = take(0, true);
        let first = first_mapping(kernel, tables);
        let stack = Gfn(tables.0.saturating_add(first.table_frames()));
        let mut plan =
            Plan { module, p2m, start_info, store, console, root, first, stack, second: None, end: Gfn(first.pages) };
        if kernel.module_by_frame {
            plan.module = plan.end;
            plan.end = Gfn(plan.end.0.saturating_add(module_frames));
        }
        if let Some(start) = kernel.p2m_address {
            plan.p2m = plan.end;
            let tables = Gfn(plan.end.0.saturating_add(p2m_frames));
            let second = Mapping { start, pages: p2m_frames, shown: plan.p2m, tables };
            plan.end = Gfn(tables.0.saturating_add(second.table_frames()));
            plan.second = Some(second);
        }
        plan
    }

    /// Whether a frame holds a page table that the first mapping shows.
    pub(super) const fn is_shown_table(&self, frame: Gfn) -> bool {
        frame.0 >= self.root.0 && frame.0 < self.stack.0
    }

    /// Where the first mapping shows a frame.
    pub(super) const fn address(&self, frame: Gfn) -> u64 {
        self.first.start.wrapping_add(frame.0.wrapping_mul(PAGE_SIZE))
    }

    /// Both mappings.
    pub(super) fn mappings(&self) -> impl Iterator<Item = Mapping> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// Bytes of the image and their frames: the segments, then the module.
    pub(super) fn pieces(self, vm: &VmManifest, kernel: XenKernel) -> impl Iterator<Item = Piece> + '_ {
        let module = vm.modules.first().map(|module| Piece {
            first: self.module,
            frames: module.bytes.div_ceil(PAGE_SIZE),
            image_offset: module.image_offset,
            bytes: module.bytes,
        });
        segment_frames(vm, kernel).chain(module)
    }
}

/// The frames of the segments.
fn segment_frames(vm: &VmManifest, kernel: XenKernel) -> impl Iterator<Item = Piece> + '_ {
    vm.segments.iter().map(move |segment: &Segment| {
        let offset = segment.address.saturating_sub(kernel.virt_base);
        Piece {
            first: Gfn(offset / PAGE_SIZE),
            frames: segment.memory_bytes.div_ceil(PAGE_SIZE),
            image_offset: segment.image_offset,
            bytes: segment.file_bytes,
        }
    })
}

/// The smallest first mapping that shows its tables, which begin at a frame, the stack and the free
/// frames behind them. More pages need more tables, but hundreds of times fewer, so it is soon found.
fn first_mapping(kernel: XenKernel, tables: Gfn) -> Mapping {
    let mut mapping = Mapping { start: kernel.virt_base, pages: MAPPING_FRAMES, shown: Gfn(0), tables };
    loop {
        let needed = [tables.0, mapping.table_frames(), 1, SLACK_FRAMES].into_iter().fold(0, u64::saturating_add);
        let pages = needed.checked_next_multiple_of(MAPPING_FRAMES).unwrap_or(u64::MAX);
        if pages <= mapping.pages {
            return mapping;
        }
        mapping.pages = pages;
    }
}
