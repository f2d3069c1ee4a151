//! The part of a VM that writes its own page tables in a recount of all frames. In builds for tests only.

use protocol::VmId;

use super::job::HYPERVISOR;
use super::{GuestTables, Paging};
use crate::addr::Mfn;
use crate::frame::typed::{Level, Type};
use crate::frame::{Class, Kind};
use crate::space::entry::Leaf;
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
            recount_list(machine, all, vm, (list, Level::L3))?;
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
            let Some(leaf) = Leaf::of(machine.tables.load(table, slot)) else {
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
}

/// Notes a table of the list "machine frame to guest frame" and all below.
///
/// # Errors
/// What does not agree.
fn recount_list(
    machine: Machine<'_, impl GuestTables>,
    all: &mut Recount<'_>,
    vm: VmId,
    (table, level): (Mfn, Level),
) -> Result<(), Wrong> {
    let note = |all: &mut Recount<'_>, frame, kind| {
        let class = Class::new(Some(vm), kind);
        let number = machine.frames.number(frame, class).ok_or(("a part of the list is something else", frame))?;
        all.set(frame, class, number)
    };
    note(all, table, Kind::Table)?;
    for slot in 0..512 {
        let Some(leaf) = Leaf::of(machine.tables.load(table, slot)) else {
            continue;
        };
        match level.below() {
            Some(below) => recount_list(machine, all, vm, (leaf.frame(), below))?,
            None => note(all, leaf.frame(), Kind::Shared)?,
        }
    }
    Ok(())
}
