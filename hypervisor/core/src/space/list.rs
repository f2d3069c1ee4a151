//! Which machine frame each guest frame is: one word a frame, in a run of frames of their own. And
//! the references to these frames.

use protocol::{Gfn, Status, VmId};

use super::entry::{Leaf, LeafKind};
use super::{Machine, TableMemory};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::{Class, Kind};

/// Words in one frame.
const WORDS: u64 = 512;

/// The list of a VM. A word is the machine frame number, or 0 for a released frame. Loops copy it,
/// so that they have it in registers.
#[derive(Debug, Clone, Copy)]
pub struct FrameList {
    /// First of the cleared run of [`FrameList::run_length`] frames that holds the list.
    pub(super) first: Mfn,
    /// Guest frames, released ones included.
    pub(super) frames: u64,
    /// The VM's memory in the frame table.
    pub(super) data: Class,
}

impl FrameList {
    /// The list of the `frames` guest frames of a VM, in a cleared run from frame `first` on.
    #[must_use]
    pub const fn new(vm: VmId, first: Mfn, frames: u64) -> FrameList {
        FrameList { first, frames, data: Class::new(Some(vm), Kind::Data) }
    }

    /// Guest frames, released ones included.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// Frames that a list of `frames` words takes.
    #[must_use]
    pub const fn run_length(frames: u64) -> u64 {
        frames.div_ceil(WORDS)
    }

    /// The machine frame of a guest frame; nothing when it was released.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] beyond the VM's memory.
    #[inline(always)]
    pub fn get(&self, machine: Machine<'_, impl TableMemory>, frame: Gfn) -> Result<Option<Mfn>, Status> {
        if frame.0 >= self.frames {
            return Err(Status::InvalidArgument);
        }
        let (page, word) = self.place(frame);
        let found = machine.tables.load(page, word);
        Ok((found != 0).then_some(Mfn(found)))
    }

    /// The machine frame of a guest frame, a reference to it counted.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for a frame that is not the VM's own memory or was released,
    /// [`Status::QuotaExceeded`] when its count is full.
    #[inline(always)]
    pub(super) fn acquire(&self, machine: Machine<'_, impl TableMemory>, frame: Gfn) -> Result<Mfn, Status> {
        let found = self.get(machine, frame)?.ok_or(Status::InvalidArgument)?;
        machine.frames.add_reference(found, self.data)?;
        Ok(found)
    }

    /// Drops the references of the first `frames` frames of a leaf that was not or is no longer
    /// stored. Only those of own memory are counted.
    #[inline(always)]
    pub(super) fn let_go(&self, machine: Machine<'_, impl TableMemory>, leaf: Leaf, frames: u64) {
        if leaf.kind() == LeafKind::Own {
            for offset in 0..frames {
                let dropped = machine.frames.drop_reference(leaf.frame().offset(offset), self.data);
                debug_assert!(dropped.is_ok(), "a leaf without its reference");
            }
        }
    }

    /// Sets the machine frame of a guest frame, or nothing.
    pub(crate) fn set(&self, machine: Machine<'_, impl TableMemory>, frame: Gfn, to: Option<Mfn>) {
        if frame.0 < self.frames {
            let (page, word) = self.place(frame);
            let value = to.map_or(0, |frame| frame.0);
            machine.tables.write(page, word.wrapping_mul(size_of::<u64>()), &value.to_le_bytes());
        }
    }

    #[inline(always)]
    fn place(&self, frame: Gfn) -> (Mfn, usize) {
        (self.first.offset(frame.0 / WORDS), index(frame.0 % WORDS))
    }
}
