//! Address spaces: created, entered, left and destroyed.

use core::ops::Range;

use protocol::layout::{HYPERVISOR_FIRST_SLOT, KERNEL_FIRST_SLOT, LARGE_PAGE_FRAMES};
use protocol::{SpaceId, Status};

use super::entry::{Leaf, Stored, ValidEntry};
use super::walk::TOP;
use super::{Machine, Memory, TableMemory, index_of};
use crate::addr::Mfn;
use crate::addr::convert::index;

/// Work of one step of taking a space apart, in units of up to 25 instructions. More than a walk to
/// the last entry needs, so that every step gets on.
const WORK: u64 = 2560;
const _: () = assert!(WORK > 4 * 512);
/// What it costs to take a table.
const TABLE_WORK: u64 = 64;

/// The two tables that a space can be entered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roots {
    /// For kernel mode: all of the VM's addresses.
    pub kernel: Mfn,
    /// For user mode: no kernel half.
    pub user: Mfn,
}

/// One space.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    pub(super) roots: Roots,
    /// vCPUs that run in it, and CPUs that have a root of it loaded.
    pub(super) active: u32,
    /// Granted pages in its lower half.
    pub(super) grants: u32,
    /// It is being destroyed, and can be used for nothing else.
    pub(super) is_dying: bool,
}

impl Memory {
    /// The call `space_create`: the lowest free number.
    ///
    /// # Errors
    /// [`Status::QuotaExceeded`].
    pub fn space_create(&mut self, machine: Machine<'_, impl TableMemory>) -> Result<SpaceId, Status> {
        let free = (0_u32..).zip(&self.spaces).find(|(_, space)| space.is_none());
        let (number, _) = free.ok_or(Status::QuotaExceeded)?;
        if self.pool.free() < 2 {
            return Err(Status::QuotaExceeded);
        }
        let roots = Roots { kernel: self.take_table(machine)?, user: self.take_table(machine)? };
        self.fill_roots(machine, roots);
        if let Some(entry) = self.spaces.get_mut(index_of(number)) {
            *entry = Some(Space { roots, active: 0, grants: 0, is_dying: false });
        }
        Ok(SpaceId(number))
    }

    /// Writes the hypervisor's slots into both roots and the kernel half into the kernel root.
    fn fill_roots(&self, machine: Machine<'_, impl TableMemory>, roots: Roots) {
        for (slot, table) in (index(HYPERVISOR_FIRST_SLOT)..).zip(self.slots) {
            if let Some(entry) = table.and_then(ValidEntry::hypervisor_table) {
                machine.tables.store(roots.kernel, slot, entry);
                machine.tables.store(roots.user, slot, entry);
            }
        }
        // Any other space has the kernel half that all share; without one it is still empty.
        let Some(model) = self.spaces.iter().flatten().next() else {
            return;
        };
        for slot in index(KERNEL_FIRST_SLOT)..512 {
            if let Stored::Table(table) = Stored::of(machine.tables.load(model.roots.kernel, slot))
                && let Some(entry) = ValidEntry::table(table)
            {
                machine.tables.store(roots.kernel, slot, entry);
            }
        }
    }

    /// Counts a user of a space: a vCPU whose current space it is, or a CPU that has one of its
    /// roots loaded. Before the root is loaded.
    ///
    /// # Errors
    /// [`Status::NotFound`].
    #[inline]
    pub fn enter(&mut self, space: SpaceId) -> Result<Roots, Status> {
        let found = self.live_mut(space)?;
        found.active = found.active.checked_add(1).ok_or(Status::NotFound)?;
        Ok(found.roots)
    }

    /// Takes back an [`Memory::enter`], after another root has been loaded.
    #[inline]
    pub fn leave(&mut self, space: SpaceId) {
        if let Ok(found) = self.live_mut(space) {
            debug_assert!(found.active > 0, "a space was left more often than entered");
            found.active = found.active.saturating_sub(1);
        }
    }

    /// The call `space_destroy`: one step. Nobody has the space's roots loaded, so no flush is owed.
    ///
    /// # Errors
    /// [`Status::Busy`] for space 0, a space in use and one that shows granted pages;
    /// [`Status::NotFound`]; [`Status::Retry`] while tables are left.
    pub fn space_destroy(&mut self, machine: Machine<'_, impl TableMemory>, space: SpaceId) -> Result<(), Status> {
        if space == SpaceId::FIRST {
            return Err(Status::Busy);
        }
        let number = index_of(space.0);
        let found = self.spaces.get(number).and_then(Option::as_ref).ok_or(Status::NotFound)?;
        if found.active > 0 || found.grants > 0 {
            return Err(Status::Busy);
        }
        self.dismantle(machine, number).ok_or(Status::Retry)
    }

    /// Empties the lower half of a space and gives its roots back. Nothing while some is left.
    pub(super) fn dismantle(&mut self, machine: Machine<'_, impl TableMemory>, number: usize) -> Option<()> {
        // The last space's kernel half is not shared any more.
        let is_last = self.spaces.iter().flatten().count() == 1;
        let space = self.spaces.get_mut(number)?.as_mut()?;
        space.is_dying = true;
        let roots = space.roots;
        let mut work = WORK;
        self.sweep(machine, (roots.kernel, TOP), 0..index(HYPERVISOR_FIRST_SLOT), &mut work)?;
        if is_last {
            self.sweep(machine, (roots.kernel, TOP), index(KERNEL_FIRST_SLOT)..512, &mut work)?;
        }
        self.give_table(machine, roots.kernel);
        // It still names tables of the lower half, but nobody can enter it; the pool clears it.
        self.give_table(machine, roots.user);
        *self.spaces.get_mut(number)? = None;
        Some(())
    }

    /// Empties slots of a table and all below, as far as the work allows; the tables themselves say
    /// how far it came. Recursion is at most four deep.
    fn sweep(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        (table, level): (Mfn, u32),
        slots: Range<usize>,
        work: &mut u64,
    ) -> Option<()> {
        for slot in slots {
            *work = work.checked_sub(1)?;
            let word = machine.tables.load(table, slot);
            let cost = match Stored::of(word) {
                Stored::Nothing => continue,
                Stored::Table(next) if level > 1 => {
                    self.sweep(machine, (next, level.wrapping_sub(1)), 0..512, work)?;
                    machine.tables.store(table, slot, ValidEntry::NONE);
                    self.give_table(machine, next);
                    TABLE_WORK
                }
                stored @ (Stored::Large(_) | Stored::Table(_)) => {
                    machine.tables.store(table, slot, ValidEntry::NONE);
                    let frames = if matches!(stored, Stored::Large(_)) { LARGE_PAGE_FRAMES } else { 1 };
                    if let Some(leaf) = Leaf::of(word) {
                        self.list.let_go(machine, leaf, frames);
                    }
                    frames
                }
            };
            *work = work.saturating_sub(cost);
        }
        Some(())
    }
}
