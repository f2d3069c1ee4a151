//! Grants of owned frames, and granted frames in the lower half.

use protocol::flags::{GrantFlags, MapFlags};
use protocol::layout::LOWER_END;
use protocol::{GrantRef, GuestVirt, SpaceId, Status, VmId};

use super::call;
use super::frame::Frame;

/// Grants a frame. Who keeps the frame revokes the grant before it is dropped.
pub(crate) fn grant(peer: VmId, frame: &Frame, flags: GrantFlags) -> Result<GrantRef, Status> {
    // SAFETY: no reference into an owned frame is ever made, so that the peer may write it.
    unsafe { call::grant_create(peer, frame.number(), flags) }
}

/// Maps a granted frame at a page of the lower half.
pub(crate) fn map_lower(
    owner: VmId,
    reference: GrantRef,
    space: SpaceId,
    page: GuestVirt,
    flags: MapFlags,
) -> Result<(), Status> {
    if page.0 >= LOWER_END {
        return Err(Status::BadAddress);
    }
    // SAFETY: the page is in the lower half, where no Rust object lies.
    unsafe { call::grant_map(owner, reference, space, page, flags) }
}

/// Takes the page out again.
pub(crate) fn unmap_lower(owner: VmId, reference: GrantRef) -> Result<(), Status> {
    // SAFETY: `map_lower` put the page into the lower half, where no Rust object lies.
    unsafe { call::grant_unmap(owner, reference) }
}
