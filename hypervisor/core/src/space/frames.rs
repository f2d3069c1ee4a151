//! Release and reclaim of guest frames, and references that are no mapping.

use protocol::layout::limit;
use protocol::{Gfn, Status};

use super::map::status_of;
use super::{Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::frame::{Kind, Use};

impl Memory {
    /// The call `frame_release`.
    ///
    /// # Errors
    /// Those of the call's page, when no frame was released.
    pub fn release<T: TableMemory>(&mut self, machine: Machine<'_, T>, frame: Gfn, count: u64) -> Result<u64, Status> {
        self.each(frame, count, |memory, frame| memory.release_one(machine, frame))
    }

    /// The call `frame_reclaim`.
    ///
    /// # Errors
    /// Those of the call's page, when no frame was filled.
    pub fn reclaim<T: TableMemory>(&mut self, machine: Machine<'_, T>, frame: Gfn, count: u64) -> Result<u64, Status> {
        self.each(frame, count, |memory, frame| memory.reclaim_one(machine, frame))
    }

    /// Does something for frame after frame, and tells how many it was done for.
    ///
    /// # Errors
    /// [`Status::TooLong`], or the first frame's.
    fn each(
        &mut self,
        first: Gfn,
        count: u64,
        mut step: impl FnMut(&mut Memory, Gfn) -> Result<(), Status>,
    ) -> Result<u64, Status> {
        if count > limit::RELEASE_FRAMES {
            return Err(Status::TooLong);
        }
        for done in 0..count {
            if let Err(status) = step(self, Gfn(first.0.saturating_add(done))) {
                return if done == 0 { Err(status) } else { Ok(done) };
            }
        }
        Ok(count)
    }

    /// Takes one frame away from the guest.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] or [`Status::Busy`].
    fn release_one<T: TableMemory>(&mut self, machine: Machine<'_, T>, frame: Gfn) -> Result<(), Status> {
        let found = self.list.get(machine, frame)?.ok_or(Status::InvalidArgument)?;
        // The pool refuses a frame that something refers to; only then may its content go.
        if !self.pool.give(machine.frames, self.owner, found, Kind::Data) {
            return Err(Status::Busy);
        }
        machine.tables.clear(found);
        self.list.set(machine, frame, None);
        Ok(())
    }

    /// Gives the guest one frame back.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::AlreadyMapped`] or [`Status::QuotaExceeded`].
    fn reclaim_one<T: TableMemory>(&mut self, machine: Machine<'_, T>, frame: Gfn) -> Result<(), Status> {
        if self.list.get(machine, frame)?.is_some() {
            return Err(Status::AlreadyMapped);
        }
        let data = Use { owner: self.owner, kind: Kind::Data, number: frame.0 };
        let taken = self.pool.take_for(machine.frames, data);
        self.list.set(machine, frame, Some(taken.ok_or(Status::QuotaExceeded)?));
        Ok(())
    }

    /// Counts a reference to a frame of the VM's memory, for a grant or for the hypervisor's own use,
    /// and tells which machine frame it is.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] for a frame that is not the VM's own memory or was released,
    /// [`Status::QuotaExceeded`] when its count is full.
    pub fn pin<T: TableMemory>(&mut self, machine: Machine<'_, T>, frame: Gfn) -> Result<Mfn, Status> {
        let found = self.list.get(machine, frame)?.ok_or(Status::InvalidArgument)?;
        let added = machine.frames.add_reference(found, self.data);
        added.map(|()| found).map_err(status_of)
    }

    /// Drops a reference that [`Memory::pin`] counted. A pinned frame keeps its guest frame number,
    /// so either identifies it.
    pub fn unpin<T: TableMemory>(&mut self, machine: Machine<'_, T>, frame: Mfn) {
        let dropped = machine.frames.drop_reference(frame, self.data);
        debug_assert!(dropped.is_ok(), "unpin of a frame that is not pinned");
    }
}
