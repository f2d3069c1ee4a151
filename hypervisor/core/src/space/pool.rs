//! Frames of a VM that hold nothing, linked through the numbers of their records: no frame is
//! touched, and nothing is allocated.

use crate::addr::Mfn;
use crate::frame::{FrameTable, Kind, Owner, Use};

/// A list of frames; the last one given is taken first.
#[derive(Debug, Clone, Copy)]
pub struct Pool {
    /// The first frame; 0 when empty.
    head: u64,
    free: u64,
}

impl Pool {
    /// No frames.
    pub const EMPTY: Pool = Pool { head: 0, free: 0 };

    /// How many frames it holds.
    #[must_use]
    pub const fn free(&self) -> u64 {
        self.free
    }

    /// Adds a frame that is `owner`'s and of kind `kind`. Answers whether it could; a frame that
    /// something refers to stays what it was.
    pub(crate) fn give(&mut self, frames: &FrameTable<'_>, owner: Owner, frame: Mfn, kind: Kind) -> bool {
        let pooled = Use { owner, kind: Kind::Pool, number: self.head };
        let given = frames.change(frame, owner, kind, pooled).is_ok();
        if given {
            self.head = frame.0;
            self.free = self.free.saturating_add(1);
        }
        given
    }

    /// Takes a frame for a use of the same owner.
    pub(crate) fn take_for(&mut self, frames: &FrameTable<'_>, usage: Use) -> Option<Mfn> {
        let frame = Mfn(self.head);
        let next = frames.number(frame, usage.owner, Kind::Pool)?;
        frames.change(frame, usage.owner, Kind::Pool, usage).ok()?;
        self.head = next;
        self.free = self.free.saturating_sub(1);
        Some(frame)
    }

    /// Takes a frame for a use whose number means nothing.
    pub(crate) fn take(&mut self, frames: &FrameTable<'_>, owner: Owner, kind: Kind) -> Option<Mfn> {
        self.take_for(frames, Use::new(owner, kind))
    }
}
