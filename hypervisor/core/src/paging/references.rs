//! The references that entries of a VM's page tables make, and the flush that must come before a frame
//! gets another use.

use protocol::Status;
use protocol::xen::Errno;

use super::GuestTables;
use crate::addr::Mfn;
use crate::frame::Class;
use crate::frame::typed::{Dropped, Level, Type};
use crate::space::Machine;
use crate::space::entry::{Leaf, ValidEntry};

/// A VM's frames, and what its CPUs may not know yet.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct References {
    /// The frames that its page tables may name.
    pub(super) class: Class,
    /// An entry that was present was removed or lost the right to write since all CPUs forgot all
    /// translations, so that some CPU may still use it.
    pub(super) stale: bool,
}

impl References {
    /// Counts a reference by type. `true` if it is the first one: a page table is then to be validated.
    /// No CPU takes the frame for what it was before.
    ///
    /// # Errors
    /// See [`crate::frame::FrameTable::take_type`].
    #[inline(always)]
    pub(super) fn take(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        frame: Mfn,
        wanted: Type,
    ) -> Result<bool, Status> {
        let before = machine.frames.take_type(frame, self.class, wanted)?;
        if before.last() != wanted {
            self.forget(machine, before.last());
        }
        Ok(before.count() == 0)
    }

    /// Has all CPUs forget their translations, if one may still take a frame for what it was.
    #[inline(always)]
    pub(super) fn forget(&mut self, machine: Machine<'_, impl GuestTables>, was: Type) {
        if was != Type::None {
            self.flush(machine);
        }
    }

    /// Has all CPUs forget their translations, if entries were removed since they last did.
    pub(super) fn flush(&mut self, machine: Machine<'_, impl GuestTables>) {
        if self.stale {
            // Before the call, since nothing removes entries meanwhile: the caller has the VM's lock.
            self.stale = false;
            machine.tables.flush();
        }
    }

    /// Counts what an entry of level 1 refers to.
    ///
    /// # Errors
    /// `Busy` when the frame is not the VM's or is used in a way that forbids this entry.
    #[inline(always)]
    pub(super) fn take_page(&mut self, machine: Machine<'_, impl GuestTables>, entry: ValidEntry) -> Result<(), Errno> {
        let Some(leaf) = Leaf::of(entry.bits()) else {
            return Ok(());
        };
        let taken = if leaf.is_writable() {
            self.take(machine, leaf.frame(), Type::Writable).map(drop)
        } else {
            machine.frames.add_reference(leaf.frame(), self.class)
        };
        taken.map_err(|_| Errno::Busy)
    }

    /// Drops what a word of a table of level 1 referred to, which is stored no longer.
    #[inline(always)]
    pub(super) fn drop_page(&mut self, machine: Machine<'_, impl GuestTables>, word: u64) {
        let Some(leaf) = Leaf::of(word) else {
            return;
        };
        self.stale = true;
        if leaf.is_writable() {
            let dropped = machine.frames.drop_type(leaf.frame(), self.class);
            debug_assert!(dropped == Dropped::Whole, "a page is no table");
        } else {
            let dropped = machine.frames.drop_reference(leaf.frame(), self.class);
            debug_assert!(dropped.is_ok(), "a page without its reference");
        }
    }

    /// The same for a word in whose place `next` stands now. It is not stale when that shows the same page,
    /// and lets it be written if the other did: as a guest does with a table that it has done with.
    #[inline(always)]
    pub(super) fn replace_page(&mut self, machine: Machine<'_, impl GuestTables>, word: u64, next: u64) {
        let before = self.stale;
        self.drop_page(machine, word);
        let is_same = |old: Leaf, new: Leaf| old.frame() == new.frame() && (new.is_writable() || !old.is_writable());
        if let (Some(old), Some(new)) = (Leaf::of(word), Leaf::of(next))
            && is_same(old, new)
        {
            self.stale = before;
        }
    }

    /// Counts a reference by type to a page table. `true` if it is to be validated.
    ///
    /// # Errors
    /// `Invalid` when the frame is not the VM's or is used as something else.
    pub(super) fn take_table(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        frame: Mfn,
        level: Level,
    ) -> Result<bool, Errno> {
        self.take(machine, frame, Type::Table(level)).map_err(|_| Errno::Invalid)
    }
}
