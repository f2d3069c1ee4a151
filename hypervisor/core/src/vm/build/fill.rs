//! Frames: claimed, cleared, put into the pool, filled with the image's bytes.

use protocol::Gfn;
use protocol::layout::{LARGE_PAGE_FRAMES, PAGE_SIZE};

use super::super::error::Problem;
use super::super::plan::{Piece, pieces};
use super::{Builder, Next, Origin, Stage};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::{Class, Kind, Search};
use crate::space::{FrameList, Machine, Remains, TableMemory};

/// Frames that one step loads or puts into the pool.
const STEP_FRAMES: u64 = 64;
/// Frames that one step looks at in search of those that it claims. When these are spent in a run, it
/// looks at the rest of this run.
pub(in super::super) const STEP_LOOKS: u64 = 2 * LARGE_PAGE_FRAMES;

/// What is wrong when no run of free frames is long enough.
pub(in super::super) fn out_of_memory(frames: u64) -> Problem {
    Problem::new("no # free frames are left together; give the machine more memory or the VM less", &[frames])
}

impl Builder<'_> {
    /// Claims the next run for the VM. All its frames are zero. Nothing when the step looked at enough.
    ///
    /// # Errors
    /// [`out_of_memory`].
    fn claim_run(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        kind: Kind,
        number: u64,
        run: (u64, u64),
    ) -> Result<Option<Mfn>, Problem> {
        let own = |kind| Class::new(Some(self.source.vm), kind);
        let from = if self.source.origin == Origin::Free { Class::FREE } else { own(Kind::Kept) };
        let claimed = machine.frames.claim_next(&mut self.search, (from, own(kind)), number, run);
        let claimed = claimed.map_err(|_| out_of_memory(run.0))?;
        // What was kept is zero already.
        if let Some(first) = claimed.filter(|_| from == Class::FREE) {
            (0..run.0).for_each(|offset| machine.tables.clear(first.offset(offset)));
        }
        Ok(claimed)
    }

    /// Claims the frames that everything else is written into: the time page, then the frame list
    /// behind it, since nothing in front of it is free.
    ///
    /// # Errors
    /// [`out_of_memory`].
    pub(super) fn claim_own(&mut self, machine: Machine<'_, impl TableMemory>, time_page: Option<Mfn>) -> Next {
        let Some(time_page) = time_page else {
            return Ok(Stage::Own(self.claim_run(machine, Kind::Shared, 0, (1, 1))?));
        };
        let length = FrameList::run_length(self.source.manifest.memory_frames);
        let list = self.claim_run(machine, Kind::FrameList, 0, (length, 1))?;
        Ok(list.map_or(Stage::Own(Some(time_page)), |list| self.begin(Remains { list, time_page })))
    }

    /// Claims up to 512 guest frames in runs of `run`: first of 512 that lie together, then of single
    /// frames, which are searched for from the start again.
    ///
    /// # Errors
    /// [`out_of_memory`].
    pub(super) fn claim(&mut self, machine: Machine<'_, impl TableMemory>, next: u64, run: u64) -> Next {
        let left = self.source.manifest.memory_frames.saturating_sub(next);
        if left < run {
            if run == 1 {
                return Ok(Stage::Pool(0));
            }
            self.search = Search::START;
            return Ok(Stage::Claim(next, 1));
        }
        let end = next.saturating_add(left.min(LARGE_PAGE_FRAMES));
        for number in (next..end).step_by(index(run)) {
            let Some(first) = self.claim_run(machine, Kind::Data, number, (run, run))? else {
                return Ok(Stage::Claim(number, run));
            };
            for offset in 0..run {
                let frame = Gfn(number.saturating_add(offset));
                self.memory.list().set(machine, frame, Some(first.offset(offset)));
            }
        }
        Ok(Stage::Claim(end, run))
    }

    /// Adds frames to the pool, and makes the first space from it when it is full.
    ///
    /// # Errors
    /// [`out_of_memory`] or [`Builder::pool_too_small`].
    pub(super) fn fill_pool(&mut self, machine: Machine<'_, impl TableMemory>, filled: u64) -> Next {
        let wanted = self.source.manifest.pool_frames;
        if filled >= wanted {
            self.memory.space_create(machine).map_err(|_| self.pool_too_small())?;
            return Ok(Stage::Load(0));
        }
        let end = filled.saturating_add(STEP_FRAMES).min(wanted);
        for number in filled..end {
            let Some(frame) = self.claim_run(machine, Kind::Kept, 0, (1, 1))? else {
                return Ok(Stage::Pool(number));
            };
            self.memory.give(machine, frame, Kind::Kept).map_err(|_| out_of_memory(1))?;
        }
        Ok(Stage::Pool(end))
    }

    /// Copies bytes of the image into guest frames.
    pub(super) fn load(&mut self, machine: Machine<'_, impl TableMemory>, next: u64) -> Stage {
        if next >= self.plan.start_info.0 {
            return Stage::Map(0, 0);
        }
        let end = next.saturating_add(STEP_FRAMES);
        for piece in pieces(self.source.manifest) {
            let first = piece.first.0.max(next);
            let behind = piece.first.0.saturating_add(piece.frames).min(end);
            for frame in first..behind {
                if let Ok(Some(found)) = self.memory.list().get(machine, Gfn(frame))
                    && let Some(bytes) = page_bytes(self.source.image, piece, frame)
                {
                    machine.tables.write(found, 0, bytes);
                }
            }
        }
        Stage::Load(end)
    }
}

/// The image's bytes for one frame of a piece; nothing when the frame stays zero.
pub(in super::super) fn page_bytes(image: &[u8], piece: Piece, frame: u64) -> Option<&[u8]> {
    let start = frame.checked_sub(piece.first.0)?.checked_mul(PAGE_SIZE)?;
    let length = piece.bytes.checked_sub(start)?.min(PAGE_SIZE);
    let from = piece.image_offset.checked_add(start)?;
    image.get(index(from)..index(from.checked_add(length)?))
}
