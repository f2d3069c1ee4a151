//! Frames: released and reclaimed.

use functional_support::probe::{self, Access};
use guest_sdk::protocol::call::{FrameReclaim, FrameRelease, GrantCreate, SpaceSwitch};
use guest_sdk::protocol::flags::{GrantFlags, InfoTopic, MapFlags};
use guest_sdk::protocol::layout::{CHANNEL_FRAMES, PAGE_SIZE, TIME_PAGE_FRAME, limit};
use guest_sdk::{Gfn, StartInfo, Status, call};

use super::mapping::PAGE;
use crate::case::Outcome;
use crate::scene::{self, Fresh, Hidden};
use crate::{ensure_eq, record};

crate::cases! {
    FrameRelease "up to a frame that is refused" ["FRM-1"] [InvalidArgument TooLong] release_stops;
    FrameRelease "frames that are in use" ["FRM-2"] [Busy] release_in_use;
    FrameReclaim "frames that were released" ["FRM-3"] [TooLong InvalidArgument] reclaim_zeroed;
    FrameReclaim "frames that were not released" ["FRM-4"] [AlreadyMapped] reclaim_twice;
    FrameReclaim "with an empty pool" [] [QuotaExceeded] reclaim_from_nothing;
}

fn release(frame: u64, count: u64) -> Result<u64, Status> {
    record::make(FrameRelease { frame: Gfn(frame), count })
}

fn reclaim(frame: u64, count: u64) -> Result<u64, Status> {
    record::make(FrameReclaim { frame: Gfn(frame), count })
}

fn release_stops() -> Outcome {
    let hidden = Hidden::new()?;
    let first = hidden.first().0;
    let free = call::info(InfoTopic::PoolFrames)?;
    ensure_eq!(release(first, limit::RELEASE_FRAMES), Ok(limit::RELEASE_FRAMES), "the greatest number");
    ensure_eq!(call::info(InfoTopic::PoolFrames)?, free + limit::RELEASE_FRAMES, "frames of the pool");
    let again = FrameRelease { frame: Gfn(first), count: 1 };
    scene::refuse(again, Status::InvalidArgument)?;
    let space = Fresh::new()?;
    space.map(PAGE, Gfn(first + 70), 1, MapFlags::empty())?;
    ensure_eq!(release(first + 64, 64), Ok(6), "frames up to one that is mapped");
    ensure_eq!(release(first, 0), Ok(0), "nothing");
    let refused = [(first + 100, 65, Status::TooLong), (first + 100, u64::MAX, Status::TooLong)];
    let frames = StartInfo::of_this_vm().memory_frames;
    let none = [frames, TIME_PAGE_FRAME.0, CHANNEL_FRAMES.0, 1 << 62, u64::MAX];
    for (frame, count, status) in none.map(|frame| (frame, 1, Status::InvalidArgument)).into_iter().chain(refused) {
        scene::refuse(FrameRelease { frame: Gfn(frame), count }, status)?;
    }
    Ok(())
}

fn release_in_use() -> Outcome {
    let hidden = Hidden::new()?;
    let frame = hidden.first();
    let busy = || scene::refuse(FrameRelease { frame, count: 1 }, Status::Busy);
    let space = Fresh::new()?;
    space.map(PAGE, frame, 1, MapFlags::empty())?;
    busy()?;
    space.unmap(PAGE, 1)?;
    space.map(0x4000_0000, frame, 1, MapFlags::LARGE)?;
    busy()?;
    space.unmap(0x4000_0000, 512)?;
    let peer = scene::helper("servant")?.peer;
    let grant = record::make(GrantCreate { peer, frame, flags: GrantFlags::empty() })?;
    let granted = busy();
    call::grant_revoke(grant)?;
    granted?;
    // The stack that this runs on, in the physmap and in its own place.
    let local = 0_u8;
    let address = guest_sdk::GuestVirt((&raw const local).addr() as u64);
    let stack = call::translate(guest_sdk::SpaceId::FIRST, address)?.0;
    scene::refuse(FrameRelease { frame: Gfn(stack), count: 1 }, Status::Busy)?;
    ensure_eq!(release(frame.0, 1), Ok(1), "a frame that is in use no more");
    Ok(())
}

fn reclaim_zeroed() -> Outcome {
    probe::install()?;
    let hidden = Hidden::new()?;
    let first = hidden.first().0;
    let space = Fresh::new()?;
    record::make(SpaceSwitch { space: space.0 })?;
    let each = |page: u64| PAGE + page * PAGE_SIZE;
    space.map(PAGE, Gfn(first), 8, MapFlags::WRITE)?;
    for page in 0..8 {
        ensure_eq!(probe::write(each(page) + 8, 0xdead), Access::Done(0), "a write");
    }
    space.unmap(PAGE, 8)?;
    ensure_eq!(release(first, 8), Ok(8), "release");
    ensure_eq!(reclaim(first, 5), Ok(5), "reclaim some");
    ensure_eq!(reclaim(first + 5, 64), Ok(3), "reclaim up to one that was not released");
    space.map(PAGE, Gfn(first), 8, MapFlags::WRITE)?;
    for page in 0..8 {
        ensure_eq!(probe::read(each(page) + 8), Access::Done(0), "a word of a reclaimed frame");
    }
    scene::refuse(FrameReclaim { frame: Gfn(first), count: 65 }, Status::TooLong)?;
    let frames = StartInfo::of_this_vm().memory_frames;
    scene::refuse(FrameReclaim { frame: Gfn(frames), count: 1 }, Status::InvalidArgument)
}

fn reclaim_twice() -> Outcome {
    let hidden = Hidden::new()?;
    let first = hidden.first().0;
    scene::refuse(FrameReclaim { frame: Gfn(first), count: 1 }, Status::AlreadyMapped)?;
    release(first, 2)?;
    ensure_eq!(reclaim(first, 1), Ok(1), "reclaim");
    scene::refuse(FrameReclaim { frame: Gfn(first), count: 2 }, Status::AlreadyMapped)?;
    ensure_eq!(reclaim(first + 1, 1), Ok(1), "reclaim the other");
    Ok(())
}

fn reclaim_from_nothing() -> Outcome {
    let hidden = Hidden::new()?;
    ensure_eq!(release(hidden.first().0, 1), Ok(1), "release");
    let space = Fresh::new()?;
    space.drain_pool()?;
    scene::refuse(FrameReclaim { frame: hidden.first(), count: 1 }, Status::QuotaExceeded)
}
