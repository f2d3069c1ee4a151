//! Frames shared with another VM for a while.

use protocol::flags::{GrantFlags, MapFlags};
use protocol::{GrantRef, GuestVirt, SpaceId, Status, VmId};

use crate::frame::Frame;
use crate::raw::{call, sharing};

/// A frame that another VM may use. Dropping it takes the right back, at once and everywhere.
#[derive(Debug)]
pub struct Grant {
    reference: GrantRef,
    frame: Frame,
}

impl Grant {
    /// Lets `peer` use a frame.
    ///
    /// # Errors
    /// Those of `grant_create`; the frame is then dropped.
    pub fn new(peer: VmId, frame: Frame, flags: GrantFlags) -> Result<Grant, Status> {
        let reference = sharing::grant(peer, &frame, flags)?;
        Ok(Grant { reference, frame })
    }

    /// What the peer needs to know, beside the owner's number.
    #[must_use]
    pub fn reference(&self) -> GrantRef {
        self.reference
    }

    /// The frame, to read and write its bytes.
    #[must_use]
    pub fn frame(&self) -> &Frame {
        &self.frame
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let _ = call::grant_revoke(self.reference);
    }
}

/// Another VM's frame, mapped in the lower half of one of this VM's spaces. Dropping it takes the
/// page out. The owner may take it out at any time: touching it then is a page fault.
#[derive(Debug)]
pub struct MappedGrant {
    owner: VmId,
    reference: GrantRef,
}

impl MappedGrant {
    /// Maps a granted frame at a page of the lower half.
    ///
    /// # Errors
    /// Those of `grant_map`; [`Status::BadAddress`] for a page outside the lower half.
    pub fn new(
        owner: VmId,
        reference: GrantRef,
        space: SpaceId,
        page: GuestVirt,
        flags: MapFlags,
    ) -> Result<MappedGrant, Status> {
        sharing::map_lower(owner, reference, space, page, flags)?;
        Ok(MappedGrant { owner, reference })
    }
}

impl Drop for MappedGrant {
    fn drop(&mut self) {
        let _ = sharing::unmap_lower(self.owner, self.reference);
    }
}

/// Copies from another VM's granted frame.
///
/// # Errors
/// Those of `grant_copy`.
pub fn copy_from(owner: VmId, reference: GrantRef, offset: u64, target: &mut [u8]) -> Result<(), Status> {
    call::grant_copy_from(owner, reference, offset, target)
}

/// Copies to another VM's granted frame.
///
/// # Errors
/// Those of `grant_copy`.
pub fn copy_to(owner: VmId, reference: GrantRef, offset: u64, source: &[u8]) -> Result<(), Status> {
    call::grant_copy_to(owner, reference, offset, source)
}
