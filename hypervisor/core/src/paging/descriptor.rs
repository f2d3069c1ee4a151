//! Frames of descriptor tables, which CPUs read while a guest's selectors are loaded.

use protocol::xen::Errno;

use super::{GuestTables, Paging};
use crate::abi::xen::descriptor::sanitise;
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::typed::{Dropped, Type};
use crate::space::Machine;

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
            match sanitise(word) {
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
        let checked = sanitise(descriptor).filter(|_| address.is_multiple_of(8)).ok_or(Errno::Invalid)?;
        let (frame, entry) = (Mfn(address >> 12), index((address >> 3) & 511));
        let used = machine.frames.typed(frame, self.references.class).ok_or(Errno::Invalid)?;
        if used.current() == Type::Descriptors {
            machine.tables.store_word(frame, entry, checked);
            return Ok(());
        }
        self.store_plain(machine, frame, entry, checked)
    }
}
