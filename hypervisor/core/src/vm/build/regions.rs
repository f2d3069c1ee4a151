//! What is mapped when a VM starts.

use protocol::call::Map;
use protocol::flags::MapFlags;
use protocol::layout::{
    CHANNEL_FRAME_STRIDE, CHANNEL_FRAMES, CHANNEL_STRIDE, CHANNELS, FIRST_STACK_PAGES, FIRST_STACK_TOP,
    LARGE_PAGE_FRAMES, PAGE_SIZE, PHYSMAP, START_INFO, TIME_PAGE, TIME_PAGE_FRAME, VCPU_PAGES,
};
use protocol::{Gfn, GuestVirt, SpaceId, Status};

use super::super::error::Problem;
use super::super::plan::pieces;
use super::{Builder, Next, Stage};
use crate::addr::convert::wide;
use crate::space::{Machine, TableMemory};

/// Consecutive pages that are mapped at the start: address, first frame, how many. With the flag for
/// large pages these are used as far as possible.
type MappedRegion = (GuestVirt, Gfn, u64, MapFlags);

impl Builder<'_> {
    /// Maps up to 512 pages of a region.
    ///
    /// # Errors
    /// [`Builder::pool_too_small`], or that a page could not be mapped although the manifest was
    /// checked.
    pub(super) fn map(&mut self, machine: Machine<'_, impl TableMemory>, number: usize, done: u64) -> Next {
        let Some((address, frame, pages, mut flags)) = self.regions().nth(number) else {
            return Ok(Stage::Inform);
        };
        let left = pages.saturating_sub(done);
        if left == 0 {
            return Ok(Stage::Map(number.saturating_add(1), 0));
        }
        if left < LARGE_PAGE_FRAMES {
            flags.remove(MapFlags::LARGE);
        }
        let part = left.min(LARGE_PAGE_FRAMES);
        let address = GuestVirt(address.0.saturating_add(done.saturating_mul(PAGE_SIZE)));
        let frame = Gfn(frame.0.saturating_add(done));
        let count = if flags.contains(MapFlags::LARGE) { 1 } else { part };
        let covered = self.memory.map(machine, Map { space: SpaceId::FIRST, address, frame, count, flags });
        let stopped = match covered {
            Ok(covered) => {
                // Nobody has run in the space, so no CPU can hold a translation of it.
                self.memory.settle(machine, covered.flush, |_| {});
                covered.stopped
            }
            Err(status) => Some(status),
        };
        match stopped {
            None => Ok(Stage::Map(number, done.saturating_add(part))),
            Some(Status::QuotaExceeded) => Err(self.pool_too_small()),
            Some(status) => {
                let numbers = [address.0, status.number()];
                Err(Problem::new("the page at @ could not be mapped: status #", &numbers))
            }
        }
    }

    /// What is mapped at the start.
    fn regions(&self) -> impl Iterator<Item = MappedRegion> {
        let (manifest, plan) = (self.source.manifest, self.plan);
        let segments = manifest.segments.iter().zip(pieces(manifest));
        let segments =
            segments.map(|(segment, piece)| (GuestVirt(segment.address), piece.first, piece.frames, segment.flags));
        let stack = GuestVirt(FIRST_STACK_TOP.0.wrapping_sub(FIRST_STACK_PAGES.wrapping_mul(PAGE_SIZE)));
        let (read, write) = (MapFlags::empty(), MapFlags::WRITE);
        let fixed = [
            (stack, plan.stack, FIRST_STACK_PAGES, write),
            (START_INFO, plan.start_info, 1, read),
            (VCPU_PAGES, plan.vcpu_pages, manifest.vcpus.into(), write),
            (TIME_PAGE, TIME_PAGE_FRAME, 1, read),
            (PHYSMAP, Gfn(0), manifest.memory_frames, write | MapFlags::LARGE),
        ];
        let channels = self.source.channels.iter().enumerate().map(move |(channel, end)| {
            let (address, frame) = channel_place(channel);
            (address, frame, end.region.frames, write)
        });
        segments.chain(fixed).chain(channels)
    }
}

/// Where a channel is mapped at the start, and its first frame number.
pub(super) fn channel_place(channel: usize) -> (GuestVirt, Gfn) {
    let address = wide(channel).wrapping_mul(CHANNEL_STRIDE);
    let frame = wide(channel).wrapping_mul(CHANNEL_FRAME_STRIDE);
    (GuestVirt(CHANNELS.0.wrapping_add(address)), Gfn(CHANNEL_FRAMES.0.wrapping_add(frame)))
}
