//! The shared region of a channel.

use core::ptr::NonNull;

use protocol::layout::PAGE_SIZE;
use protocol::shared::ChannelInfo;

use super::region::Region;

/// The halves of a channel's region: the one that this side writes, and the peer's. Nothing for a
/// region that has no halves. The start info holds a channel's end once, and the event port that
/// its user binds first can be bound once, so that no two values write the same half.
pub(crate) fn regions(info: &'static ChannelInfo) -> Option<(Region, Region)> {
    let half = (info.frames * PAGE_SIZE / 2) as usize;
    let base = NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(info.address as usize))?;
    // SAFETY: the hypervisor maps the whole region, writable, for the VM's whole life, and makes the
    // start info say so; Rust knows nothing of it.
    let first = unsafe { Region::new(base, half) };
    // SAFETY: the second half lies within the region.
    let middle = unsafe { base.add(half) };
    // SAFETY: as for the first half.
    let second = unsafe { Region::new(middle, half) };
    Some(if info.side == 0 { (first, second) } else { (second, first) })
}
