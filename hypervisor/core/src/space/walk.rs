//! Ways through the four levels of tables.

use protocol::layout::{KERNEL_END, KERNEL_START, LOWER_END};
use protocol::record::WalkStep;
use protocol::{GuestVirt, SpaceId, Status};

use super::entry::{Leaf, Stored, ValidEntry, reportable};
use super::{Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::addr::convert::index;

/// Level of a root.
pub(super) const TOP: u32 = 4;

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
pub(super) fn find(machine: Machine<'_, impl TableMemory>, root: Mfn, address: u64, bottom: u32) -> Found {
    let mut table = root;
    let mut level = TOP;
    while level > bottom {
        match Stored::of(machine.tables.load(table, slot(address, level))) {
            Stored::Nothing => return Found::Missing { table, level },
            Stored::Large(leaf) => return Found::Large { table, leaf },
            Stored::Table(next) => table = next,
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
    /// The table of level `bottom` for an address, with the tables made that [`find`] missed.
    ///
    /// # Errors
    /// [`Status::AlreadyMapped`] when a large page is there, [`Status::QuotaExceeded`] when the pool
    /// has too few frames; then no table was made.
    pub(super) fn make_tables(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        space: SpaceId,
        found: Found,
        (address, bottom): (u64, u32),
    ) -> Result<Mfn, Status> {
        let (mut table, mut level) = match found {
            Found::Table(table) => return Ok(table),
            Found::Large { .. } => return Err(Status::AlreadyMapped),
            Found::Missing { table, level } => (table, level),
        };
        if self.pool.free() < u64::from(level.saturating_sub(bottom)) {
            return Err(Status::QuotaExceeded);
        }
        while level > bottom {
            let next = self.take_table(machine)?;
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
    fn link_top(&self, machine: Machine<'_, impl TableMemory>, space: SpaceId, address: u64, entry: ValidEntry) {
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

    /// What the tables of a space say about an address, for a crash report: no frame numbers. Level 4
    /// first, up to the step that leads nowhere.
    #[must_use]
    pub fn page_walk(
        &self,
        machine: Machine<'_, impl TableMemory>,
        space: SpaceId,
        address: GuestVirt,
    ) -> [Option<WalkStep>; 4] {
        let root = self.live(space).ok().filter(|_| address.is_guest_range(1));
        let mut table = root.map(|space| space.roots.kernel);
        [4_u8, 3, 2, 1].map(|level| {
            let index = slot(address.0, level.into());
            let word = machine.tables.load(table.take()?, index);
            if let Stored::Table(next) = Stored::of(word) {
                table = Some(next);
            }
            Some(WalkStep { level, index: u16::try_from(index).unwrap_or(0), flags: reportable(word) })
        })
    }
}
