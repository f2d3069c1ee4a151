//! Ways through the four levels of tables.

use protocol::layout::{KERNEL_END, KERNEL_START, LOWER_END};
use protocol::record::WalkStep;
use protocol::{GuestVirt, SpaceId, Status};

use super::entry::{Leaf, Stored, ValidEntry, reportable};
use super::{Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::Kind;

/// Level of a root.
const TOP: u32 = 4;

/// Where a walk ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found {
    /// A table of this level has no entry for the address.
    Missing { table: Mfn, level: u32 },
    /// A large page, in this second-level table.
    Large { table: Mfn, leaf: Leaf },
    /// The table of the wanted level.
    Table(Mfn),
}

/// The index of an address in a table of a level.
#[inline(always)]
pub(super) const fn slot(address: u64, level: u32) -> usize {
    index((address >> 12_u32.wrapping_add(9_u32.wrapping_mul(level.wrapping_sub(1)))) & 511)
}

/// Walks down from a root to the table of level `bottom` (1 or 2).
#[inline(always)]
pub(super) fn find<T: TableMemory>(machine: Machine<'_, T>, root: Mfn, address: u64, bottom: u32) -> Found {
    let mut table = root;
    let mut level = TOP;
    while level > bottom {
        match Stored::of(machine.tables.load(table, slot(address, level))) {
            Stored::Nothing => return Found::Missing { table, level },
            Stored::Large(leaf) => return Found::Large { table, leaf },
            Stored::Table(next) => table = next.frame(),
        }
        level = level.wrapping_sub(1);
    }
    Found::Table(table)
}

/// Pages from `address` to the end of its half, at most `count`.
///
/// # Errors
/// [`Status::Misaligned`], or [`Status::BadAddress`] when not even the first page is the guest's.
pub(super) fn clamp(address: GuestVirt, count: u64, page: u64) -> Result<u64, Status> {
    if !address.0.is_multiple_of(page) {
        return Err(Status::Misaligned);
    }
    if !address.is_guest_range(page) {
        return Err(Status::BadAddress);
    }
    let end = if address.0 < KERNEL_START { LOWER_END } else { KERNEL_END };
    let most = end.wrapping_sub(address.0).checked_div(page);
    Ok(count.min(most.unwrap_or(0)))
}

impl Memory {
    /// The table of level `bottom` for an address, with the tables that lead to it made as needed.
    ///
    /// # Errors
    /// [`Status::AlreadyMapped`] when a large page is there, [`Status::QuotaExceeded`] when the pool
    /// has too few frames; then no table was made.
    #[inline(always)]
    pub(super) fn table_for<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        space: SpaceId,
        root: Mfn,
        (address, bottom): (u64, u32),
    ) -> Result<Mfn, Status> {
        match find(machine, root, address, bottom) {
            Found::Table(table) => Ok(table),
            Found::Large { .. } => Err(Status::AlreadyMapped),
            Found::Missing { table, level } => self.make_tables(machine, space, (table, level), (address, bottom)),
        }
    }

    /// Makes the tables below `table`, which is of level `level`, down to level `bottom`.
    ///
    /// # Errors
    /// [`Status::QuotaExceeded`]; then none was made.
    #[inline(never)]
    fn make_tables<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        space: SpaceId,
        (mut table, mut level): (Mfn, u32),
        (address, bottom): (u64, u32),
    ) -> Result<Mfn, Status> {
        if self.pool.free() < u64::from(level.saturating_sub(bottom)) {
            return Err(Status::QuotaExceeded);
        }
        while level > bottom {
            let taken = self.pool.take(machine.frames, self.owner, Kind::Table);
            let next = taken.ok_or(Status::QuotaExceeded)?;
            let entry = ValidEntry::table(next).ok_or(Status::QuotaExceeded)?;
            if level == TOP {
                self.link_top(machine, space, address, entry);
            } else {
                machine.tables.store(table, slot(address, level), entry);
            }
            table = next;
            level = level.wrapping_sub(1);
        }
        Ok(table)
    }

    /// Stores a top-level entry in every root that shares it: both roots of the space for the lower
    /// half, the kernel root of each space for the kernel half.
    fn link_top<T: TableMemory>(&self, machine: Machine<'_, T>, space: SpaceId, address: u64, entry: ValidEntry) {
        let slot = slot(address, TOP);
        if address >= KERNEL_START {
            for found in self.spaces.iter().flatten() {
                machine.tables.store(found.roots.kernel, slot, entry);
            }
        } else if let Ok(found) = self.live(space) {
            machine.tables.store(found.roots.user, slot, entry);
            machine.tables.store(found.roots.kernel, slot, entry);
        }
    }

    /// What the tables of a space say about an address, for a crash report: no frame numbers.
    #[must_use]
    pub fn page_walk<T: TableMemory>(&self, machine: Machine<'_, T>, space: SpaceId, address: GuestVirt) -> PageWalk {
        let mut walk = PageWalk::default();
        if let Ok(found) = self.live(space)
            && address.is_guest_range(1)
        {
            walk.fill(machine, found.roots.kernel, address.0);
        }
        walk
    }
}

/// The steps of a page walk, level 4 first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageWalk {
    steps: [Option<WalkStep>; 4],
}

impl PageWalk {
    /// The steps, up to the first that leads nowhere.
    pub fn steps(&self) -> impl Iterator<Item = WalkStep> + '_ {
        self.steps.iter().flatten().copied()
    }

    fn fill<T: TableMemory>(&mut self, machine: Machine<'_, T>, root: Mfn, address: u64) {
        let mut table = root;
        for (step, level) in self.steps.iter_mut().zip([4_u8, 3, 2, 1]) {
            let index = slot(address, u32::from(level));
            let word = machine.tables.load(table, index);
            *step = Some(WalkStep { level, index: u16::try_from(index).unwrap_or(0), flags: reportable(word) });
            match Stored::of(word) {
                Stored::Table(next) if level > 1 => table = next.frame(),
                Stored::Table(_) | Stored::Large(_) | Stored::Nothing => return,
            }
        }
    }
}
