//! Frames: claimed, cleared, put into the pool, filled with the image's bytes.

use protocol::Gfn;
use protocol::layout::{LARGE_PAGE_FRAMES, PAGE_SIZE};

use super::super::error::Problem;
use super::super::plan::{Piece, pieces};
use super::{Builder, Origin, Stage, VmSource};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::{Class, Kind};
use crate::space::{Machine, TableMemory};

/// Frames that one step loads or puts into the pool.
const STEP_FRAMES: u64 = 64;

/// What is wrong when no run of free frames is long enough.
pub(in super::super) fn out_of_memory(frames: u64) -> Problem {
    Problem::new("no # free frames are left together; give the machine more memory or the VM less", &[frames])
}

impl VmSource<'_> {
    /// Claims a run for the VM. All its frames are zero.
    ///
    /// # Errors
    /// [`out_of_memory`].
    pub(super) fn claim(
        &self,
        machine: Machine<'_, impl TableMemory>,
        kind: Kind,
        number: u64,
        (count, alignment): (u64, u64),
    ) -> Result<Mfn, Problem> {
        let own = |kind| Class::new(Some(self.vm), kind);
        let from = if self.origin == Origin::Free { Class::FREE } else { own(Kind::Kept) };
        let claimed = machine.frames.claim_run(from, own(kind), number, (count, alignment));
        let first = claimed.ok_or_else(|| out_of_memory(count))?;
        // What was kept is zero already.
        if self.origin == Origin::Free {
            (0..count).for_each(|offset| machine.tables.clear(first.offset(offset)));
        }
        Ok(first)
    }
}

impl Builder<'_> {
    /// Claims 512 frames that lie together, or the frames that are left one by one.
    ///
    /// # Errors
    /// [`out_of_memory`].
    pub(super) fn claim(&mut self, machine: Machine<'_, impl TableMemory>, next: u64) -> Result<Stage, Problem> {
        let left = self.source.manifest.memory_frames.saturating_sub(next);
        if left == 0 {
            return Ok(Stage::Pool(0));
        }
        let run = if left < LARGE_PAGE_FRAMES { 1 } else { LARGE_PAGE_FRAMES };
        let end = next.saturating_add(left.min(LARGE_PAGE_FRAMES));
        for number in (next..end).step_by(index(run)) {
            let first = self.source.claim(machine, Kind::Data, number, (run, run))?;
            for offset in 0..run {
                let frame = Gfn(number.saturating_add(offset));
                self.memory.list().set(machine, frame, Some(first.offset(offset)));
            }
        }
        Ok(Stage::Claim(end))
    }

    /// Adds frames to the pool, and makes the first space from it when it is full.
    ///
    /// # Errors
    /// [`out_of_memory`] or [`Builder::pool_too_small`].
    pub(super) fn fill_pool(&mut self, machine: Machine<'_, impl TableMemory>, filled: u64) -> Result<Stage, Problem> {
        let wanted = self.source.manifest.pool_frames;
        if filled >= wanted {
            self.memory.space_create(machine).map_err(|_| self.pool_too_small())?;
            return Ok(Stage::Load(0));
        }
        let end = filled.saturating_add(STEP_FRAMES).min(wanted);
        for _ in filled..end {
            let frame = self.source.claim(machine, Kind::Kept, 0, (1, 1))?;
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
