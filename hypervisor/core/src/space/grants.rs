//! Pages that show another VM's frame. Whether that VM granted it is decided in [`crate::grant`].

use protocol::flags::MapFlags;
use protocol::layout::PAGE_SIZE;
use protocol::{GuestVirt, SpaceId, Status};

use super::entry::{Leaf, LeafKind, ValidEntry};
use super::walk::{Found, clamp, find, slot};
use super::{FlushOwed, Machine, Memory, TableMemory};
use crate::addr::Mfn;

impl Memory {
    /// Puts a granted frame at a page; `translate` tells the tag. The frame's owner keeps a pin on it
    /// until the page is taken out, and until then its space cannot be destroyed.
    ///
    /// # Errors
    /// `NotFound`, `Misaligned`, `BadAddress`, `AlreadyMapped` or `QuotaExceeded`, as `grant_map` says.
    pub fn install_grant(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        space: SpaceId,
        address: GuestVirt,
        (frame, tag): (Mfn, u8),
        flags: MapFlags,
    ) -> Result<(), Status> {
        let root = self.live(space)?.roots.kernel;
        clamp(address, 1, PAGE_SIZE)?;
        let entry = ValidEntry::leaf(frame, flags, LeafKind::Grant(tag)).ok_or(Status::InvalidArgument)?;
        let found = find(machine, root, address.0, 1);
        let table = self.make_tables(machine, space, found, (address.0, 1))?;
        let slot = slot(address.0, 1);
        if machine.tables.load(table, slot) != 0 {
            return Err(Status::AlreadyMapped);
        }
        machine.tables.store(table, slot, entry);
        if !address.is_kernel_half() {
            let space = self.live_mut(space)?;
            space.grants = space.grants.saturating_add(1);
        }
        Ok(())
    }

    /// Takes a granted frame out of the page where [`Memory::install_grant`] put it with that tag: another
    /// grant of the same frame may be there by now.
    ///
    /// # Errors
    /// [`Status::NotMapped`] when that grant is not there; nothing changed.
    pub fn remove_grant(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        space: SpaceId,
        address: GuestVirt,
        (frame, tag): (Mfn, u8),
    ) -> Result<FlushOwed, Status> {
        // The space that a page of the kernel half was mapped through may be gone; the page is not.
        let space = if address.is_kernel_half() { SpaceId::FIRST } else { space };
        let root = self.live(space)?.roots.kernel;
        let Found::Table(table) = find(machine, root, address.0, 1) else {
            return Err(Status::NotMapped);
        };
        let slot = slot(address.0, 1);
        match Leaf::of(machine.tables.load(table, slot)) {
            Some(leaf) if leaf.kind() == LeafKind::Grant(tag) && leaf.frame() == frame => {}
            _ => return Err(Status::NotMapped),
        }
        machine.tables.store(table, slot, ValidEntry::NONE);
        if !address.is_kernel_half() {
            let space = self.live_mut(space)?;
            space.grants = space.grants.saturating_sub(1);
        }
        Ok(FlushOwed::pages(address.0, 1))
    }
}
