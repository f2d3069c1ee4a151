//! `unmap` and `protect`, and the way through the tables that they share with `map`: only the
//! decision at each entry differs.
//!
//! A large page counts 512 small pages and is taken whole: a range that holds only a part of one is
//! refused there as `Misaligned`, so that no page changes that was not named.

use protocol::call::{Protect, Unmap};
use protocol::flags::MapFlags;
use protocol::layout::{LARGE_PAGE_FRAMES, PAGE_SIZE, limit};
use protocol::{GuestVirt, SpaceId, Status};

use super::entry::{Leaf, ValidEntry};
use super::walk::{Found, clamp, find, slot};
use super::{Covered, FlushOwed, Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::addr::convert::{index, wide};

/// Pages that a call names: the space, the first address and how many.
pub(super) type Pages = (SpaceId, GuestVirt, u64);

impl Memory {
    /// The call `unmap`.
    ///
    /// # Errors
    /// Those of the call's page, when no page was taken out.
    pub fn unmap(&mut self, machine: Machine<'_, impl TableMemory>, call: Unmap) -> Result<Covered, Status> {
        let list = self.list;
        self.change(
            machine,
            (call.space, call.address, call.count),
            #[inline(always)]
            |_, leaf, frames| {
                if leaf.is_grant() {
                    return Err(Status::Busy);
                }
                list.let_go(machine, leaf, frames);
                Ok(ValidEntry::NONE)
            },
        )
    }

    /// The call `protect`.
    ///
    /// # Errors
    /// Those of the call's page, when no page was changed.
    pub fn protect(&mut self, machine: Machine<'_, impl TableMemory>, call: Protect) -> Result<Covered, Status> {
        self.change(
            machine,
            (call.space, call.address, call.count),
            #[inline(always)]
            |memory, leaf, frames| {
                if (frames > 1) != call.flags.contains(MapFlags::LARGE) {
                    return Err(Status::InvalidArgument);
                }
                if leaf.is_grant() {
                    return Err(Status::Busy);
                }
                if leaf.frame() == memory.time_page && call.flags.contains(MapFlags::WRITE) {
                    return Err(Status::NotPermitted);
                }
                Ok(ValidEntry::with_rights(leaf, call.flags))
            },
        )
    }

    /// Replaces leaf after leaf by what `decide` says of it and of how many frames it shows.
    ///
    /// # Errors
    /// The first page's, when none was changed.
    #[inline(always)]
    fn change(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        pages: Pages,
        decide: impl Fn(&Memory, Leaf, u64) -> Result<ValidEntry, Status>,
    ) -> Result<Covered, Status> {
        let (_, address, count) = pages;
        let mut done = 0;
        let result = self.update(
            machine,
            pages,
            &mut done,
            |memory, found, at, done| {
                let Found::Large { table, leaf } = found else {
                    return Err(Status::NotMapped);
                };
                if slot(at, 1) != 0 || count.wrapping_sub(done) < LARGE_PAGE_FRAMES {
                    return Err(Status::Misaligned);
                }
                machine.tables.store(table, slot(at, 2), decide(memory, leaf, LARGE_PAGE_FRAMES)?);
                Ok(None)
            },
            #[inline(always)]
            |memory, word, _| decide(memory, Leaf::of(word).ok_or(Status::NotMapped)?, 1),
        );
        Covered::of(done, result, FlushOwed::pages(address.0, done))
    }

    /// Goes through the entries of small pages and replaces each by what `decide` says, given the
    /// entry and how many pages were done before; `done` tells how far it came. Where no table of
    /// small pages is, `elsewhere` either names one or has dealt with a whole large page.
    ///
    /// # Errors
    /// Why it came no farther.
    #[inline(always)]
    pub(super) fn update(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        (space, address, count): Pages,
        done: &mut u64,
        elsewhere: impl Fn(&mut Memory, Found, u64, u64) -> Result<Option<Mfn>, Status>,
        decide: impl Fn(&Memory, u64, u64) -> Result<ValidEntry, Status>,
    ) -> Result<(), Status> {
        if count == 0 {
            return Ok(());
        }
        if count > limit::RANGE_PAGES {
            return Err(Status::TooLong);
        }
        let root = self.live(space)?.roots.kernel;
        let pages = clamp(address, count, PAGE_SIZE)?;
        while *done < pages {
            let at = address.0.wrapping_add(done.wrapping_mul(PAGE_SIZE));
            let table = match find(machine, root, at, 1) {
                Found::Table(table) => Some(table),
                found @ (Found::Missing { .. } | Found::Large { .. }) => elsewhere(self, found, at, *done)?,
            };
            let Some(table) = table else {
                *done = done.wrapping_add(LARGE_PAGE_FRAMES);
                continue;
            };
            // The slot of the page that would be number 0.
            let base = slot(at, 1).wrapping_sub(index(*done));
            let end = pages.min(LARGE_PAGE_FRAMES.wrapping_sub(wide(base)));
            while *done < end {
                let slot = base.wrapping_add(index(*done));
                let entry = decide(self, machine.tables.load(table, slot), *done)?;
                machine.tables.store(table, slot, entry);
                *done = done.wrapping_add(1);
            }
        }
        if pages < count { Err(Status::BadAddress) } else { Ok(()) }
    }
}
