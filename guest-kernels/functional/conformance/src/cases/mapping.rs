//! Pages: mapped, unmapped, protected, translated.

use core::sync::atomic::{AtomicU32, Ordering};

use functional_support::probe::{self, Access};
use guest_sdk::frame::{Frame, FrameRun};
use guest_sdk::protocol::call::{FrameReclaim, FrameRelease, Map, Pair, Protect, Translate, Unmap};
use guest_sdk::protocol::flags::{InfoTopic, MapFlags};
use guest_sdk::protocol::layout::{CHANNEL_FRAME_STRIDE, CHANNEL_FRAMES, PAGE_SIZE, PHYSMAP, TIME_PAGE_FRAME};
use guest_sdk::space::Space;
use guest_sdk::{Gfn, GuestVirt, SpaceId, StartInfo, Status, call};

use super::grants::Mapped;
use crate::case::{Fault, Outcome};
use crate::scene::{self, Fresh, Hidden};
use crate::{board, ensure, ensure_eq, record};

crate::cases! {
    Map "up to a page that is refused" ["MAP-1" "MAP-2"] [AlreadyMapped] map_stops;
    Map "frames that are not there" ["MAP-3"] [InvalidArgument] no_frame;
    Map "nothing" ["MAP-4"] [] map_nothing;
    Map "time page and channel frames" ["MAP-5"] [NotPermitted InvalidArgument] special_frames;
    Map "large pages" ["MAP-6"] [Misaligned AlreadyMapped InvalidArgument TooLong] large_pages;
    Map "with an empty pool" [] [QuotaExceeded] empty_pool;
    Unmap "up to a page that is not mapped" ["MAP-7"] [NotMapped Misaligned] unmap_stops;
    Unmap "out of reach of every CPU" ["MAP-8"] [] unmap_everywhere;
    Unmap "a page of a grant" ["MAP-9"] [Busy] unmap_grant;
    Protect "up to a page that is refused" ["MAP-10"] [NotMapped InvalidArgument Misaligned] protect_stops;
    Protect "the time page" ["MAP-10"] [NotPermitted] protect_time_page;
    Protect "a page of a grant" [] [Busy] protect_grant;
    Protect "for every CPU" ["MAP-11"] [] protect_everywhere;
    Translate "what a page shows" ["MAP-14"] [NotMapped] translate_pages;
    Translate "a page of a grant" ["MAP-15"] [] translate_grant;
}

/// A page of the lower half for anything.
pub const PAGE: u64 = 0x1234_5000;
/// Error code of an access to nothing: kernel code runs in ring 3.
pub const MISSING: u64 = 4;
/// Error code of a write to a page for reading.
const NOT_WRITABLE: u64 = 4 | 2 | 1;

/// A frame of the case's own.
pub fn frame() -> Result<Frame, Fault> {
    Frame::new().ok_or_else(|| Fault("no frame is free".into()))
}

fn run(count: u64) -> Result<FrameRun, Fault> {
    FrameRun::new(count, 1).ok_or_else(|| Fault("the suite has too little memory".into()))
}

fn at(page: u64) -> u64 {
    PAGE + page * PAGE_SIZE
}

fn protect(space: &Fresh, address: u64, count: u64, flags: MapFlags) -> Result<u64, Status> {
    record::make(Protect { space: space.0, address: GuestVirt(address), count, flags })
}

fn translate(space: SpaceId, address: u64) -> Result<(u64, MapFlags), Status> {
    let Pair(number, flags) = record::make(Translate { space, address: GuestVirt(address) })?;
    Ok((number, MapFlags::from_bits_retain(flags)))
}

fn map_stops() -> Outcome {
    let run = run(600)?;
    let space = Fresh::new()?;
    let map =
        |page: u64, frame: u64, count: u64| space.map(at(page), Gfn(run.first().0 + frame), count, MapFlags::WRITE);
    ensure_eq!(map(100, 7, 1), Ok(1), "a page in the way");
    ensure_eq!(map(0, 0, 512), Ok(100), "pages up to it");
    ensure_eq!(translate(space.0, at(100)), Ok((run.first().0 + 7, MapFlags::WRITE)), "the page in the way");
    ensure_eq!(map(0, 0, 512), Err(Status::AlreadyMapped), "pages of which the first is mapped");
    ensure_eq!(map(100, 0, 512), Err(Status::AlreadyMapped), "pages of which the first is in the way");
    ensure_eq!(map(101, 0, 512), Ok(512), "the greatest number");
    let frames = StartInfo::of_this_vm().memory_frames;
    let last = Gfn(frames - 3);
    ensure_eq!(space.map(at(2000), last, 512, MapFlags::empty()), Ok(3), "frames up to the last");
    ensure_eq!(map(700, 0, 0), Ok(0), "nothing");
    Ok(())
}

fn no_frame() -> Outcome {
    let frames = StartInfo::of_this_vm().memory_frames;
    let space = Fresh::new()?;
    let refuse = |frame| {
        let map = Map { space: space.0, address: GuestVirt(PAGE), frame, count: 1, flags: MapFlags::empty() };
        scene::refuse(map, Status::InvalidArgument)
    };
    let none = CHANNEL_FRAMES.0 + 7 * CHANNEL_FRAME_STRIDE;
    for frame in [frames, frames + 1, (1 << 32) - 1, (1 << 32) + 1, none, 1 << 52, 1 << 62, 1 << 63, u64::MAX] {
        refuse(Gfn(frame))?;
    }
    let hidden = Hidden::new()?;
    record::make(FrameRelease { frame: hidden.first(), count: 1 })?;
    refuse(hidden.first())
}

fn map_nothing() -> Outcome {
    let free = call::info(InfoTopic::PoolFrames)?;
    let frame = frame()?;
    for flags in [MapFlags::empty(), MapFlags::WRITE, MapFlags::LARGE] {
        ensure_eq!(Fresh::new()?.map(0x4000_0000, frame.number(), 0, flags), Ok(0), "pages mapped");
    }
    ensure_eq!(call::info(InfoTopic::PoolFrames)?, free, "frames of the pool");
    Ok(())
}

fn special_frames() -> Outcome {
    probe::install()?;
    let board = scene::helper("servant")?;
    let space = Fresh::new()?;
    let map = |page, frame, flags| space.map(at(page), frame, 1, flags);
    ensure_eq!(map(0, TIME_PAGE_FRAME, MapFlags::WRITE), Err(Status::NotPermitted), "the time page, to write");
    ensure_eq!(map(0, TIME_PAGE_FRAME, MapFlags::empty()), Ok(1), "the time page, to read");
    let channel = Gfn(CHANNEL_FRAMES.0 + board.channel * CHANNEL_FRAME_STRIDE);
    ensure_eq!(map(1, channel, MapFlags::WRITE), Ok(1), "a channel's frame");
    let behind = StartInfo::of_this_vm().channels().get(board.channel as usize).map_or(0, |info| info.frames);
    ensure_eq!(map(2, Gfn(channel.0 + behind), MapFlags::empty()), Err(Status::InvalidArgument), "the frame behind it");
    record::make(guest_sdk::protocol::call::SpaceSwitch { space: space.0 })?;
    let multiplier = probe::read(at(0) + 16);
    ensure!(matches!(multiplier, Access::Done(value) if value > 0), "the time page reads {multiplier:?}");
    ensure_eq!(probe::write(at(0), 0), Access::Fault(NOT_WRITABLE), "a write to the time page");
    board.set_note(100, 0x1234);
    // Notes start at word 16.
    let word = at(1) + (16 + 100) * 4;
    ensure!(matches!(probe::read(word), Access::Done(value) if value as u32 == 0x1234), "the channel's word");
    Ok(())
}

const LARGE: u64 = 0x4000_0000;

fn large_pages() -> Outcome {
    probe::install()?;
    let hidden = Hidden::new()?;
    let first = hidden.first();
    let space = Fresh::new()?;
    let flags = MapFlags::WRITE | MapFlags::LARGE;
    let map = |address, frame, count| space.map(address, Gfn(frame), count, flags);
    ensure_eq!(map(LARGE + PAGE_SIZE, first.0, 1), Err(Status::Misaligned), "an address between large pages");
    ensure_eq!(map(LARGE, first.0 + 1, 1), Err(Status::Misaligned), "a frame between large pages");
    ensure_eq!(map(LARGE, first.0, 2), Err(Status::TooLong), "two large pages");
    ensure_eq!(map(LARGE, TIME_PAGE_FRAME.0, 1), Err(Status::InvalidArgument), "a frame that is no memory");
    ensure_eq!(map(LARGE, first.0, 1), Ok(1), "a large page");
    ensure_eq!(map(LARGE, first.0, 1), Err(Status::AlreadyMapped), "the same again");
    record::make(guest_sdk::protocol::call::SpaceSwitch { space: space.0 })?;
    ensure_eq!(probe::write(LARGE + 0x1f_f008, 0xcafe), Access::Done(0), "a write to its last page");
    ensure_eq!(probe::read(LARGE + 0x1f_f008), Access::Done(0xcafe), "a read of its last page");
    ensure_eq!(translate(space.0, LARGE + 0x3000), Ok((first.0 + 3, flags)), "translation within it");
    ensure_eq!(space.unmap(LARGE, 512), Ok(512), "unmap");
    ensure_eq!(probe::read(LARGE), Access::Fault(MISSING), "a read afterwards");
    // The pool gives what it got last first: two frames change places.
    for frame in [1, 2] {
        ensure_eq!(record::make(FrameRelease { frame: Gfn(first.0 + frame), count: 1 }), Ok(1), "release");
    }
    ensure_eq!(map(LARGE, first.0, 1), Err(Status::InvalidArgument), "released frames among them");
    for frame in [1, 2] {
        ensure_eq!(record::make(FrameReclaim { frame: Gfn(first.0 + frame), count: 1 }), Ok(1), "reclaim");
    }
    let again = map(LARGE, first.0, 1);
    let lie_together = again == Ok(1);
    ensure!(lie_together || again == Err(Status::InvalidArgument), "frames from the pool: {again:?}");
    ensure!(!lie_together || probe::read(LARGE + PAGE_SIZE) == Access::Done(0), "another frame than the reclaimed one");
    Ok(())
}

fn empty_pool() -> Outcome {
    let space = Fresh::new()?;
    space.drain_pool()?;
    let frame = frame()?;
    let (address, flags) = (GuestVirt(0x7000_0000_0000), MapFlags::empty());
    scene::refuse(Map { space: space.0, address, frame: frame.number(), count: 1, flags }, Status::QuotaExceeded)
}

fn unmap_stops() -> Outcome {
    let run = run(100)?;
    let space = Fresh::new()?;
    space.map(at(0), run.first(), 60, MapFlags::empty())?;
    space.map(at(70), run.first(), 30, MapFlags::empty())?;
    ensure_eq!(space.unmap(at(10), 20), Ok(20), "pages in the middle");
    ensure_eq!(space.unmap(at(0), 512), Ok(10), "pages up to the hole");
    ensure_eq!(space.unmap(at(0), 512), Err(Status::NotMapped), "the same again");
    ensure_eq!(translate(space.0, at(30)), Ok((run.first().0 + 30, MapFlags::empty())), "a page behind the hole");
    ensure_eq!(space.unmap(at(30), 512), Ok(30), "pages behind the hole");
    ensure_eq!(space.unmap(at(70), 0), Ok(0), "nothing");
    let hidden = Hidden::new()?;
    space.map(LARGE, hidden.first(), 1, MapFlags::LARGE)?;
    let part = Unmap { space: space.0, address: GuestVirt(LARGE), count: 511 };
    scene::refuse(part, Status::Misaligned)?;
    ensure_eq!(space.unmap(LARGE, 512), Ok(512), "a large page");
    Ok(())
}

/// 0: the page is as it was. 1: the call that takes something away has returned. 2: end.
static PHASE: AtomicU32 = AtomicU32::new(0);
static USES: AtomicU32 = AtomicU32::new(0);
static LATE: AtomicU32 = AtomicU32::new(0);

/// The second vCPU uses a page without a pause while a right is taken away; it must never succeed once
/// the call has returned.
fn takes_effect_everywhere(space: &Space, uses: fn() -> Access, take: impl FnOnce() -> Outcome) -> Outcome {
    probe::install()?;
    space.make_current()?;
    PHASE.store(0, Ordering::SeqCst);
    USES.store(0, Ordering::SeqCst);
    LATE.store(0, Ordering::SeqCst);
    scene::second(move || {
        while PHASE.load(Ordering::SeqCst) < 2 {
            let phase = PHASE.load(Ordering::SeqCst);
            if matches!(uses(), Access::Done(_)) && phase > 0 {
                LATE.fetch_add(1, Ordering::SeqCst);
            }
            USES.fetch_add(1, Ordering::SeqCst);
        }
    })?;
    let taken = board::wait("the page is not used", || USES.load(Ordering::SeqCst) > 100).and_then(|()| take());
    PHASE.store(1, Ordering::SeqCst);
    let uses = USES.load(Ordering::SeqCst);
    let used = board::wait("the page is not used any more", || USES.load(Ordering::SeqCst) > uses + 100);
    PHASE.store(2, Ordering::SeqCst);
    scene::wait_stopped()?;
    taken.and(used)?;
    ensure_eq!(LATE.load(Ordering::SeqCst), 0, "uses after the call had returned");
    Ok(())
}

fn unmap_everywhere() -> Outcome {
    for _ in 0..5 {
        let mut space = Space::new()?;
        space.map_zeroed(PAGE, 1, MapFlags::WRITE)?;
        let number = space.id();
        takes_effect_everywhere(
            &space,
            || probe::read(PAGE),
            || {
                let unmap = Unmap { space: number, address: GuestVirt(PAGE), count: 1 };
                ensure_eq!(record::make(unmap), Ok(1), "unmap");
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn protect_everywhere() -> Outcome {
    for _ in 0..5 {
        let mut space = Space::new()?;
        space.map_zeroed(PAGE, 1, MapFlags::WRITE)?;
        let number = space.id();
        takes_effect_everywhere(
            &space,
            || probe::write(PAGE, 1),
            || {
                let flags = MapFlags::empty();
                let protect = Protect { space: number, address: GuestVirt(PAGE), count: 1, flags };
                ensure_eq!(record::make(protect), Ok(1), "protect");
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn unmap_grant() -> Outcome {
    let mapped = Mapped::new(PAGE, MapFlags::empty())?;
    scene::refuse(Unmap { space: mapped.space(), address: GuestVirt(PAGE), count: 1 }, Status::Busy)?;
    let run = run(3)?;
    mapped.map(at(1), run.first(), 3, MapFlags::empty())?;
    ensure_eq!(mapped.unmap(at(1), 3), Ok(3), "pages beside it");
    mapped.end()
}

fn protect_grant() -> Outcome {
    let mapped = Mapped::new(PAGE, MapFlags::empty())?;
    for flags in [MapFlags::empty(), MapFlags::WRITE] {
        let protect = Protect { space: mapped.space(), address: GuestVirt(PAGE), count: 1, flags };
        scene::refuse(protect, Status::Busy)?;
    }
    mapped.end()
}

fn protect_stops() -> Outcome {
    probe::install()?;
    let run = run(100)?;
    let space = Fresh::new()?;
    space.map(at(0), run.first(), 50, MapFlags::WRITE)?;
    ensure_eq!(protect(&space, at(0), 512, MapFlags::empty()), Ok(50), "pages up to the end");
    ensure_eq!(protect(&space, at(50), 1, MapFlags::empty()), Err(Status::NotMapped), "the page behind");
    ensure_eq!(protect(&space, at(0), 1, MapFlags::LARGE), Err(Status::InvalidArgument), "small pages as a large one");
    ensure_eq!(protect(&space, at(49), 1, MapFlags::WRITE), Ok(1), "the last page");
    record::make(guest_sdk::protocol::call::SpaceSwitch { space: space.0 })?;
    ensure_eq!(probe::write(at(48), 1), Access::Fault(NOT_WRITABLE), "a write to the page before it");
    ensure_eq!(probe::write(at(49), 1), Access::Done(0), "a write to the last page");
    let hidden = Hidden::new()?;
    space.map(LARGE, hidden.first(), 1, MapFlags::LARGE)?;
    ensure_eq!(
        protect(&space, LARGE, 512, MapFlags::WRITE),
        Err(Status::InvalidArgument),
        "a large page as small ones"
    );
    let flags = MapFlags::LARGE;
    let part = Protect { space: space.0, address: GuestVirt(LARGE + PAGE_SIZE), count: 511, flags };
    scene::refuse(part, Status::Misaligned)?;
    ensure_eq!(protect(&space, LARGE, 512, flags | MapFlags::WRITE), Ok(512), "a large page");
    ensure_eq!(probe::write(LARGE + 0x1f_f000, 1), Access::Done(0), "a write to it");
    Ok(())
}

fn protect_time_page() -> Outcome {
    let run = run(2)?;
    let space = Fresh::new()?;
    space.map(at(0), run.first(), 2, MapFlags::empty())?;
    space.map(at(2), TIME_PAGE_FRAME, 1, MapFlags::empty())?;
    ensure_eq!(protect(&space, at(0), 3, MapFlags::WRITE), Ok(2), "pages up to the time page");
    ensure_eq!(protect(&space, at(2), 1, MapFlags::empty()), Ok(1), "the time page, to read");
    let write = Protect { space: space.0, address: GuestVirt(at(2)), count: 1, flags: MapFlags::WRITE };
    scene::refuse(write, Status::NotPermitted)
}

fn translate_pages() -> Outcome {
    let frame = frame()?;
    let space = Fresh::new()?;
    for flags in [MapFlags::empty(), MapFlags::WRITE, MapFlags::EXECUTE, MapFlags::WRITE | MapFlags::EXECUTE] {
        space.map(PAGE, frame.number(), 1, flags)?;
        for offset in [0, 1, 4095] {
            ensure_eq!(translate(space.0, PAGE + offset), Ok((frame.number().0, flags)), "page of {flags:?}");
        }
        space.unmap(PAGE, 1)?;
        ensure_eq!(translate(space.0, PAGE), Err(Status::NotMapped), "a page that is unmapped");
    }
    space.map(PAGE, TIME_PAGE_FRAME, 1, MapFlags::empty())?;
    ensure_eq!(translate(space.0, PAGE), Ok((TIME_PAGE_FRAME.0, MapFlags::empty())), "the time page");
    let (number, flags) = translate(SpaceId::FIRST, PHYSMAP.0 + 5 * PAGE_SIZE)?;
    ensure_eq!((number, flags - MapFlags::LARGE), (5, MapFlags::WRITE), "a page of the physmap");
    Ok(())
}

fn translate_grant() -> Outcome {
    let mapped = Mapped::new(PAGE, MapFlags::empty())?;
    let (number, flags) = translate(mapped.space(), PAGE)?;
    ensure_eq!(number, 1 << 62 | u64::from(mapped.grant().0 & 0xff), "its number");
    ensure_eq!(flags, MapFlags::empty(), "its flags");
    mapped.end()
}
