//! Release and reclaim of guest frames, and references that are no mapping.

use protocol::layout::limit;
use protocol::{Gfn, Status};

use super::{Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::frame::Kind;

impl Memory {
    /// The call `frame_release`.
    ///
    /// # Errors
    /// Those of the call's page, when no frame was released.
    pub fn release(&mut self, machine: Machine<'_, impl TableMemory>, frame: Gfn, count: u64) -> Result<u64, Status> {
        each(frame, count, |frame| self.release_one(machine, frame))
    }

    /// The call `frame_reclaim`.
    ///
    /// # Errors
    /// Those of the call's page, when no frame was filled.
    pub fn reclaim(&mut self, machine: Machine<'_, impl TableMemory>, frame: Gfn, count: u64) -> Result<u64, Status> {
        each(frame, count, |frame| {
            if self.list.get(machine, frame)?.is_some() {
                return Err(Status::AlreadyMapped);
            }
            let taken = self.pool.take(machine.frames, self.list.data, frame.0)?;
            self.list.set(machine, frame, Some(taken));
            Ok(())
        })
    }

    /// Takes one frame away from the guest.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] or [`Status::Busy`].
    pub(super) fn release_one(&mut self, machine: Machine<'_, impl TableMemory>, frame: Gfn) -> Result<(), Status> {
        let found = self.list.get(machine, frame)?.ok_or(Status::InvalidArgument)?;
        self.give(machine, found, Kind::Data)?;
        self.list.set(machine, frame, None);
        Ok(())
    }

    /// Counts a reference to a frame of the VM's memory, for a grant or for the hypervisor's own use,
    /// and tells which machine frame it is.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for a frame that is not the VM's own memory or was released,
    /// [`Status::QuotaExceeded`] when its count is full.
    pub fn pin(&mut self, machine: Machine<'_, impl TableMemory>, frame: Gfn) -> Result<Mfn, Status> {
        self.list.acquire(machine, frame)
    }

    /// Drops a reference that [`Memory::pin`] counted. A pinned frame keeps its guest frame number,
    /// so either identifies it.
    pub fn unpin(&mut self, machine: Machine<'_, impl TableMemory>, frame: Mfn) {
        let dropped = machine.frames.drop_reference(frame, self.list.data);
        debug_assert!(dropped.is_ok(), "unpin of a frame that is not pinned");
    }
}

/// Does something for frame after frame, and tells how many it was done for.
///
/// # Errors
/// [`Status::TooLong`], or the first frame's.
fn each(first: Gfn, count: u64, mut step: impl FnMut(Gfn) -> Result<(), Status>) -> Result<u64, Status> {
    if count > limit::RELEASE_FRAMES {
        return Err(Status::TooLong);
    }
    for done in 0..count {
        match step(Gfn(first.0.saturating_add(done))) {
            Err(status) if done == 0 => return Err(status),
            Err(_) => return Ok(done),
            Ok(()) => {}
        }
    }
    Ok(count)
}
