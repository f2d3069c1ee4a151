//! Pages that show another VM's frame. Whether that VM granted it is decided in [`crate::grant`].

use protocol::flags::MapFlags;
use protocol::layout::PAGE_SIZE;
use protocol::{GuestVirt, SpaceId, Status};

use super::entry::{Leaf, LeafKind, ValidEntry};
use super::walk::{Found, clamp, find, slot};
use super::{FlushOwed, Machine, Memory, TableMemory};
use crate::addr::Mfn;

/// The frame that a grant shows and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedFrame {
    /// The frame. Its owner keeps a pin on it until the page is taken out.
    pub frame: Mfn,
    /// Number of the grant, as `translate` tells it.
    pub tag: u8,
    /// Whether it is mapped for writing.
    pub writable: bool,
}

impl Memory {
    /// Puts a granted frame at a page. While it is there its space cannot be destroyed.
    ///
    /// # Errors
    /// `NotFound`, `Misaligned`, `BadAddress`, `AlreadyMapped` or `QuotaExceeded`, as `grant_map` says.
    pub fn install_grant<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        space: SpaceId,
        address: GuestVirt,
        granted: GrantedFrame,
    ) -> Result<(), Status> {
        let root = self.live(space)?.roots.kernel;
        clamp(address, 1, PAGE_SIZE)?;
        let flags = if granted.writable { MapFlags::WRITE } else { MapFlags::empty() };
        let entry =
            ValidEntry::leaf(granted.frame, flags, LeafKind::Grant(granted.tag)).ok_or(Status::InvalidArgument)?;
        let table = self.table_for(machine, space, root, (address.0, 1))?;
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

    /// Takes a granted frame out of the page where [`Memory::install_grant`] put it.
    ///
    /// # Errors
    /// [`Status::NotMapped`] when that frame is not there; nothing changed.
    pub fn remove_grant<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        space: SpaceId,
        address: GuestVirt,
        expected: Mfn,
    ) -> Result<FlushOwed, Status> {
        // The space that a page of the kernel half was mapped through may be gone; the page is not.
        let space = if address.is_kernel_half() { SpaceId::FIRST } else { space };
        let root = self.live(space)?.roots.kernel;
        let Found::Table(table) = find(machine, root, address.0, 1) else {
            return Err(Status::NotMapped);
        };
        let slot = slot(address.0, 1);
        let leaf = Leaf::of(machine.tables.load(table, slot)).ok_or(Status::NotMapped)?;
        if !matches!(leaf.kind(), LeafKind::Grant(_)) || leaf.frame() != expected {
            return Err(Status::NotMapped);
        }
        machine.tables.store(table, slot, ValidEntry::NONE);
        if !address.is_kernel_half() {
            let space = self.live_mut(space)?;
            space.grants = space.grants.saturating_sub(1);
        }
        Ok(FlushOwed::range(space, address.0, 1))
    }
}
