//! Mappings of owned frames in the lower half, where no Rust object lies.

use protocol::flags::MapFlags;
use protocol::layout::{LOWER_END, PAGE_SIZE};
use protocol::{GuestVirt, SpaceId, Status};

use super::call;
use super::frame::Frame;

fn check_lower(page: GuestVirt) -> Result<(), Status> {
    if page.0 < LOWER_END && page.0.is_multiple_of(PAGE_SIZE) { Ok(()) } else { Err(Status::BadAddress) }
}

/// Maps a frame at a page of the lower half. Who keeps the frame unmaps it before it is dropped.
pub(crate) fn map_lower(space: SpaceId, page: GuestVirt, frame: &Frame, flags: MapFlags) -> Result<(), Status> {
    check_lower(page)?;
    // SAFETY: no reference into an owned frame is ever made, so that programs may write it.
    unsafe { call::map(space, page, frame.number(), 1, flags) }.map(|_| ())
}

/// Takes the page of a frame out.
pub(crate) fn unmap_lower(space: SpaceId, page: GuestVirt, _frame: &Frame) -> Result<(), Status> {
    check_lower(page)?;
    // SAFETY: the page is in the lower half, where no Rust object lies.
    unsafe { call::unmap(space, page, 1) }.map(|_| ())
}

/// Changes how the page of a frame may be used.
pub(crate) fn protect_lower(space: SpaceId, page: GuestVirt, _frame: &Frame, flags: MapFlags) -> Result<(), Status> {
    check_lower(page)?;
    // SAFETY: the page is in the lower half, where no Rust object lies.
    unsafe { call::protect(space, page, 1, flags) }.map(|_| ())
}
