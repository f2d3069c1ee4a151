//! Which machine frame each guest frame is: one word a frame, in a run of frames of their own.

use protocol::{Gfn, Status};

use super::{Machine, TableMemory};
use crate::addr::Mfn;
use crate::addr::convert::index;

/// Words in one frame.
const WORDS: u64 = 512;

/// The list of a VM. A word is the machine frame number, or 0 for a released frame.
#[derive(Debug, Clone, Copy)]
pub struct FrameList {
    first: Mfn,
    frames: u64,
}

impl FrameList {
    /// A list of `frames` guest frames in the cleared run that starts at `first` and has
    /// [`FrameList::run_length`] frames.
    #[must_use]
    pub const fn new(first: Mfn, frames: u64) -> FrameList {
        FrameList { first, frames }
    }

    /// Frames that a list of `frames` words takes.
    #[must_use]
    pub const fn run_length(frames: u64) -> u64 {
        frames.div_ceil(WORDS)
    }

    /// The run's first frame.
    #[must_use]
    pub const fn first(&self) -> Mfn {
        self.first
    }

    /// Guest frames, released ones included.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// The machine frame of a guest frame; nothing when it was released.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] beyond the VM's memory.
    #[inline(always)]
    pub fn get<T: TableMemory>(&self, machine: Machine<'_, T>, frame: Gfn) -> Result<Option<Mfn>, Status> {
        if frame.0 >= self.frames {
            return Err(Status::InvalidArgument);
        }
        let (page, word) = self.place(frame);
        let found = machine.tables.load(page, word);
        Ok((found != 0).then_some(Mfn(found)))
    }

    /// Sets the machine frame of a guest frame, or nothing.
    pub(crate) fn set<T: TableMemory>(&self, machine: Machine<'_, T>, frame: Gfn, to: Option<Mfn>) {
        if frame.0 < self.frames {
            let (page, word) = self.place(frame);
            let value = to.map_or(0, |frame| frame.0);
            let offset = word.wrapping_mul(size_of::<u64>());
            machine.tables.write(page, offset, &value.to_le_bytes());
        }
    }

    #[inline(always)]
    fn place(&self, frame: Gfn) -> (Mfn, usize) {
        (self.first.offset(frame.0 / WORDS), index(frame.0 % WORDS))
    }
}
