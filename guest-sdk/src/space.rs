//! An address space that owns the frames of its pages.

use alloc::collections::BTreeMap;

use protocol::flags::MapFlags;
use protocol::layout::{LOWER_END, PAGE_SIZE};
use protocol::{GuestVirt, SpaceId, Status};

use crate::frame::{Frame, PAGE_BYTES};
use crate::raw::vcpu::{self, Vcpu};
use crate::raw::{call, mapping};

/// An address space: a lower half of its own under the kernel half of the VM. Dropping it destroys
/// it and frees its frames.
#[derive(Debug)]
pub struct Space {
    id: SpaceId,
    pages: BTreeMap<u64, Frame>,
}

impl Space {
    /// A space with an empty lower half.
    ///
    /// # Errors
    /// [`Status::QuotaExceeded`] when the VM has as many as it may, or its pool is empty.
    pub fn new() -> Result<Space, Status> {
        Ok(Space { id: call::space_create()?, pages: BTreeMap::new() })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> SpaceId {
        self.id
    }

    /// How many pages it has.
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// Maps a frame at a page of the lower half. The space owns it from now on.
    ///
    /// # Errors
    /// Those of `map`; the frame is then dropped.
    pub fn map(&mut self, page: u64, frame: Frame, flags: MapFlags) -> Result<(), Status> {
        if page >= LOWER_END || flags.contains(MapFlags::LARGE) {
            return Err(Status::BadAddress);
        }
        mapping::map_lower(self.id, GuestVirt(page), &frame, flags)?;
        self.pages.insert(page, frame);
        Ok(())
    }

    /// Maps fresh zeroed frames at `count` consecutive pages.
    ///
    /// # Errors
    /// Those of `map`, and [`Status::QuotaExceeded`] when memory is used up; pages before stay.
    pub fn map_zeroed(&mut self, page: u64, count: u64, flags: MapFlags) -> Result<(), Status> {
        for index in 0..count {
            let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
            self.map(page + index * PAGE_SIZE, frame, flags)?;
        }
        Ok(())
    }

    /// Takes a page out and gives its frame back.
    ///
    /// # Errors
    /// [`Status::NotMapped`] for a page that this space does not own; else those of `unmap`.
    pub fn unmap(&mut self, page: u64) -> Result<Frame, Status> {
        let frame = self.pages.get(&page).ok_or(Status::NotMapped)?;
        mapping::unmap_lower(self.id, GuestVirt(page), frame)?;
        self.pages.remove(&page).ok_or(Status::NotMapped)
    }

    /// Changes how a page may be used.
    ///
    /// # Errors
    /// [`Status::NotMapped`] for a page that this space does not own; else those of `protect`.
    pub fn protect(&mut self, page: u64, flags: MapFlags) -> Result<(), Status> {
        let frame = self.pages.get(&page).ok_or(Status::NotMapped)?;
        mapping::protect_lower(self.id, GuestVirt(page), frame, flags)
    }

    /// Whether the space owns a page here.
    #[must_use]
    pub fn is_mapped(&self, address: u64) -> bool {
        self.pages.contains_key(&page_of(address))
    }

    /// Copies bytes from the space's pages, whichever space is current.
    ///
    /// # Errors
    /// [`Status::NotMapped`] at the first page that it does not own; bytes before were copied.
    pub fn read(&self, address: u64, mut target: &mut [u8]) -> Result<(), Status> {
        let mut address = address;
        while !target.is_empty() {
            let (frame, offset, length) = self.piece(address, target.len())?;
            let (piece, rest) = target.split_at_mut(length);
            let _ = frame.read(offset, piece);
            address += length as u64;
            target = rest;
        }
        Ok(())
    }

    /// Copies bytes into the space's pages, also those that its programs may only read.
    ///
    /// # Errors
    /// [`Status::NotMapped`] at the first page that it does not own; bytes before were copied.
    pub fn write(&self, address: u64, mut source: &[u8]) -> Result<(), Status> {
        let mut address = address;
        while !source.is_empty() {
            let (frame, offset, length) = self.piece(address, source.len())?;
            let (piece, rest) = source.split_at(length);
            let _ = frame.write(offset, piece);
            address += length as u64;
            source = rest;
        }
        Ok(())
    }

    /// The frame at an address, the offset in it, and how many of `wanted` bytes it has from there.
    fn piece(&self, address: u64, wanted: usize) -> Result<(&Frame, usize, usize), Status> {
        let frame = self.pages.get(&page_of(address)).ok_or(Status::NotMapped)?;
        let offset = (address % PAGE_SIZE) as usize;
        Ok((frame, offset, wanted.min(PAGE_BYTES - offset)))
    }

    /// Makes it the current space of this vCPU. Running a context in it does that by itself.
    ///
    /// # Errors
    /// None in practice: the space exists.
    pub fn make_current(&self) -> Result<(), Status> {
        vcpu::switch_space(Vcpu::current(), self.id)
    }
}

/// The page that an address lies in.
#[must_use]
pub const fn page_of(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

impl Drop for Space {
    fn drop(&mut self) {
        let vcpu = Vcpu::current();
        if vcpu.space() == self.id {
            let _ = vcpu::switch_space(vcpu, SpaceId::FIRST);
        }
        loop {
            match call::space_destroy(self.id) {
                Err(Status::Retry) => {}
                Ok(()) => return,
                Err(_) => break,
            }
        }
        // Another vCPU is still in the space: the number is lost until it is destroyed by hand, but
        // the frames, which are given back next, must not be reachable through it.
        for (page, frame) in &self.pages {
            let _ = mapping::unmap_lower(self.id, GuestVirt(*page), frame);
        }
    }
}
