//! Frames: claimed, cleared, put into the pool, filled with the image's bytes.

use protocol::Gfn;
use protocol::layout::{LARGE_PAGE_FRAMES, PAGE_SIZE};

use super::super::error::BuildError;
use super::super::plan::{Piece, pieces};
use super::{Builder, Origin, Stage};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::{FrameTable, Kind, Owner, Refused, Use};
use crate::space::{FrameList, Machine, Remains, TableMemory};

/// Frames that one step clears, loads or puts into the pool.
const STEP_FRAMES: u64 = 64;

/// Where the builder's frames come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claims<'m> {
    pub(super) frames: &'m FrameTable<'m>,
    pub(super) origin: Origin,
    pub(super) owner: Owner,
}

impl Claims<'_> {
    /// Claims and clears the frame list and the time page.
    ///
    /// # Errors
    /// [`BuildError::OutOfMemory`]; then nothing is claimed.
    pub(super) fn first_frames<T: TableMemory>(
        self,
        machine: Machine<'_, T>,
        memory_frames: u64,
    ) -> Result<Remains, BuildError> {
        let run = FrameList::run_length(memory_frames);
        let usage = |kind| Use::new(self.owner, kind);
        let list = self.run(usage(Kind::FrameList), run, 1, "its frame list")?;
        let time_page = self.run(usage(Kind::Shared), 1, 1, "its time page");
        for offset in 0..run {
            let frame = list.offset(offset);
            machine.tables.clear(frame);
            if time_page.is_err() {
                let freed = machine.frames.free(frame, self.owner, Kind::FrameList);
                debug_assert!(freed.is_ok(), "claimed just now");
            }
        }
        let time_page = time_page?;
        machine.tables.clear(time_page);
        Ok(Remains { list, time_page })
    }

    /// Claims a run.
    ///
    /// # Errors
    /// [`BuildError::OutOfMemory`].
    fn run(self, usage: Use, frames: u64, alignment: u64, what: &'static str) -> Result<Mfn, BuildError> {
        let from = match self.origin {
            Origin::Free => Use::new(Owner::Nobody, Kind::Free),
            Origin::Kept(_) => Use::new(self.owner, Kind::Kept),
        };
        let claimed = self.frames.claim_run_from(from, usage, frames, alignment);
        claimed.map_err(|_: Refused| BuildError::OutOfMemory { what, frames })
    }
}

impl Builder<'_> {
    pub(super) fn claims<'m, T>(&self, machine: Machine<'m, T>) -> Claims<'m> {
        Claims { frames: machine.frames, origin: self.source.origin, owner: Owner::Vm(self.source.vm) }
    }

    /// Claims 512 frames that lie together, or the frames that are left one by one.
    ///
    /// # Errors
    /// [`BuildError::OutOfMemory`].
    pub(super) fn claim<T: TableMemory>(&mut self, machine: Machine<'_, T>, next: u64) -> Result<Stage, BuildError> {
        let left = self.memory.memory_frames().saturating_sub(next);
        if left == 0 {
            return Ok(Stage::Clear(0));
        }
        let (run, count) = if left >= LARGE_PAGE_FRAMES { (LARGE_PAGE_FRAMES, 1) } else { (1, left.min(STEP_FRAMES)) };
        let claims = self.claims(machine);
        for turn in 0..count {
            let usage = Use { owner: claims.owner, kind: Kind::Data, number: next.saturating_add(turn) };
            let first = claims.run(usage, run, run, "its memory")?;
            for offset in 0..run {
                let frame = Gfn(usage.number.saturating_add(offset));
                self.memory.set_frame(machine, frame, first.offset(offset));
            }
        }
        Ok(Stage::Claim(next.saturating_add(run.saturating_mul(count))))
    }

    /// Clears guest frames. Kept frames are clear.
    pub(super) fn clear<T: TableMemory>(&mut self, machine: Machine<'_, T>, next: u64) -> Stage {
        let frames = self.memory.memory_frames();
        if next >= frames || matches!(self.source.origin, Origin::Kept(_)) {
            return Stage::Pool(0);
        }
        let end = next.saturating_add(STEP_FRAMES).min(frames);
        for frame in next..end {
            if let Some(found) = self.memory.frame(machine, Gfn(frame)) {
                machine.tables.clear(found);
            }
        }
        Stage::Clear(end)
    }

    /// Adds frames to the pool.
    ///
    /// # Errors
    /// [`BuildError::OutOfMemory`].
    pub(super) fn fill_pool<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        filled: u64,
    ) -> Result<Stage, BuildError> {
        let wanted = self.source.manifest.pool_frames;
        if filled >= wanted {
            return Ok(Stage::Space);
        }
        let claims = self.claims(machine);
        let end = filled.saturating_add(STEP_FRAMES).min(wanted);
        for _ in filled..end {
            let kept = Use::new(claims.owner, Kind::Kept);
            let frame = claims.run(kept, 1, 1, "its pool")?;
            self.memory.give(machine, frame, Kind::Kept);
        }
        Ok(Stage::Pool(end))
    }

    /// Copies bytes of the image into guest frames.
    pub(super) fn load<T: TableMemory>(&mut self, machine: Machine<'_, T>, next: u64) -> Stage {
        if next >= self.plan.start_info.0 {
            return Stage::Map(0, 0);
        }
        let end = next.saturating_add(STEP_FRAMES);
        for piece in pieces(self.source.manifest) {
            let first = piece.first.0.max(next);
            let behind = piece.first.0.saturating_add(piece.frames).min(end);
            for frame in first..behind {
                if let Some(found) = self.memory.frame(machine, Gfn(frame))
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
fn page_bytes(image: &[u8], piece: Piece, frame: u64) -> Option<&[u8]> {
    let start = frame.checked_sub(piece.first.0)?.checked_mul(PAGE_SIZE)?;
    let length = piece.bytes.checked_sub(start)?.min(PAGE_SIZE);
    let from = piece.image_offset.checked_add(start)?;
    image.get(index(from)..index(from.checked_add(length)?))
}
