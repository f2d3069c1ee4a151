//! Address spaces: created, entered, left and destroyed.

use protocol::layout::{HYPERVISOR_FIRST_SLOT, KERNEL_FIRST_SLOT, LARGE_PAGE_FRAMES};
use protocol::{SpaceId, Status};

use super::entry::{Stored, ValidEntry};
use super::{Machine, Memory, TableMemory, index_of};
use crate::addr::Mfn;
use crate::addr::convert::{index, wide};
use crate::frame::Kind;

/// Work of one call of `space_destroy`, in units of about ten instructions. More than an empty walk
/// needs, so that every call gets on.
const WORK: u64 = 4096;
const _: () = assert!(WORK > 2 * 3 * 512);
/// What it costs to take a leaf, and a table.
const LEAF_WORK: u64 = 2;
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
    active: u32,
    /// Granted pages in its lower half.
    pub(super) grants: u32,
    dying: bool,
}

impl Space {
    pub(super) const fn is_dying(&self) -> bool {
        self.dying
    }
}

impl Memory {
    /// The call `space_create`: the lowest free number.
    ///
    /// # Errors
    /// [`Status::QuotaExceeded`].
    pub fn space_create<T: TableMemory>(&mut self, machine: Machine<'_, T>) -> Result<SpaceId, Status> {
        let free = self.spaces.iter().position(Option::is_none);
        let number = free.ok_or(Status::QuotaExceeded)?;
        if self.pool.free() < 2 {
            return Err(Status::QuotaExceeded);
        }
        let mut take = || {
            let taken = self.pool.take(machine.frames, self.owner, Kind::Table);
            taken.ok_or(Status::QuotaExceeded)
        };
        let roots = Roots { kernel: take()?, user: take()? };
        self.fill_roots(machine, roots);
        if let Some(entry) = self.spaces.get_mut(number) {
            *entry = Some(Space { roots, active: 0, grants: 0, dying: false });
        }
        let number = u32::try_from(number).map_err(|_| Status::QuotaExceeded)?;
        Ok(SpaceId(number))
    }

    /// Writes the hypervisor's slots into both roots and the kernel half into the kernel root.
    fn fill_roots<T: TableMemory>(&self, machine: Machine<'_, T>, roots: Roots) {
        let first = index(HYPERVISOR_FIRST_SLOT);
        for (slot, table) in (first..).zip(self.slots) {
            if let Some(entry) = table.and_then(ValidEntry::hypervisor_table) {
                machine.tables.store(roots.kernel, slot, entry);
                machine.tables.store(roots.user, slot, entry);
            }
        }
        // Any other space has the kernel half that all share; without one it is still empty.
        let Some(Some(model)) = self.spaces.iter().find(|space| space.is_some()) else {
            return;
        };
        for slot in index(KERNEL_FIRST_SLOT)..512 {
            let word = machine.tables.load(model.roots.kernel, slot);
            if let Stored::Table(table) = Stored::of(word) {
                let entry = ValidEntry::copied_table(table);
                machine.tables.store(roots.kernel, slot, entry);
            }
        }
    }

    /// The roots of a space, for a CPU that is to load one.
    ///
    /// # Errors
    /// [`Status::NotFound`].
    #[inline]
    pub fn roots(&self, space: SpaceId) -> Result<Roots, Status> {
        self.live(space).map(|found| found.roots)
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
    pub fn space_destroy<T: TableMemory>(&mut self, machine: Machine<'_, T>, space: SpaceId) -> Result<(), Status> {
        if space == SpaceId::FIRST {
            return Err(Status::Busy);
        }
        let entry = self.spaces.get_mut(index_of(space.0));
        let found = entry.and_then(Option::as_mut).ok_or(Status::NotFound)?;
        if found.active > 0 || found.grants > 0 {
            return Err(Status::Busy);
        }
        found.dying = true;
        let mut work = WORK;
        if self.dismantle(machine, space, &mut work) { Ok(()) } else { Err(Status::Retry) }
    }

    /// Empties the lower half of a space and gives its roots back. Answers whether it is all done.
    pub(super) fn dismantle<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        space: SpaceId,
        work: &mut u64,
    ) -> bool {
        let entry = self.spaces.get(index_of(space.0));
        let Some(roots) = entry.copied().flatten().map(|space| space.roots) else {
            return true;
        };
        if !self.sweep_top(machine, roots, (0, HYPERVISOR_FIRST_SLOT), work) {
            return false;
        }
        // The last space's kernel half is not shared any more.
        let last = self.spaces.iter().flatten().count() == 1;
        if last && !self.sweep_top(machine, roots, (KERNEL_FIRST_SLOT, 512), work) {
            return false;
        }
        self.give_table(machine, roots.kernel);
        self.give_table(machine, roots.user);
        if let Some(entry) = self.spaces.get_mut(index_of(space.0)) {
            *entry = None;
        }
        true
    }

    /// Empties a range of top-level slots.
    fn sweep_top<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        roots: Roots,
        (first, end): (u64, u64),
        work: &mut u64,
    ) -> bool {
        for slot in index(first)..index(end) {
            let Stored::Table(next) = Stored::of(machine.tables.load(roots.kernel, slot)) else {
                continue;
            };
            if !self.sweep(machine, next.frame(), 3, work) {
                return false;
            }
            machine.tables.store(roots.user, slot, ValidEntry::NONE);
            machine.tables.store(roots.kernel, slot, ValidEntry::NONE);
            self.give_table(machine, next.frame());
        }
        true
    }

    /// Empties a table and all below, as far as the work allows; the tables themselves say how far it
    /// came. Recursion is at most three deep.
    fn sweep<T: TableMemory>(&mut self, machine: Machine<'_, T>, table: Mfn, level: u32, work: &mut u64) -> bool {
        for slot in 0..512 {
            if *work == 0 {
                return false;
            }
            *work = work.saturating_sub(1);
            let word = machine.tables.load(table, slot);
            if word == 0 {
                continue;
            }
            let cost = match Stored::of(word) {
                Stored::Table(next) if level > 1 => {
                    if !self.sweep(machine, next.frame(), level.saturating_sub(1), work) {
                        return false;
                    }
                    machine.tables.store(table, slot, ValidEntry::NONE);
                    self.give_table(machine, next.frame());
                    TABLE_WORK
                }
                Stored::Large(_) => {
                    machine.tables.store(table, slot, ValidEntry::NONE);
                    self.let_go_large(machine, word, LARGE_PAGE_FRAMES);
                    LARGE_PAGE_FRAMES
                }
                Stored::Table(_) | Stored::Nothing => {
                    machine.tables.store(table, slot, ValidEntry::NONE);
                    self.let_go(machine, word);
                    LEAF_WORK
                }
            };
            *work = work.saturating_sub(cost);
        }
        true
    }

    /// The spaces that exist, dying ones included.
    pub(super) fn space_numbers(&self) -> impl Iterator<Item = SpaceId> + '_ {
        let numbered = (0_u32..).zip(&self.spaces);
        numbered.filter_map(|(number, space)| space.is_some().then_some(SpaceId(number)))
    }

    /// Whether somebody runs in any space.
    pub(super) fn is_active(&self) -> bool {
        self.spaces.iter().flatten().any(|space| space.active > 0)
    }

    /// Marks a space as dying.
    pub(super) fn condemn(&mut self, space: SpaceId) {
        if let Some(Some(found)) = self.spaces.get_mut(index_of(space.0)) {
            found.dying = true;
        }
    }
}

/// Frames that a space takes before anything is mapped in it.
pub(crate) const ROOT_FRAMES: u64 = 2;
const _: () = assert!(wide(size_of::<Roots>()) == ROOT_FRAMES * 8);
