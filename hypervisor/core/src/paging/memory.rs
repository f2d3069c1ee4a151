//! Frames that come to the VM and leave it, and the list that tells the guest frame of each machine
//! frame: of the VM's own only, read only for the guest, and never read here.

use protocol::Status;
use protocol::xen::{Errno, M2P_INVALID, M2P_MAX_FRAME};

use super::{GuestTables, Paging, Progress, descend};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::Class;
use crate::frame::typed::Level;
use crate::space::{Machine, TableMemory};

impl Paging {
    /// Whether a frame is memory of the VM.
    #[must_use]
    pub fn owns(&self, machine: Machine<'_, impl GuestTables>, frame: Mfn) -> bool {
        machine.frames.typed(frame, self.references.class).is_some()
    }

    /// Frames of memory that the guest gave back: so many it can have again.
    #[must_use]
    pub const fn released(&self) -> u64 {
        self.released
    }

    /// Adds a frame of a class to those that the VM can have. Nothing refers to it; it is cleared here.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] or [`Status::Busy`]; then it is what it was.
    pub(crate) fn give(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        frame: Mfn,
        from: Class,
    ) -> Result<(), Status> {
        self.pool.give(machine.frames, frame, from)?;
        machine.tables.clear(frame);
        Ok(())
    }

    /// Takes one of them for another use; it is clear.
    ///
    /// # Errors
    /// [`Status::QuotaExceeded`] when there is none.
    pub(crate) fn take(&mut self, machine: Machine<'_, impl TableMemory>, to: Class) -> Result<Mfn, Status> {
        self.pool.take(machine.frames, to, 0)
    }

    /// The call `memory_op`, decrease reservation, for one frame.
    ///
    /// # Errors
    /// `Invalid` when the frame is not the VM's, `Busy` when something refers to it.
    pub fn release(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn) -> Result<Progress<()>, Errno> {
        let mut work = self.work;
        if !self.settle(machine, &mut work) {
            return Ok(Progress::Again);
        }
        let used = machine.frames.typed(frame, self.references.class).ok_or(Errno::Invalid)?;
        if used.references() != 0 {
            return Err(Errno::Busy);
        }
        self.references.flush(machine);
        self.set_m2p(machine, frame, M2P_INVALID)?;
        self.give(machine, frame, self.references.class).map_err(|_| Errno::Busy)?;
        self.released = self.released.saturating_add(1);
        Ok(Progress::Done(()))
    }

    /// The call `memory_op`, populate, for one frame.
    ///
    /// # Errors
    /// `NoMemory` when the guest has all its memory, `Invalid` when the list has no place for the frame.
    pub fn populate(&mut self, machine: Machine<'_, impl GuestTables>, guest_frame: u64) -> Result<Mfn, Errno> {
        let class = self.references.class;
        // What else the pool has is for the hypervisor.
        let left = self.released.checked_sub(1).ok_or(Errno::NoMemory)?;
        let frame = self.pool.take(machine.frames, class, 0).map_err(|_| Errno::NoMemory)?;
        let listed = self.set_m2p(machine, frame, guest_frame);
        if listed.is_err() {
            let given = self.pool.give(machine.frames, frame, class);
            debug_assert!(given.is_ok(), "nobody saw it");
        } else {
            self.released = left;
        }
        listed.map(|()| frame)
    }

    /// Tells the guest that a machine frame of its memory is one of its frames, or what else it likes.
    ///
    /// # Errors
    /// `Invalid` when the frame is not the VM's, or the list has no place for it.
    pub fn set_m2p(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        frame: Mfn,
        guest_frame: u64,
    ) -> Result<(), Errno> {
        let list = self.roots.list.filter(|_| frame.0 <= M2P_MAX_FRAME && self.owns(machine, frame));
        let address = frame.0.wrapping_mul(8);
        let page = list.and_then(|list| descend(machine, list, address, [Level::L3, Level::L2, Level::L1]));
        machine.tables.store_word(page.ok_or(Errno::Invalid)?, index(frame.0 & 511), guest_frame);
        Ok(())
    }
}
