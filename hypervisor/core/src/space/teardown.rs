//! Taking a VM's memory apart in bounded steps, so that the VM can be built again from the same
//! frames.
//!
//! Before the first step: no vCPU runs or is entered, every grant that the VM gave is revoked and
//! every one that it mapped is taken out. Afterwards the frames of memory and pool are of kind `Kept`;
//! frame list and time page stay what they are, apart from the others, so that the runs of 512 frames
//! among these are found again. All are zero.

use protocol::{Gfn, Status};

use super::{Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::frame::Kind;

/// Frames that one step takes at most.
const STEP_FRAMES: u64 = 64;

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
    /// The time page; of a VM that speaks Xen's ABI its shared info.
    pub time_page: Mfn,
}

impl Memory {
    /// Does one step.
    ///
    /// # Errors
    /// [`Status::Busy`] when a vCPU still runs in a space, or a frame is still referred to from
    /// outside; the step can be repeated.
    pub fn teardown_step(&mut self, machine: Machine<'_, impl TableMemory>) -> Result<Teardown, Status> {
        if self.spaces.iter().flatten().any(|space| space.active > 0) {
            return Err(Status::Busy);
        }
        // Space 0 last, since the others' kernel half is its.
        if let Some(last) = self.spaces.iter().rposition(Option::is_some) {
            // Whether this was the last step of it shows in the next one.
            let _ = self.dismantle(machine, last);
            return Ok(Teardown::Again);
        }
        for page in core::mem::take(&mut self.vcpu_pages).into_iter().flatten() {
            self.unpin(machine, page);
        }
        let end = self.taken_down.saturating_add(STEP_FRAMES).min(self.list.frames);
        if self.taken_down < end {
            while self.taken_down < end {
                let number = Gfn(self.taken_down);
                if self.list.get(machine, number)?.is_some() {
                    self.release_one(machine, number)?;
                }
                self.taken_down = self.taken_down.saturating_add(1);
            }
            return Ok(Teardown::Again);
        }
        for _ in 0..STEP_FRAMES {
            if self.pool.take(machine.frames, self.class(Kind::Kept), 0).is_err() {
                // The list is zero since its last frame was released.
                machine.tables.clear(self.time_page);
                return Ok(Teardown::Done(Remains { list: self.list.first, time_page: self.time_page }));
            }
        }
        Ok(Teardown::Again)
    }
}
