//! What is mapped when a VM starts.

use protocol::call::Map;
use protocol::flags::MapFlags;
use protocol::layout::{
    CHANNEL_FRAME_STRIDE, CHANNEL_FRAMES, CHANNEL_STRIDE, CHANNELS, FIRST_STACK_PAGES, FIRST_STACK_TOP,
    LARGE_PAGE_FRAMES, PAGE_SIZE, PHYSMAP, START_INFO, TIME_PAGE, TIME_PAGE_FRAME, VCPU_PAGES,
};
use protocol::{Gfn, GuestVirt, SpaceId, Status};

use super::super::error::BuildError;
use super::super::plan::pieces;
use super::{Builder, Stage};
use crate::addr::convert::wide;
use crate::space::{Machine, TableMemory};

/// Pages that are mapped at the start.
#[derive(Debug, Clone, Copy)]
struct MappedRegion {
    address: GuestVirt,
    frame: Gfn,
    pages: u64,
    flags: MapFlags,
    is_physmap: bool,
}

impl Builder<'_> {
    /// Maps up to 512 pages of a region.
    ///
    /// # Errors
    /// [`BuildError::PoolTooSmall`], or [`BuildError::NotMapped`].
    pub(super) fn map<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        number: usize,
        done: u64,
    ) -> Result<Stage, BuildError> {
        let Some(region) = self.region(number) else {
            return Ok(Stage::Inform);
        };
        let left = region.pages.saturating_sub(done);
        if left == 0 {
            return Ok(Stage::Map(number.saturating_add(1), 0));
        }
        let address = GuestVirt(region.address.0.saturating_add(done.saturating_mul(PAGE_SIZE)));
        let is_large = region.is_physmap && left >= LARGE_PAGE_FRAMES;
        let (count, flags) = if is_large {
            (1, region.flags.union(MapFlags::LARGE))
        } else {
            (left.min(LARGE_PAGE_FRAMES), region.flags)
        };
        let call =
            Map { space: SpaceId::FIRST, address, frame: Gfn(region.frame.0.saturating_add(done)), count, flags };
        let too_small = self.pool_too_small();
        let failed = |status| {
            if status == Status::QuotaExceeded {
                return too_small;
            }
            BuildError::NotMapped { address: address.0, status }
        };
        let covered = match self.memory.map(machine, call) {
            Ok(covered) => covered,
            Err(status) => return Err(failed(status)),
        };
        // Nobody has run in the space, so no CPU can hold a translation of it.
        self.memory.settle(machine, covered.flush, |_| {});
        if let Some(status) = covered.stopped {
            return Err(failed(status));
        }
        let mapped = if is_large { LARGE_PAGE_FRAMES } else { count };
        Ok(Stage::Map(number, done.saturating_add(mapped)))
    }

    /// The regions that are mapped at the start, by number.
    fn region(&self, number: usize) -> Option<MappedRegion> {
        let segments = &self.source.manifest.segments;
        if let Some(segment) = segments.get(number) {
            return pieces(self.source.manifest).nth(number).map(|piece| MappedRegion {
                address: GuestVirt(segment.address),
                frame: piece.first,
                pages: piece.frames,
                flags: segment.flags,
                is_physmap: false,
            });
        }
        let fixed =
            |address, frame, pages, flags| Some(MappedRegion { address, frame, pages, flags, is_physmap: false });
        let stack = FIRST_STACK_PAGES.wrapping_mul(PAGE_SIZE);
        let stack = GuestVirt(FIRST_STACK_TOP.0.wrapping_sub(stack));
        let (read, write) = (MapFlags::empty(), MapFlags::WRITE);
        match number.wrapping_sub(segments.len()) {
            0 => fixed(stack, self.plan.stack, FIRST_STACK_PAGES, write),
            1 => fixed(START_INFO, self.plan.start_info, 1, read),
            2 => {
                let vcpus = self.source.manifest.vcpus.into();
                fixed(VCPU_PAGES, self.plan.vcpu_pages, vcpus, write)
            }
            3 => fixed(TIME_PAGE, TIME_PAGE_FRAME, 1, read),
            4 => Some(MappedRegion {
                address: PHYSMAP,
                frame: Gfn(0),
                pages: self.memory.memory_frames(),
                flags: write,
                is_physmap: true,
            }),
            behind => {
                let channel = behind.wrapping_sub(5);
                let end = self.source.channels.get(channel)?;
                let (address, frame) = channel_place(channel);
                fixed(address, frame, end.region.frames, write)
            }
        }
    }
}

/// Where a channel is mapped at the start, and its first frame number.
pub(super) fn channel_place(channel: usize) -> (GuestVirt, Gfn) {
    let address = wide(channel).wrapping_mul(CHANNEL_STRIDE);
    let frame = wide(channel).wrapping_mul(CHANNEL_FRAME_STRIDE);
    (GuestVirt(CHANNELS.0.wrapping_add(address)), Gfn(CHANNEL_FRAMES.0.wrapping_add(frame)))
}
