//! Changes of single entries.

use protocol::VcpuId;
use protocol::xen::{Errno, mmu};

use super::job::HYPERVISOR;
use super::{GuestTables, Paging, Place, Progress, bad_word};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::typed::{Level, Type};
use crate::space::Machine;
use crate::space::entry::{ACCESSED, DIRTY, Leaf, NO_EXECUTE, PRESENT, USER, ValidEntry, WRITABLE};

/// Bits that only say something of how the guest uses the page: a change of these counts nothing. Every
/// stored entry is for ring 3, so that bit is no difference.
const HARMLESS: u64 = NO_EXECUTE | (0x7ff << 52) | (7 << 9) | ACCESSED | DIRTY | USER;
/// What a processor sets on its own.
const BY_PROCESSOR: u64 = ACCESSED | DIRTY;

impl Paging {
    /// One element of the call `mmu_update`: `request` is the machine address of a word, with a command in
    /// its low bits.
    ///
    /// # Errors
    /// `NotImplemented` for another command. `Invalid` for a frame that is not the VM's, a descriptor
    /// table, an entry of the hypervisor's, wrong bits, or a table that cannot be one. For pages `Busy`
    /// when the frame is not the VM's or cannot be mapped so, and `NotPermitted` behind the end of memory.
    #[inline]
    pub fn update(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        vcpu: VcpuId,
        request: u64,
        value: u64,
    ) -> Result<Progress<()>, Errno> {
        let mut work = self.work;
        if !self.settle(machine, &mut work) {
            return Ok(Progress::Again);
        }
        let (frame, slot) = (Mfn(request >> 12), index((request >> 3) & 511));
        let keep = match request & mmu::COMMAND_MASK {
            mmu::NORMAL | mmu::NO_TRANSLATE => 0,
            mmu::PRESERVE_AD => BY_PROCESSOR,
            mmu::MACHPHYS => return self.set_m2p(machine, frame, value).map(Progress::Done),
            _ => return Err(Errno::NotImplemented),
        };
        let next = |old: u64| if old & value & PRESENT == 0 { value } else { value | old & keep };
        let used = machine.frames.typed(frame, self.references.class).ok_or(Errno::Invalid)?;
        match used.current() {
            Type::Table(Level::L1) => {
                let place = Place { table: frame, index: slot };
                self.change_page(machine, place, |old| Some(next(old))).map(|_| Progress::Done(()))
            }
            Type::Table(level) => self.change_table(machine, vcpu, (frame, level, slot), next, &mut work),
            Type::None | Type::Writable | Type::Descriptors => {
                self.store_plain(machine, frame, slot, value).map(Progress::Done)
            }
        }
    }

    /// The call `update_va_mapping`, the entry found.
    ///
    /// # Errors
    /// As for [`Paging::update`].
    #[inline]
    pub fn set(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        place: Place,
        value: u64,
    ) -> Result<Progress<()>, Errno> {
        Ok(match self.change(machine, place, |_| Some(value))? {
            Progress::Done(_) => Progress::Done(()),
            Progress::Again => Progress::Again,
        })
    }

    /// Changes an entry of level 1 in one atomic step to what `change` makes of it, or not at all. Returns
    /// what it was. `change` is asked again when a CPU sets a bit in the entry meanwhile.
    ///
    /// # Errors
    /// `Invalid` when the place is no longer in a table of level 1; else as for [`Paging::update`].
    #[inline]
    pub fn change(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        place: Place,
        change: impl FnMut(u64) -> Option<u64>,
    ) -> Result<Progress<u64>, Errno> {
        let mut work = self.work;
        if !self.settle(machine, &mut work) {
            return Ok(Progress::Again);
        }
        let used = machine.frames.typed(place.table, self.references.class);
        if place.index > 511 || !used.is_some_and(|used| used.is_table(Level::L1)) {
            return Err(Errno::Invalid);
        }
        self.change_page(machine, place, change).map(Progress::Done)
    }

    /// As above, in a table of level 1.
    ///
    /// # Errors
    /// As above.
    #[inline(always)]
    fn change_page(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        Place { table, index }: Place,
        mut change: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Errno> {
        loop {
            let old = machine.tables.load(table, index);
            let Some(word) = change(old) else {
                return Ok(old);
            };
            let checked = ValidEntry::written(Level::L1, word, machine.frames.frames());
            let entry = checked.map_err(|bad| bad_word(Level::L1, bad))?;
            let counts = (old ^ entry.bits()) & !HARMLESS != 0;
            if counts {
                self.references.take_page(machine, entry)?;
            }
            let stored = machine.tables.compare_exchange(table, index, old, entry);
            if counts {
                // What was not stored, nobody has seen.
                let (gone, stays) = if stored.is_ok() { (old, entry.bits()) } else { (entry.bits(), entry.bits()) };
                self.references.replace_page(machine, gone, stays);
            }
            if stored.is_ok() {
                return Ok(old);
            }
        }
    }

    /// Changes an entry of a table above level 1.
    ///
    /// # Errors
    /// As for [`Paging::update`].
    fn change_table(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        vcpu: VcpuId,
        (table, level, index): (Mfn, Level, usize),
        next: impl Fn(u64) -> u64,
        work: &mut u32,
    ) -> Result<Progress<()>, Errno> {
        if level == Level::L4 && HYPERVISOR.contains(&index) {
            return Err(Errno::Invalid);
        }
        let written = |old: u64| {
            let checked = ValidEntry::written(level, next(old), machine.frames.frames());
            checked.map_err(|bad| bad_word(level, bad))
        };
        let mut old = machine.tables.load(table, index);
        let mut entry = written(old)?;
        let counts = (old ^ entry.bits()) & !(HARMLESS | WRITABLE) != 0;
        if counts
            && let (Some(below), Some(leaf)) = (level.below(), Leaf::of(entry.bits()))
            && self.acquire(machine, vcpu, (leaf.frame(), below), work)? == Progress::Again
        {
            return Ok(Progress::Again);
        }
        while let Err(actual) = machine.tables.compare_exchange(table, index, old, entry) {
            // A CPU set a bit that decides nothing.
            old = actual;
            entry = written(old)?;
        }
        if counts
            && let Some(below) = level.below()
            && let Some(table) = self.references.drop_table(machine, old)
        {
            self.release_table(machine, table, below, work);
        }
        Ok(Progress::Done(()))
    }

    /// Stores a word in a frame of the VM that nobody relies on.
    ///
    /// # Errors
    /// `Invalid` when somebody does, or the frame is not the VM's.
    pub(super) fn store_plain(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        frame: Mfn,
        index: usize,
        value: u64,
    ) -> Result<(), Errno> {
        let used = machine.frames.typed(frame, self.references.class).ok_or(Errno::Invalid)?;
        match (used.last(), used.current()) {
            (Type::None | Type::Writable, _) => {}
            // CPUs may still walk it.
            (was, Type::None) => {
                machine.frames.set_type(frame, self.references.class, Type::Writable).map_err(|_| Errno::Invalid)?;
                self.references.forget(machine, was);
            }
            _ => return Err(Errno::Invalid),
        }
        machine.tables.store_word(frame, index, value);
        Ok(())
    }
}
