//! The part of a VM that writes its own page tables in a recount of all frames. In builds for tests only.

use protocol::VmId;
use protocol::xen::M2P_INVALID;

use super::job::HYPERVISOR;
use super::{GuestTables, Paging};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::typed::{Level, Type};
use crate::frame::{Class, Kind};
use crate::space::entry::{ACCESSED, DIRTY, Leaf, ValidEntry};
use crate::space::{Machine, Recount, Wrong};

impl Paging {
    /// Notes every frame of the VM, and each reference that its tables, pins and unfinished work make. What
    /// the hypervisor took besides is in `holds`: by type (a root is a table of level 4), or as nothing to
    /// be read.
    ///
    /// # Errors
    /// What does not agree.
    pub fn recount(
        &self,
        machine: Machine<'_, impl GuestTables>,
        all: &mut Recount<'_>,
        vm: VmId,
        holds: impl Iterator<Item = (Mfn, Type)>,
    ) -> Result<(), Wrong> {
        let class = self.references.class;
        let owned = || {
            let frames = (0..machine.frames.frames()).map(Mfn);
            frames.filter_map(|frame| machine.frames.typed(frame, class).map(|used| (frame, used)))
        };
        for (frame, used) in owned() {
            all.set(frame, class, used.without_count())?;
        }
        all.pool(machine.frames, &self.pool, Class::new(Some(vm), Kind::Pool))?;
        if let Some(list) = self.roots.list {
            recount_list(machine, all, vm, (list, Level::L3, 0))?;
        }
        for (frame, used) in owned() {
            let Type::Table(level) = used.current() else {
                continue;
            };
            if used.is_pinned() {
                all.refer_as(frame, class, used.current())?;
            }
            if used.is_validated() {
                self.recount_entries(machine, all, (frame, level, 512))?;
                self.check_root(machine, (frame, level))?;
            }
        }
        for (table, level, counted) in self.job.iter().flat_map(super::Job::tables) {
            all.refer_as(table, class, Type::Table(level))?;
            self.recount_entries(machine, all, (table, level, counted))?;
        }
        for held in self.held.iter().flatten().filter(|held| held.result.is_ok()) {
            all.refer_as(held.frame, class, Type::Table(held.level))?;
        }
        for (frame, used) in holds {
            match used {
                Type::None => all.refer(frame, class)?,
                Type::Table(_) | Type::Descriptors | Type::Writable => all.refer_as(frame, class, used)?,
            }
        }
        Ok(())
    }

    /// Notes what the first entries of a table refer to.
    ///
    /// # Errors
    /// What does not agree.
    fn recount_entries(
        &self,
        machine: Machine<'_, impl GuestTables>,
        all: &mut Recount<'_>,
        (table, level, entries): (Mfn, Level, usize),
    ) -> Result<(), Wrong> {
        let class = self.references.class;
        for slot in (0..entries).filter(|slot| level != Level::L4 || !HYPERVISOR.contains(slot)) {
            let word = machine.tables.load(table, slot);
            let written = ValidEntry::written(level, word, machine.frames.frames());
            if written.is_ok_and(|entry| entry.bits() != word) || written.is_err() {
                return Err(("a page table has an entry that none may have", table));
            }
            let Some(leaf) = Leaf::of(word) else {
                continue;
            };
            match level.below() {
                Some(below) => all.refer_as(leaf.frame(), class, Type::Table(below))?,
                None if leaf.is_writable() => all.refer_as(leaf.frame(), class, Type::Writable)?,
                None => all.refer(leaf.frame(), class)?,
            }
        }
        Ok(())
    }

    /// A root has the hypervisor's entries, in which processors set bits.
    ///
    /// # Errors
    /// What does not agree.
    fn check_root(&self, machine: Machine<'_, impl GuestTables>, (table, level): (Mfn, Level)) -> Result<(), Wrong> {
        let differs = |(slot, entry): (usize, ValidEntry)| {
            (machine.tables.load(table, slot) ^ entry.bits()) & !(ACCESSED | DIRTY) != 0
        };
        let is_wrong = level == Level::L4 && self.roots.entries().any(differs);
        if is_wrong { Err(("a root without the hypervisor's entries", table)) } else { Ok(()) }
    }
}

/// Notes a table of the list "machine frame to guest frame" and all below; its first word is about a machine frame.
/// The list tells nothing of the frames of others.
///
/// # Errors
/// What does not agree.
fn recount_list(
    machine: Machine<'_, impl GuestTables>,
    all: &mut Recount<'_>,
    vm: VmId,
    (table, level, first): (Mfn, Level, u64),
) -> Result<(), Wrong> {
    let note = |all: &mut Recount<'_>, frame, kind| {
        let class = Class::new(Some(vm), kind);
        let number = machine.frames.number(frame, class).ok_or(("a part of the list is something else", frame))?;
        all.set(frame, class, number)
    };
    note(all, table, Kind::Table)?;
    let each = match level.below() {
        Some(Level::L2) => 1 << 27,
        Some(_) => 1 << 18,
        None => 1 << 9,
    };
    for (slot, first) in (0..512).zip((first..).step_by(each)) {
        let Some(leaf) = Leaf::of(machine.tables.load(table, slot)) else {
            continue;
        };
        if let Some(below) = level.below() {
            recount_list(machine, all, vm, (leaf.frame(), below, first))?;
            continue;
        }
        note(all, leaf.frame(), Kind::Shared)?;
        let tells = |word: &u64| machine.tables.load(leaf.frame(), index(*word)) != M2P_INVALID;
        let is_own = |word: &u64| machine.frames.has_any(vm, Mfn(first | *word)..Mfn(first | *word).offset(1));
        if !(0..512).filter(tells).all(|word| is_own(&word)) {
            return Err(("a list tells of a frame that is another's", leaf.frame()));
        }
    }
    Ok(())
}
