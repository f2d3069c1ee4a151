//! What each call must answer, said naively: page by page, over maps.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{CHANNEL_FRAMES, FRAMES};
use crate::addr::convert::wide;
use crate::frame::MAX_REFERENCES;
use protocol::call::{Map, Protect, Unmap};
use protocol::flags::MapFlags;
use protocol::layout::{self, PAGE_SIZE};
use protocol::{Gfn, GuestVirt, SpaceId, Status};

/// What a page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// As `translate` numbers it; the first frame of a large page.
    pub number: u64,
    /// Its rights.
    pub flags: MapFlags,
}

/// The lower half of a space, or the kernel half.
pub type Half = Option<SpaceId>;

/// The memory of a VM as its kernel may think of it.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Small pages by address; each part of a large page stands for itself.
    pub pages: BTreeMap<(Half, u64), Page>,
    /// Tables below the roots: half, level, first address.
    tables: BTreeSet<(Half, u32, u64)>,
    /// Spaces, with how many are in them.
    pub spaces: BTreeMap<SpaceId, u64>,
    released: BTreeSet<u64>,
    /// How many small pages show a frame.
    shown: BTreeMap<u64, u64>,
    /// Frames that are pinned, each as often as it is.
    pub pinned: Vec<Gfn>,
    /// Free frames in the pool.
    pub pool: u64,
}

const LARGE: MapFlags = MapFlags::LARGE;
const GRANT: u64 = 1 << 62;

fn half(space: SpaceId, address: u64) -> Half {
    (address < layout::KERNEL_START).then_some(space)
}

fn is_own(number: u64) -> bool {
    number < FRAMES
}

impl Model {
    /// No space yet.
    #[must_use]
    pub fn with_pool(pool: u64) -> Model {
        Model { pool, ..Model::default() }
    }

    fn references(&self, frame: u64) -> u64 {
        let pinned = self.pinned.iter().filter(|pin| pin.0 == frame).count();
        self.shown.get(&frame).unwrap_or(&0) + wide(pinned)
    }

    fn put(&mut self, key: (Half, u64), page: Page) {
        *self.shown.entry(page.number).or_default() += 1;
        self.pages.insert(key, page);
    }

    fn take(&mut self, key: (Half, u64)) {
        if let Some(page) = self.pages.remove(&key) {
            self.shown.entry(page.number).and_modify(|shown| *shown -= 1);
        }
    }

    fn missing(&self, half: Half, address: u64, bottom: u32) -> u64 {
        let levels = bottom..=3;
        let absent = |level: &u32| !self.tables.contains(&table(half, *level, address));
        wide(levels.filter(absent).count())
    }

    fn make(&mut self, half: Half, address: u64, bottom: u32) -> Result<(), Status> {
        self.pool = self.pool.checked_sub(self.missing(half, address, bottom)).ok_or(Status::QuotaExceeded)?;
        self.tables.extend((bottom..=3).map(|level| table(half, level, address)));
        Ok(())
    }

    fn check_frame(&self, frame: u64, flags: MapFlags) -> Result<(), Status> {
        let channel = layout::CHANNEL_FRAMES.0 + layout::CHANNEL_FRAME_STRIDE;
        if is_own(frame) {
            if self.released.contains(&frame) {
                return Err(Status::InvalidArgument);
            }
            if self.references(frame) >= MAX_REFERENCES {
                return Err(Status::QuotaExceeded);
            }
            return Ok(());
        }
        if frame == layout::TIME_PAGE_FRAME.0 {
            let denied = flags.contains(MapFlags::WRITE);
            return if denied { Err(Status::NotPermitted) } else { Ok(()) };
        }
        let exists = (channel..channel + CHANNEL_FRAMES).contains(&frame);
        if exists { Ok(()) } else { Err(Status::InvalidArgument) }
    }

    fn map_page(&mut self, half: Half, address: u64, page: Page) -> Result<(), Status> {
        if !GuestVirt(address).is_guest_range(PAGE_SIZE) {
            return Err(Status::BadAddress);
        }
        let key = (half, address);
        let there = self.pages.get(&key);
        if there.is_some_and(|page| !page.flags.contains(LARGE)) {
            return Err(Status::AlreadyMapped);
        }
        self.check_frame(page.number, page.flags)?;
        if there.is_some() {
            return Err(Status::AlreadyMapped);
        }
        self.make(half, address, 1)?;
        self.put(key, page);
        Ok(())
    }

    /// The call `map`; `together` says whether 512 frames from one on lie together.
    pub fn map(&mut self, call: Map, together: bool) -> Result<u64, Status> {
        let half = half(call.space, call.address.0);
        let is_large = call.flags.contains(LARGE);
        if call.count == 0 {
            return Ok(0);
        }
        if call.count > if is_large { 1 } else { 512 } {
            return Err(Status::TooLong);
        }
        if !self.spaces.contains_key(&call.space) {
            return Err(Status::NotFound);
        }
        let size = if is_large { 512 * PAGE_SIZE } else { PAGE_SIZE };
        if !call.address.0.is_multiple_of(size) {
            return Err(Status::Misaligned);
        }
        if is_large {
            return self.map_large(call, half, together);
        }
        each(call.count, |done| {
            let page = Page { number: call.frame.0.saturating_add(done), flags: call.flags };
            self.map_page(half, call.address.0.wrapping_add(done * PAGE_SIZE), page)
        })
    }

    fn map_large(&mut self, call: Map, half: Half, together: bool) -> Result<u64, Status> {
        let address = call.address.0;
        if !call.address.is_guest_range(512 * PAGE_SIZE) {
            return Err(Status::BadAddress);
        }
        if !call.frame.0.is_multiple_of(512) {
            return Err(Status::Misaligned);
        }
        let frames = call.frame.0..call.frame.0.saturating_add(512);
        if !together || frames.clone().any(|frame| !is_own(frame)) {
            return Err(Status::InvalidArgument);
        }
        for frame in frames {
            self.check_frame(frame, call.flags)?;
        }
        self.make(half, address, 2)?;
        let parts = (0..512).map(|part| (half, address + part * PAGE_SIZE));
        if parts.clone().any(|part| self.pages.contains_key(&part)) {
            return Err(Status::AlreadyMapped);
        }
        // An empty table there is given back.
        if self.tables.remove(&table(half, 1, address)) {
            self.pool += 1;
        }
        for (number, part) in (call.frame.0..).zip(parts) {
            let flags = call.flags;
            self.put(part, Page { number, flags });
        }
        Ok(1)
    }

    /// `unmap` and `protect`: walks the pages and has `each` decide on one.
    fn change(
        &mut self,
        (space, address, count): (SpaceId, GuestVirt, u64),
        mut decide: impl FnMut(Page) -> Result<Option<MapFlags>, Status>,
    ) -> Result<u64, Status> {
        if count == 0 {
            return Ok(0);
        }
        if count > 512 {
            return Err(Status::TooLong);
        }
        if !self.spaces.contains_key(&space) {
            return Err(Status::NotFound);
        }
        if !address.0.is_multiple_of(PAGE_SIZE) {
            return Err(Status::Misaligned);
        }
        let half = half(space, address.0);
        let mut left_of_large = 0;
        each(count, |done| {
            let at = address.0.wrapping_add(done * PAGE_SIZE);
            if !GuestVirt(at).is_guest_range(PAGE_SIZE) {
                return Err(Status::BadAddress);
            }
            let page = *self.pages.get(&(half, at)).ok_or(Status::NotMapped)?;
            if page.flags.contains(LARGE) && left_of_large == 0 {
                if !at.is_multiple_of(512 * PAGE_SIZE) || count - done < 512 {
                    return Err(Status::Misaligned);
                }
                left_of_large = 512;
            }
            left_of_large = u64::saturating_sub(left_of_large, 1);
            match decide(page)? {
                Some(flags) => {
                    self.pages.insert((half, at), Page { flags, ..page });
                }
                None => self.take((half, at)),
            }
            Ok(())
        })
    }

    /// The call `unmap`.
    pub fn unmap(&mut self, call: Unmap) -> Result<u64, Status> {
        self.change((call.space, call.address, call.count), |page| {
            if page.number & GRANT != 0 {
                return Err(Status::Busy);
            }
            Ok(None)
        })
    }

    /// The call `protect`.
    pub fn protect(&mut self, call: Protect) -> Result<u64, Status> {
        self.change((call.space, call.address, call.count), |page| {
            if page.flags.contains(LARGE) != call.flags.contains(LARGE) {
                return Err(Status::InvalidArgument);
            }
            if page.number & GRANT != 0 {
                return Err(Status::Busy);
            }
            let is_time = page.number == layout::TIME_PAGE_FRAME.0;
            if is_time && call.flags.contains(MapFlags::WRITE) {
                return Err(Status::NotPermitted);
            }
            Ok(Some(call.flags))
        })
    }

    /// The call `translate`.
    pub fn translate(&self, space: SpaceId, address: GuestVirt) -> Result<Page, Status> {
        if !self.spaces.contains_key(&space) {
            return Err(Status::NotFound);
        }
        if !address.is_guest_range(1) {
            return Err(Status::BadAddress);
        }
        let page = address.0 & !(PAGE_SIZE - 1);
        let found = self.pages.get(&(half(space, page), page));
        found.copied().ok_or(Status::NotMapped)
    }

    /// The call `frame_release`.
    pub fn release(&mut self, frame: Gfn, count: u64) -> Result<u64, Status> {
        limited(count)?;
        each(count, |done| {
            let frame = frame.0.saturating_add(done);
            if !is_own(frame) || self.released.contains(&frame) {
                return Err(Status::InvalidArgument);
            }
            if self.references(frame) > 0 {
                return Err(Status::Busy);
            }
            self.released.insert(frame);
            self.pool += 1;
            Ok(())
        })
    }

    /// The call `frame_reclaim`.
    pub fn reclaim(&mut self, frame: Gfn, count: u64) -> Result<u64, Status> {
        limited(count)?;
        each(count, |done| {
            let frame = frame.0.saturating_add(done);
            if !is_own(frame) {
                return Err(Status::InvalidArgument);
            }
            if !self.released.contains(&frame) {
                return Err(Status::AlreadyMapped);
            }
            self.pool = self.pool.checked_sub(1).ok_or(Status::QuotaExceeded)?;
            self.released.remove(&frame);
            Ok(())
        })
    }

    /// A frame gets a reference that is no mapping.
    pub fn pin(&mut self, frame: Gfn) -> Result<(), Status> {
        if !is_own(frame.0) {
            return Err(Status::InvalidArgument);
        }
        self.check_frame(frame.0, MapFlags::empty())?;
        self.pinned.push(frame);
        Ok(())
    }

    /// The call `space_create`.
    pub fn create(&mut self) -> Result<SpaceId, Status> {
        let free = (0..layout::limit::SPACES).map(SpaceId);
        let free = free.into_iter().find(|space| !self.spaces.contains_key(space));
        let space = free.ok_or(Status::QuotaExceeded)?;
        self.pool = self.pool.checked_sub(2).ok_or(Status::QuotaExceeded)?;
        self.spaces.insert(space, 0);
        Ok(space)
    }

    /// The call `space_destroy`, all its steps.
    pub fn destroy(&mut self, space: SpaceId) -> Result<(), Status> {
        if space == SpaceId::FIRST {
            return Err(Status::Busy);
        }
        let users = *self.spaces.get(&space).ok_or(Status::NotFound)?;
        let granted = |((half, _), page): (&(Half, u64), &Page)| *half == Some(space) && page.number & GRANT != 0;
        if users > 0 || self.pages.iter().any(granted) {
            return Err(Status::Busy);
        }
        let gone = self.pages.range((Some(space), 0)..=(Some(space), u64::MAX));
        for key in gone.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.take(key);
        }
        let before = self.tables.len();
        self.tables.retain(|(half, ..)| *half != Some(space));
        let tables = before - self.tables.len();
        self.pool += 2 + wide(tables);
        self.spaces.remove(&space);
        Ok(())
    }

    /// A page shows a granted frame.
    pub fn install(&mut self, space: SpaceId, address: GuestVirt, page: Page) -> Result<(), Status> {
        if !self.spaces.contains_key(&space) {
            return Err(Status::NotFound);
        }
        if !address.0.is_multiple_of(PAGE_SIZE) {
            return Err(Status::Misaligned);
        }
        if !address.is_guest_range(PAGE_SIZE) {
            return Err(Status::BadAddress);
        }
        let key = (half(space, address.0), address.0);
        if self.pages.get(&key).is_some_and(|page| page.flags.contains(LARGE)) {
            return Err(Status::AlreadyMapped);
        }
        self.make(key.0, address.0, 1)?;
        if self.pages.contains_key(&key) {
            return Err(Status::AlreadyMapped);
        }
        self.put(key, page);
        Ok(())
    }

    /// It does no more.
    pub fn remove(&mut self, space: SpaceId, address: GuestVirt) {
        self.take((half(space, address.0), address.0));
    }

    /// Where grants are mapped.
    #[must_use]
    pub fn grants(&self) -> Vec<(SpaceId, GuestVirt)> {
        let granted = self.pages.iter().filter(|(_, page)| page.number & GRANT != 0);
        granted.map(|((half, address), _)| (half.unwrap_or_default(), GuestVirt(*address))).collect()
    }
}

fn limited(count: u64) -> Result<(), Status> {
    if count > 64 { Err(Status::TooLong) } else { Ok(()) }
}

fn table(half: Half, level: u32, address: u64) -> (Half, u32, u64) {
    (half, level, address >> (12 + 9 * level))
}

/// Does something until it is refused; the first refusal is the answer when nothing was done.
fn each(count: u64, mut step: impl FnMut(u64) -> Result<(), Status>) -> Result<u64, Status> {
    for done in 0..count {
        if let Err(status) = step(done) {
            return if done == 0 { Err(status) } else { Ok(done) };
        }
    }
    Ok(count)
}
