//! Taking a VM's memory apart in bounded steps, so that the VM can be built again from the same
//! frames.
//!
//! Before the first step: no vCPU runs or is entered, every grant that the VM gave is revoked and
//! every one that it mapped is taken out. Afterwards the frames of memory and pool are of kind `Kept`;
//! frame list and time page stay what they are, apart from the others, so that the runs of 512 frames
//! among these are found again. All are zero.

use protocol::Gfn;

use super::{Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::frame::{Kind, Refused, Use};

/// Frames that one step takes at most.
const STEP_FRAMES: u64 = 64;
/// Work of one step in tables; see [`super::spaces`].
const STEP_WORK: u64 = 4096;

/// Whether all is taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teardown {
    /// Another step is needed.
    Again,
    /// Only this is left beside kept frames; the memory is to be dropped.
    Done(Remains),
}

/// What the next memory of the same VM is made of. All zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remains {
    /// The frame list's first frame.
    pub list: Mfn,
    /// The time page.
    pub time_page: Mfn,
}

impl Memory {
    /// Does one step.
    ///
    /// # Errors
    /// [`Refused::Busy`] when a vCPU still runs in a space, or a frame is still referred to from
    /// outside; the step can be repeated.
    pub fn teardown_step<T: TableMemory>(&mut self, machine: Machine<'_, T>) -> Result<Teardown, Refused> {
        if self.is_active() {
            return Err(Refused::Busy);
        }
        // Space 0 last, since the others' kernel half is its.
        let last = self.space_numbers().last();
        if let Some(space) = last {
            self.condemn(space);
            let mut work = STEP_WORK;
            self.dismantle(machine, space, &mut work);
            return Ok(Teardown::Again);
        }
        if self.taken_down < self.list.frames() {
            return self.keep_data(machine).map(|()| Teardown::Again);
        }
        for _ in 0..STEP_FRAMES {
            let taken = self.pool.take(machine.frames, self.owner, Kind::Kept);
            if taken.is_none() {
                // The list is zero since its last frame was kept.
                machine.tables.clear(self.time_page);
                return Ok(Teardown::Done(Remains { list: self.list.first(), time_page: self.time_page }));
            }
        }
        Ok(Teardown::Again)
    }

    /// Keeps the next guest frames.
    ///
    /// # Errors
    /// [`Refused::Busy`].
    fn keep_data<T: TableMemory>(&mut self, machine: Machine<'_, T>) -> Result<(), Refused> {
        let end = self.taken_down.saturating_add(STEP_FRAMES);
        while self.taken_down < end.min(self.list.frames()) {
            let number = Gfn(self.taken_down);
            if let Ok(Some(frame)) = self.list.get(machine, number) {
                let (first, pages) = self.vcpu_pages;
                if number.0.wrapping_sub(first.0) < pages {
                    self.unpin(machine, frame);
                    // Not once more, should the frame turn out to be busy.
                    self.vcpu_pages = (Gfn(number.0.saturating_add(1)), pages.saturating_sub(1));
                }
                self.keep(machine, frame, Kind::Data)?;
                self.list.set(machine, number, None);
            }
            self.taken_down = self.taken_down.saturating_add(1);
        }
        Ok(())
    }

    /// Clears a frame and keeps it.
    ///
    /// # Errors
    /// [`Refused::Busy`].
    fn keep<T: TableMemory>(&self, machine: Machine<'_, T>, frame: Mfn, kind: Kind) -> Result<(), Refused> {
        let kept = Use::new(self.owner, Kind::Kept);
        machine.frames.change(frame, self.owner, kind, kept)?;
        machine.tables.clear(frame);
        Ok(())
    }
}
