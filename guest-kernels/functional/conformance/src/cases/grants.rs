//! Frames shared with another VM: the servant grants and uses as it is asked to.

use core::ops::Deref;

use functional_support::probe::{self, Access};
use guest_sdk::frame::Frame;
use guest_sdk::protocol::call::{FrameRelease, GrantCopy, GrantCreate, GrantMap, GrantRevoke, GrantUnmap, SpaceSwitch};
use guest_sdk::protocol::flags::{CopyDirection, GrantFlags, MapFlags};
use guest_sdk::protocol::layout::{CHANNEL_FRAMES, HYPERVISOR_START, PAGE_SIZE, TIME_PAGE_FRAME, limit};
use guest_sdk::{Gfn, GrantRef, GuestVirt, SpaceId, StartInfo, Status, VmId};

use super::mapping::{MISSING, PAGE, frame};
use crate::board::Board;
use crate::case::{Fault, Outcome};
use crate::parts::{OUTSIDER, servant};
use crate::scene::{self, Fresh, Hidden};
use crate::{ensure, ensure_eq, record};

crate::cases! {
    GrantCreate "keeps the frame" ["GRT-1"] [] keeps_frame;
    GrantCreate "to nobody it may" ["GRT-2"] [NotPermitted] to_nobody;
    GrantCreate "of what is not its own" ["GRT-3"] [InvalidArgument] not_own;
    GrantCreate "as many as there may be" [] [QuotaExceeded] too_many;
    GrantRevoke "out of the peer's reach" ["GRT-4"] [NotFound] revoke;
    GrantMap "in one place only" ["GRT-5"] [Busy] one_place;
    GrantMap "to write" ["GRT-6"] [NotPermitted] map_to_write;
    GrantMap "a grant for somebody else" ["GRT-7"] [NotPermitted] not_for_us;
    GrantMap "places that it refuses" [] [NotFound BadAddress InvalidArgument Misaligned AlreadyMapped] bad_places;
    GrantMap "with an empty pool" [] [QuotaExceeded] empty_pool;
    GrantUnmap "what is not mapped" ["GRT-8"] [NotPermitted] unmap;
    GrantCopy "both ways" ["GRT-9"] [NotPermitted] copy;
    GrantCopy "buffers and ranges" ["GRT-10"] [BadAddress InvalidArgument] copy_ranges;
}

/// A grant of the servant's, revoked by [`Granted::end`] or with the value.
#[derive(Debug)]
struct Granted {
    board: Board,
    grant: GrantRef,
}

impl Granted {
    fn new(flags: GrantFlags) -> Result<Granted, Fault> {
        let board = scene::helper("servant")?;
        let writable = u32::from(flags.contains(GrantFlags::WRITE));
        let grant = GrantRef(board.ask(servant::GRANT, &[StartInfo::of_this_vm().vm, writable])??);
        Ok(Granted { board, grant })
    }

    fn owner(&self) -> VmId {
        self.board.peer
    }

    fn map(&self, space: SpaceId, address: u64, flags: MapFlags) -> GrantMap {
        GrantMap { owner: self.owner(), grant: self.grant, space, address: GuestVirt(address), flags }
    }

    fn unmap(&self) -> GrantUnmap {
        GrantUnmap { owner: self.owner(), grant: self.grant }
    }

    fn copy(&self, offset: u64, buffer: u64, length: u64, direction: CopyDirection) -> GrantCopy {
        let buffer = GuestVirt(buffer);
        GrantCopy { owner: self.owner(), grant: self.grant, offset, buffer, length, direction }
    }

    /// The servant's own view of a word.
    fn word(&self, offset: u32) -> Result<u32, Fault> {
        Ok(self.board.ask(servant::READ_OWN, &[self.grant.0, offset])??)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let _ = self.board.ask(servant::REVOKE, &[self.grant.0]);
    }
}

/// A space of the case's own with a grant of the servant's mapped in it.
#[derive(Debug)]
pub struct Mapped {
    granted: Granted,
    space: Fresh,
}

impl Mapped {
    /// Maps a grant for reading at a page.
    pub fn new(page: u64, flags: MapFlags) -> Result<Mapped, Fault> {
        let granted = Granted::new(GrantFlags::empty())?;
        let space = Fresh::new()?;
        record::make(granted.map(space.0, page, flags))?;
        Ok(Mapped { granted, space })
    }

    /// The space.
    pub fn space(&self) -> SpaceId {
        self.space.0
    }

    /// The grant.
    pub fn grant(&self) -> GrantRef {
        self.granted.grant
    }

    /// Takes the page out, without which the space could not go.
    pub fn end(self) -> Outcome {
        Ok(record::make(self.granted.unmap())?)
    }
}

impl Deref for Mapped {
    type Target = Fresh;
    fn deref(&self) -> &Fresh {
        &self.space
    }
}

fn create(peer: VmId, frame: Gfn, flags: GrantFlags) -> Result<GrantRef, Status> {
    record::make(GrantCreate { peer, frame, flags })
}

fn take_back(grant: GrantRef) -> Result<(), Status> {
    record::make(GrantRevoke { grant })
}

fn keeps_frame() -> Outcome {
    let hidden = Hidden::new()?;
    let frame = hidden.first();
    let grant = create(scene::helper("servant")?.peer, frame, GrantFlags::empty())?;
    let refused = scene::refuse(FrameRelease { frame, count: 1 }, Status::Busy);
    take_back(grant)?;
    refused?;
    let released = record::make(FrameRelease { frame, count: 1 });
    ensure_eq!(released, Ok(1), "release after revoke");
    Ok(())
}

fn to_nobody() -> Outcome {
    let frame = frame()?;
    let own = StartInfo::of_this_vm().vm;
    for peer in [own, OUTSIDER, 63, 64, u32::MAX] {
        for flags in [GrantFlags::empty(), GrantFlags::WRITE] {
            scene::refuse(GrantCreate { peer: VmId(peer), frame: frame.number(), flags }, Status::NotPermitted)?;
        }
    }
    Ok(())
}

fn not_own() -> Outcome {
    let peer = scene::helper("servant")?.peer;
    let hidden = Hidden::new()?;
    record::make(FrameRelease { frame: hidden.first(), count: 1 })?;
    let frames = StartInfo::of_this_vm().memory_frames;
    for frame in [frames, TIME_PAGE_FRAME.0, CHANNEL_FRAMES.0, 1 << 52, u64::MAX, hidden.first().0] {
        let create = GrantCreate { peer, frame: Gfn(frame), flags: GrantFlags::empty() };
        scene::refuse(create, Status::InvalidArgument)?;
    }
    Ok(())
}

fn too_many() -> Outcome {
    let peer = scene::helper("servant")?.peer;
    let frame = frame()?;
    let mut grants = alloc::vec::Vec::new();
    let refused = loop {
        match create(peer, frame.number(), GrantFlags::empty()) {
            Ok(grant) => grants.push(grant),
            Err(status) => break status,
        }
    };
    let count = grants.len();
    grants.into_iter().try_for_each(take_back)?;
    ensure_eq!((refused, count), (Status::QuotaExceeded, limit::GRANTS as usize), "grants until none is left");
    Ok(())
}

fn revoke() -> Outcome {
    let board = scene::helper("servant")?;
    let frame = frame()?;
    write(&frame, 0x1357)?;
    let grant = create(board.peer, frame.number(), GrantFlags::WRITE)?;
    let outcome = revoke_used(&board, &frame, grant);
    board.ask(servant::UNMAP, &[])??;
    outcome?;
    scene::refuse(GrantRevoke { grant }, Status::NotFound)?;
    for grant in [0, 255, 256, u32::MAX] {
        scene::refuse(GrantRevoke { grant: GrantRef(grant) }, Status::NotFound)?;
    }
    Ok(())
}

fn write(frame: &Frame, value: u64) -> Outcome {
    ensure!(frame.write(0, &value.to_le_bytes()), "a frame could not be written");
    Ok(())
}

fn revoke_used(board: &Board, frame: &Frame, grant: GrantRef) -> Outcome {
    let mapped = board.ask(servant::MAP, &[grant.0, 1])?;
    let read = board.ask(servant::READ, &[])?;
    let wrote = board.ask(servant::WRITE, &[0x2468])?;
    let copied = board.ask(servant::COPY, &[grant.0])?;
    take_back(grant)?;
    write(frame, 0x9999)?;
    ensure_eq!((mapped, read, wrote, copied), (Ok(0), Ok(0x1357), Ok(0), Ok(0x2468)), "use by the peer");
    ensure_eq!(board.ask(servant::READ, &[])?, Err(Status::BadAddress), "the peer's read afterwards");
    ensure_eq!(board.ask(servant::WRITE, &[1])?, Err(Status::BadAddress), "the peer's write afterwards");
    ensure_eq!(board.ask(servant::COPY, &[grant.0])?, Err(Status::NotPermitted), "the peer's copy afterwards");
    ensure_eq!(board.ask(servant::MAP, &[grant.0, 0])?, Err(Status::NotPermitted), "the peer's map afterwards");
    Ok(())
}

fn one_place() -> Outcome {
    let granted = Granted::new(GrantFlags::empty())?;
    let space = Fresh::new()?;
    probe::install()?;
    record::make(granted.map(space.0, PAGE, MapFlags::empty()))?;
    let refused = scene::refuse(granted.map(space.0, PAGE + PAGE_SIZE, MapFlags::empty()), Status::Busy);
    record::make(SpaceSwitch { space: space.0 })?;
    let read = probe::read(PAGE);
    record::make(granted.unmap())?;
    refused?;
    let word = u64::from(servant::PATTERN) << 32 | u64::from(servant::PATTERN);
    ensure_eq!(read, Access::Done(word), "the granted page");
    ensure_eq!(probe::read(PAGE), Access::Fault(MISSING), "the page after it was taken out");
    record::make(granted.map(space.0, PAGE + PAGE_SIZE, MapFlags::empty()))?;
    Ok(record::make(granted.unmap())?)
}

fn map_to_write() -> Outcome {
    probe::install()?;
    let space = Fresh::new()?;
    let readable = Granted::new(GrantFlags::empty())?;
    scene::refuse(readable.map(space.0, PAGE, MapFlags::WRITE), Status::NotPermitted)?;
    let writable = Granted::new(GrantFlags::WRITE)?;
    record::make(writable.map(space.0, PAGE, MapFlags::WRITE))?;
    record::make(SpaceSwitch { space: space.0 })?;
    let wrote = probe::write(PAGE + 8, 0xabcd);
    record::make(writable.unmap())?;
    record::make(writable.map(space.0, PAGE, MapFlags::empty()))?;
    let refused = probe::write(PAGE + 8, 0xffff);
    record::make(writable.unmap())?;
    ensure_eq!(wrote, Access::Done(0), "a write");
    ensure_eq!(refused, Access::Fault(4 | 2 | 1), "a write to a page that was mapped to read");
    ensure_eq!(writable.word(8)?, 0xabcd, "what the owner finds");
    Ok(())
}

fn not_for_us() -> Outcome {
    let board = scene::helper("servant")?;
    let other = scene::helper("phoenix")?.peer;
    let space = Fresh::new()?;
    let grant = board.ask(servant::GRANT, &[other.0, 0])??;
    let map = |owner: VmId, grant: u32| GrantMap {
        owner,
        grant: GrantRef(grant),
        space: space.0,
        address: GuestVirt(PAGE),
        flags: MapFlags::empty(),
    };
    let refused = [
        (board.peer, grant),
        (board.peer, grant + 1),
        (board.peer, grant + 256),
        (board.peer, u32::MAX),
        (other, 0),
        (VmId(OUTSIDER), 0),
        (VmId(StartInfo::of_this_vm().vm), 0),
        (VmId(63), 0),
        (VmId(u32::MAX), 0),
    ];
    let outcome =
        refused.into_iter().try_for_each(|(owner, grant)| scene::refuse(map(owner, grant), Status::NotPermitted));
    board.ask(servant::REVOKE, &[grant])??;
    outcome
}

fn bad_places() -> Outcome {
    let granted = Granted::new(GrantFlags::empty())?;
    let space = Fresh::new()?;
    let frame = frame()?;
    space.map(PAGE, frame.number(), 1, MapFlags::empty())?;
    let none = MapFlags::empty();
    let refused = [
        (granted.map(SpaceId(62), PAGE, none), Status::NotFound),
        (granted.map(space.0, HYPERVISOR_START, none), Status::BadAddress),
        (granted.map(space.0, 1 << 47, none), Status::BadAddress),
        (granted.map(space.0, PAGE, MapFlags::LARGE), Status::InvalidArgument),
        (granted.map(space.0, PAGE, MapFlags::EXECUTE), Status::InvalidArgument),
        (granted.map(space.0, PAGE + 8, none), Status::Misaligned),
        (granted.map(space.0, PAGE, none), Status::AlreadyMapped),
    ];
    refused.into_iter().try_for_each(|(map, status)| scene::refuse(map, status))?;
    // None of these has used the grant up.
    record::make(granted.map(space.0, PAGE + PAGE_SIZE, none))?;
    Ok(record::make(granted.unmap())?)
}

fn empty_pool() -> Outcome {
    let granted = Granted::new(GrantFlags::empty())?;
    let space = Fresh::new()?;
    space.drain_pool()?;
    scene::refuse(granted.map(space.0, 0x7000_0000_0000, MapFlags::empty()), Status::QuotaExceeded)
}

fn unmap() -> Outcome {
    let granted = Granted::new(GrantFlags::empty())?;
    scene::refuse(granted.unmap(), Status::NotPermitted)?;
    let space = Fresh::new()?;
    record::make(granted.map(space.0, PAGE, MapFlags::empty()))?;
    record::make(granted.unmap())?;
    scene::refuse(granted.unmap(), Status::NotPermitted)?;
    let own = VmId(StartInfo::of_this_vm().vm);
    for owner in [own, VmId(OUTSIDER), VmId(63), VmId(u32::MAX)] {
        scene::refuse(GrantUnmap { owner, grant: granted.grant }, Status::NotPermitted)?;
    }
    Ok(())
}

fn copy() -> Outcome {
    use CopyDirection::{FromGrant, ToGrant};
    let buffer = scene::buffer();
    let word = &scene::words()[0];
    let (readable, writable) = (Granted::new(GrantFlags::empty())?, Granted::new(GrantFlags::WRITE)?);
    record::make(readable.copy(0, buffer, 4, FromGrant))?;
    let read = word.swap(0x7777, core::sync::atomic::Ordering::SeqCst);
    scene::refuse(readable.copy(0, buffer, 4, ToGrant), Status::NotPermitted)?;
    record::make(writable.copy(4092, buffer, 4, ToGrant))?;
    word.store(0, core::sync::atomic::Ordering::SeqCst);
    ensure_eq!(read, u64::from(servant::PATTERN), "what was copied from the grant");
    ensure_eq!(readable.word(0)?, servant::PATTERN, "the frame that is for reading");
    ensure_eq!(writable.word(4092)?, 0x7777, "what was copied to the grant");
    Ok(())
}

fn copy_ranges() -> Outcome {
    use CopyDirection::{FromGrant, ToGrant};
    let granted = Granted::new(GrantFlags::WRITE)?;
    let buffer = scene::buffer();
    for (offset, length) in [(0, 4097), (4096, 1), (4090, 7), (u64::MAX, 1), (1, u64::MAX), (1 << 63, 1 << 63)] {
        scene::refuse(granted.copy(offset, buffer, length, FromGrant), Status::InvalidArgument)?;
    }
    for bad in [0x1000, HYPERVISOR_START, 1 << 47, u64::MAX] {
        scene::refuse(granted.copy(0, bad, 8, FromGrant), Status::BadAddress)?;
        scene::refuse(granted.copy(0, bad, 8, ToGrant), Status::BadAddress)?;
    }
    scene::refuse(granted.copy(0, scene::code(), 8, FromGrant), Status::BadAddress)?;
    // From a page that is there into one that is not: a part may have been copied.
    let space = Fresh::new()?;
    let frame = frame()?;
    space.map(PAGE, frame.number(), 1, MapFlags::WRITE)?;
    record::make(SpaceSwitch { space: space.0 })?;
    let across = record::make(granted.copy(0, PAGE + PAGE_SIZE - 8, 16, FromGrant));
    ensure_eq!(across, Err(Status::BadAddress), "a copy across the end of what is mapped");
    record::make(granted.copy(0, PAGE + PAGE_SIZE - 8, 8, FromGrant))?;
    let mut word = [0; 4];
    ensure!(frame.read(4088, &mut word), "a frame could not be read");
    ensure_eq!(u32::from_le_bytes(word), servant::PATTERN, "what was copied up to the end");
    Ok(())
}
