//! Frames of a VM that hold nothing, linked through the numbers of their records: no frame is
//! touched, and nothing is allocated.

use protocol::{Status, VmId};

use crate::addr::Mfn;
use crate::frame::{Class, FrameTable, Kind};

/// A list of frames; the last one given is taken first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    class: Class,
    /// The first frame; 0 when empty.
    head: u64,
    free: u64,
}

impl Pool {
    /// An empty pool of a VM.
    pub(crate) const fn new(vm: VmId) -> Pool {
        Pool { class: Class::new(Some(vm), Kind::Pool), head: 0, free: 0 }
    }

    /// How many frames it holds.
    pub(crate) const fn free(&self) -> u64 {
        self.free
    }

    /// The first frame; 0 when empty.
    #[cfg(feature = "recount")]
    pub(crate) const fn head(&self) -> Mfn {
        Mfn(self.head)
    }

    /// Adds a frame that is of class `from`; one that something refers to stays what it was.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] or [`Status::Busy`].
    pub(crate) fn give(&mut self, frames: &FrameTable<'_>, frame: Mfn, from: Class) -> Result<(), Status> {
        frames.change(frame, from, self.class, self.head)?;
        self.head = frame.0;
        self.free = self.free.saturating_add(1);
        Ok(())
    }

    /// Takes a frame for a class, with a number.
    ///
    /// # Errors
    /// [`Status::QuotaExceeded`] when there is none.
    pub(crate) fn take(&mut self, frames: &FrameTable<'_>, to: Class, number: u64) -> Result<Mfn, Status> {
        let frame = Mfn(self.head);
        let next = frames.number(frame, self.class).ok_or(Status::QuotaExceeded)?;
        frames.change(frame, self.class, to, number)?;
        self.head = next;
        self.free = self.free.saturating_sub(1);
        Ok(frame)
    }
}
