//! Frames of descriptor tables, which CPUs read while a guest's selectors are loaded.

use protocol::xen::Errno;

use super::{GuestTables, Paging};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::typed::{Dropped, Type};
use crate::space::Machine;

/// Bit 47: the descriptor counts.
const PRESENT: u64 = 1 << 47;
/// Bits 45 and 46: from which ring it can be used; 3 for every one that a guest writes.
const RING: u64 = 3 << 45;
/// Bit 44: code or data.
const SEGMENT: u64 = 1 << 44;
/// Bits 40 to 43: what it is, if neither.
const SYSTEM_TYPE: u64 = 15 << 40;

/// What stands in a table when a guest wrote a descriptor. Nothing for gates, task states and local
/// tables: through these one gets into ring 0. Type 0 is none of them.
pub(super) const fn acceptable(descriptor: u64) -> Option<u64> {
    if descriptor & PRESENT == 0 {
        return Some(descriptor);
    }
    let is_harmless = descriptor & SEGMENT != 0 || descriptor & SYSTEM_TYPE == 0;
    if is_harmless { Some(descriptor | RING) } else { None }
}

impl Paging {
    /// Takes a reference to a frame of a descriptor table. As for [`Paging::take_writable`], drain first.
    ///
    /// # Errors
    /// `Invalid` when the frame is not the VM's, is used as something else, or holds a descriptor that a
    /// guest cannot have.
    pub fn take_descriptors(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn) -> Result<(), Errno> {
        let is_first = self.references.take(machine, frame, Type::Descriptors).map_err(|_| Errno::Invalid)?;
        for entry in (0..512).filter(|_| is_first) {
            let word = machine.tables.load(frame, entry);
            match acceptable(word) {
                Some(checked) if checked == word => {}
                Some(checked) => machine.tables.store_word(frame, entry, checked),
                None => {
                    self.drop_descriptors(machine, frame);
                    return Err(Errno::Invalid);
                }
            }
        }
        Ok(())
    }

    /// Drops such a reference, when no CPU uses the frame through it any longer.
    pub fn drop_descriptors(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn) {
        // A CPU may have the page of its descriptor table in its TLB.
        self.references.stale = true;
        let dropped = machine.frames.drop_type(frame, self.references.class);
        debug_assert!(dropped == Dropped::Whole, "descriptors are no page table");
    }

    /// The call `update_descriptor`, with a machine address.
    ///
    /// # Errors
    /// `Invalid` when the address is misaligned or not the VM's, a guest cannot have such a descriptor, or
    /// the frame is a page table.
    pub fn update_descriptor(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        address: u64,
        descriptor: u64,
    ) -> Result<(), Errno> {
        let checked = acceptable(descriptor).filter(|_| address.is_multiple_of(8)).ok_or(Errno::Invalid)?;
        let (frame, entry) = (Mfn(address >> 12), index((address >> 3) & 511));
        let used = machine.frames.typed(frame, self.references.class).ok_or(Errno::Invalid)?;
        if used.current() == Type::Descriptors {
            machine.tables.store_word(frame, entry, checked);
            return Ok(());
        }
        self.store_plain(machine, frame, entry, checked)
    }
}
