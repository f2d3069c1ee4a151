//! `unmap` and `protect`: the same way through the tables, with another decision at each leaf.
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

impl Memory {
    /// The call `unmap`.
    ///
    /// # Errors
    /// Those of the call's page, when no page was taken out.
    pub fn unmap<T: TableMemory>(&mut self, machine: Machine<'_, T>, call: Unmap) -> Result<Covered, Status> {
        self.change(
            machine,
            (call.space, call.address, call.count),
            #[inline(always)]
            |leaf, _large| {
                if leaf.is_grant() { Err(Status::Busy) } else { Ok(ValidEntry::NONE) }
            },
        )
    }

    /// The call `protect`.
    ///
    /// # Errors
    /// Those of the call's page, when no page was changed.
    pub fn protect<T: TableMemory>(&mut self, machine: Machine<'_, T>, call: Protect) -> Result<Covered, Status> {
        let flags = call.flags;
        let time_page = self.time_page;
        self.change(
            machine,
            (call.space, call.address, call.count),
            #[inline(always)]
            |leaf, large| {
                if large != flags.contains(MapFlags::LARGE) {
                    return Err(Status::InvalidArgument);
                }
                if leaf.is_grant() {
                    return Err(Status::Busy);
                }
                if leaf.frame() == time_page && flags.contains(MapFlags::WRITE) {
                    return Err(Status::NotPermitted);
                }
                Ok(ValidEntry::with_rights(leaf, flags))
            },
        )
    }

    /// Replaces leaf after leaf by what `decide` says, until the range ends or one is refused.
    ///
    /// # Errors
    /// The first page's, when none was changed.
    fn change<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        (space, address, count): (SpaceId, GuestVirt, u64),
        decide: impl Fn(Leaf, bool) -> Result<ValidEntry, Status>,
    ) -> Result<Covered, Status> {
        if count == 0 {
            return Ok(Covered::NOTHING);
        }
        if count > limit::RANGE_PAGES {
            return Err(Status::TooLong);
        }
        let root = self.live(space)?.roots.kernel;
        let pages = clamp(address, count, PAGE_SIZE)?;
        let mut done = 0_u64;
        let mut stopped = (pages < count).then_some(Status::BadAddress);
        while done < pages {
            let at = address.0.wrapping_add(done.wrapping_mul(PAGE_SIZE));
            let left = pages.wrapping_sub(done);
            let (changed, result) = match find(machine, root, at, 1) {
                Found::Missing { .. } => (0, Err(Status::NotMapped)),
                Found::Large { table, leaf } => self.change_large(machine, (table, leaf), (at, left), &decide),
                Found::Table(table) => self.change_in_table(machine, table, (at, left), &decide),
            };
            done = done.wrapping_add(changed);
            if let Err(status) = result {
                if done == 0 {
                    return Err(status);
                }
                stopped = Some(status);
                break;
            }
        }
        Ok(Covered { pages: done, stopped, flush: FlushOwed::range(space, address.0, done) })
    }

    /// Small pages of one first-level table.
    #[inline(always)]
    fn change_in_table<T: TableMemory>(
        &self,
        machine: Machine<'_, T>,
        table: Mfn,
        (address, left): (u64, u64),
        decide: &impl Fn(Leaf, bool) -> Result<ValidEntry, Status>,
    ) -> (u64, Result<(), Status>) {
        let first = slot(address, 1);
        let pages = LARGE_PAGE_FRAMES.wrapping_sub(wide(first)).min(left);
        for done in 0..pages {
            let slot = first.wrapping_add(index(done));
            let word = machine.tables.load(table, slot);
            let Some(leaf) = Leaf::of(word) else {
                return (done, Err(Status::NotMapped));
            };
            match decide(leaf, false) {
                Ok(entry) => {
                    machine.tables.store(table, slot, entry);
                    if entry == ValidEntry::NONE {
                        self.let_go(machine, word);
                    }
                }
                Err(status) => return (done, Err(status)),
            }
        }
        (pages, Ok(()))
    }

    /// One large page.
    #[inline(never)]
    fn change_large<T: TableMemory>(
        &self,
        machine: Machine<'_, T>,
        (table, leaf): (Mfn, Leaf),
        (address, left): (u64, u64),
        decide: &impl Fn(Leaf, bool) -> Result<ValidEntry, Status>,
    ) -> (u64, Result<(), Status>) {
        if slot(address, 1) != 0 || left < LARGE_PAGE_FRAMES {
            return (0, Err(Status::Misaligned));
        }
        match decide(leaf, true) {
            Ok(entry) => {
                let slot = slot(address, 2);
                let word = machine.tables.load(table, slot);
                machine.tables.store(table, slot, entry);
                if entry == ValidEntry::NONE {
                    self.let_go_large(machine, word, LARGE_PAGE_FRAMES);
                }
                (LARGE_PAGE_FRAMES, Ok(()))
            }
            Err(status) => (0, Err(status)),
        }
    }
}
