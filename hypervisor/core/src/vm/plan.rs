//! Which guest frames hold what when a VM starts: its segments from frame 0 on, its modules, the
//! start info, the pages of its vCPUs, the first stack; everything behind is free.

use protocol::Gfn;
use protocol::layout::{FIRST_STACK_PAGES, PAGE_SIZE};
use protocol::manifest::VmManifest;

/// Bytes of the image that belong into consecutive guest frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// The first frame.
    pub(super) first: Gfn,
    /// Frames, with those that stay zero.
    pub(super) frames: u64,
    /// Where the bytes lie in the image.
    pub(super) image_offset: u64,
    /// How many.
    pub(super) bytes: u64,
}

/// The frames behind the pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// The start info.
    pub(super) start_info: Gfn,
    /// The first vCPU's page; the others follow.
    pub(super) vcpu_pages: Gfn,
    /// The lowest frame of the first stack.
    pub(super) stack: Gfn,
    /// The first frame that holds nothing.
    pub(super) first_free: Gfn,
}

/// The pieces of a VM: its segments, then its modules.
pub(super) fn pieces(manifest: &VmManifest) -> impl Iterator<Item = Piece> + '_ {
    let segments =
        manifest.segments.iter().map(|segment| (segment.image_offset, segment.file_bytes, segment.memory_bytes));
    let modules = manifest.modules.iter().map(|module| (module.image_offset, module.bytes, module.bytes));
    let mut next = 0_u64;
    segments.chain(modules).map(move |(image_offset, bytes, memory)| {
        let frames = memory.div_ceil(PAGE_SIZE);
        let first = Gfn(next);
        next = next.saturating_add(frames);
        Piece { first, frames, image_offset, bytes }
    })
}

impl Plan {
    /// The plan of a VM. Numbers saturate; the image check compares them with the VM's memory.
    #[must_use]
    pub(super) fn of(manifest: &VmManifest) -> Plan {
        let end = pieces(manifest).last().map_or(0, |piece| piece.first.0.saturating_add(piece.frames));
        let vcpu_pages = end.saturating_add(1);
        let stack = vcpu_pages.saturating_add(u64::from(manifest.vcpus));
        Plan {
            start_info: Gfn(end),
            vcpu_pages: Gfn(vcpu_pages),
            stack: Gfn(stack),
            first_free: Gfn(stack.saturating_add(FIRST_STACK_PAGES)),
        }
    }
}
