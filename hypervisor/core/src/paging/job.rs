//! Validating a page table and letting its entries go, with all tables below, in bounded steps.
//!
//! A table that is worked on has a reference by type but is not validated, so nothing else can use
//! its frame. Its words cannot change meanwhile: no guest can write them and no CPU walks them.

use core::ops::Range;

use protocol::VcpuId;
use protocol::layout::{HYPERVISOR_FIRST_SLOT, KERNEL_FIRST_SLOT};
use protocol::xen::Errno;

use super::references::References;
use super::{COUNTED, GuestTables, Roots, bad_word};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::typed::{Dropped, Level};
use crate::space::Machine;
use crate::space::entry::{Leaf, PRESENT, ValidEntry};

/// Entries of a table.
const ENTRIES: usize = 512;
/// Entries that are looked at together: most tables are nearly empty.
const BLOCK: usize = 8;
/// What a block without entries costs.
const BLOCK_WORK: u32 = 8;
/// Those of a root that lead to the hypervisor's tables.
pub(super) const HYPERVISOR: Range<usize> = index(HYPERVISOR_FIRST_SLOT)..index(KERNEL_FIRST_SLOT);

/// What is done with a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Its entries up to `next` are checked and counted.
    Validate,
    /// An entry was wrong: those before `next` are still to be let go.
    Undo,
    /// As above, since its last reference is gone.
    Release,
}

/// One table that is worked on.
#[derive(Debug, Clone, Copy)]
struct Step {
    table: Mfn,
    level: Level,
    next: usize,
    mode: Mode,
}

/// Who waits for a validation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) vcpu: VcpuId,
    pub(super) frame: Mfn,
    pub(super) level: Level,
    /// Whether a reference by type is held for it, or why not.
    pub(super) result: Result<(), Errno>,
}

/// The one unfinished piece of work of a VM.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Job {
    /// A table, and the tables below through which it was reached so far, the last one being worked on.
    steps: [Option<Step>; 4],
    depth: usize,
    /// No CPU can know of the tables that are let go: what they led to is not stale afterwards.
    is_unknown: bool,
    /// For whom, if it is a validation; the result counts when all is done.
    pub(super) waiting: Option<Held>,
}

impl Job {
    /// The validation of a table that has its first reference by type.
    pub(super) fn validate(vcpu: VcpuId, frame: Mfn, level: Level) -> Job {
        let waiting = Some(Held { vcpu, frame, level, result: Ok(()) });
        // What is let go when an entry is wrong was in use nowhere.
        let mut job = Job { steps: [None; 4], depth: 0, is_unknown: true, waiting };
        job.push(frame, level, Mode::Validate);
        job
    }

    /// Letting go of a table of which nothing but the last reference by type is left. If nothing is stale,
    /// so nothing was removed since all CPUs forgot all, neither was an entry that led here,
    /// and none leads here now. So a guest that takes tables off their root, and then unpins each, pays one
    /// flush and not one for each.
    pub(super) fn release(frame: Mfn, level: Level, references: &References) -> Job {
        let mut job = Job { steps: [None; 4], depth: 0, is_unknown: !references.stale, waiting: None };
        job.push(frame, level, Mode::Release);
        job
    }

    /// The table that it is about.
    #[cfg(test)]
    pub(super) fn subject(&self) -> Option<(Mfn, Level)> {
        self.steps[0].map(|step| (step.table, step.level))
    }

    /// The tables that are worked on: each has a reference by type, and its entries before the one named
    /// are counted.
    #[cfg(feature = "recount")]
    pub(super) fn tables(&self) -> impl Iterator<Item = (Mfn, Level, usize)> {
        self.steps.iter().take(self.depth).flatten().map(|step| (step.table, step.level, step.next))
    }

    fn push(&mut self, table: Mfn, level: Level, mode: Mode) {
        let next = if mode == Mode::Validate { 0 } else { ENTRIES };
        // Levels fall strictly, so there is room.
        if let Some(place) = self.steps.get_mut(self.depth) {
            *place = Some(Step { table, level, next, mode });
            self.depth = self.depth.wrapping_add(1);
        }
    }

    /// The table that is worked on.
    fn top(&mut self) -> Option<&mut Step> {
        self.steps.get_mut(self.depth.checked_sub(1)?)?.as_mut()
    }

    /// Goes on while there is work left, in entries. `true` when all is done.
    pub(super) fn run(
        &mut self,
        references: &mut References,
        machine: Machine<'_, impl GuestTables>,
        roots: &Roots,
        work: &mut u32,
    ) -> bool {
        while let Some(step) = self.top() {
            if *work == 0 {
                return false;
            }
            let outcome = match step.mode {
                Mode::Validate => step.validate(references, machine, work),
                Mode::Undo | Mode::Release => {
                    let before = references.stale;
                    let outcome = step.let_go(references, machine, work);
                    references.stale = if self.is_unknown { before } else { references.stale };
                    outcome
                }
            };
            match outcome {
                Outcome::Paused => {}
                Outcome::Down(table, level, mode) => self.push(table, level, mode),
                Outcome::Failed(error) => self.fail(error),
                Outcome::End => self.end(references, machine, roots),
            }
        }
        true
    }

    /// An entry of the table that is worked on is wrong.
    fn fail(&mut self, error: Errno) {
        if let Some(step) = self.top() {
            step.mode = Mode::Undo;
        }
        if let Some(held) = &mut self.waiting {
            held.result = Err(error);
        }
    }

    /// All entries of the table that is worked on are done; the table above goes on.
    fn end(&mut self, references: &References, machine: Machine<'_, impl GuestTables>, roots: &Roots) {
        let Some(&mut Step { table, level, mode, .. }) = self.top() else {
            return;
        };
        if mode == Mode::Validate {
            if level == Level::L4 {
                roots.fill(machine, table);
            }
            machine.frames.set_validated(table, references.class);
        } else {
            machine.frames.end_table(table, references.class);
        }
        self.depth = self.depth.wrapping_sub(1);
        if let Some(above) = self.top() {
            match mode {
                // The entry that led here is counted now.
                Mode::Validate => above.next = above.next.wrapping_add(1),
                // It never was.
                Mode::Undo => above.mode = Mode::Undo,
                Mode::Release => {}
            }
        }
    }
}

/// How far a step came.
enum Outcome {
    /// The work that one call may do is done.
    Paused,
    /// A table below is next.
    Down(Mfn, Level, Mode),
    /// An entry is wrong.
    Failed(Errno),
    /// The table is done.
    End,
}

impl Step {
    /// Checks and counts entries from `next` on.
    fn validate(
        &mut self,
        references: &mut References,
        machine: Machine<'_, impl GuestTables>,
        work: &mut u32,
    ) -> Outcome {
        // Compiled for itself: most entries are in such tables.
        match self.level {
            Level::L1 => self.validate_at(Level::L1, references, machine, work),
            level @ (Level::L2 | Level::L3 | Level::L4) => self.validate_at(level, references, machine, work),
        }
    }

    /// As above, the table's level being `level`.
    #[inline(always)]
    fn validate_at(
        &mut self,
        level: Level,
        references: &mut References,
        machine: Machine<'_, impl GuestTables>,
        work: &mut u32,
    ) -> Outcome {
        while self.next < ENTRIES {
            if level == Level::L4 && self.next == HYPERVISOR.start {
                self.next = HYPERVISOR.end;
            }
            if self.next.is_multiple_of(BLOCK) && self.skips_block(machine, self.next, !0, work) {
                self.next = self.next.wrapping_add(BLOCK);
                continue;
            }
            let Some(left) = work.checked_sub(1) else {
                return Outcome::Paused;
            };
            *work = left;
            match self.validate_entry(level, references, machine, work) {
                Ok(None) => self.next = self.next.wrapping_add(1),
                Ok(Some((table, level))) => return Outcome::Down(table, level, Mode::Validate),
                Err(error) => return Outcome::Failed(error),
            }
        }
        Outcome::End
    }

    /// Whether none of a block's entries has any of these bits, and there is work left to say so.
    #[inline(always)]
    fn skips_block(&self, machine: Machine<'_, impl GuestTables>, first: usize, bits: u64, work: &mut u32) -> bool {
        let Some(left) = work.checked_sub(BLOCK_WORK) else {
            return false;
        };
        let words = (0..BLOCK).map(|offset| machine.tables.load(self.table, first.wrapping_add(offset)));
        let is_empty = words.fold(0, |all, word| all | word) & bits == 0;
        if is_empty {
            *work = left;
        }
        is_empty
    }

    /// Checks and counts the next entry, and writes it as it has to be. A table below that must be
    /// validated first is returned.
    ///
    /// # Errors
    /// What a guest gets for such an entry.
    #[inline(always)]
    fn validate_entry(
        &self,
        level: Level,
        references: &mut References,
        machine: Machine<'_, impl GuestTables>,
        work: &mut u32,
    ) -> Result<Option<(Mfn, Level)>, Errno> {
        let word = machine.tables.load(self.table, self.next);
        if word == 0 {
            return Ok(None);
        }
        *work = work.saturating_sub(COUNTED);
        let checked = ValidEntry::written(level, word, machine.frames.frames());
        let entry = checked.map_err(|bad| bad_word(level, bad))?;
        let mut down = None;
        match (level.below(), Leaf::of(entry.bits())) {
            (None, _) => references.take_page(machine, entry)?,
            (Some(below), Some(leaf)) => {
                let is_first = references.take_table(machine, leaf.frame(), below)?;
                down = is_first.then_some((leaf.frame(), below));
            }
            (Some(_), None) => {}
        }
        if entry.bits() != word {
            machine.tables.store(self.table, self.next, entry);
        }
        Ok(down)
    }

    /// Lets entries before `next` go, the last one first.
    fn let_go(
        &mut self,
        references: &mut References,
        machine: Machine<'_, impl GuestTables>,
        work: &mut u32,
    ) -> Outcome {
        match self.level {
            Level::L1 => self.let_go_at(Level::L1, references, machine, work),
            level @ (Level::L2 | Level::L3 | Level::L4) => self.let_go_at(level, references, machine, work),
        }
    }

    /// As above, the table's level being `level`.
    #[inline(always)]
    fn let_go_at(
        &mut self,
        level: Level,
        references: &mut References,
        machine: Machine<'_, impl GuestTables>,
        work: &mut u32,
    ) -> Outcome {
        while let Some(at) = self.next.checked_sub(1) {
            if self.next.is_multiple_of(BLOCK)
                && let before = self.next.saturating_sub(BLOCK)
                && self.skips_block(machine, before, PRESENT, work)
            {
                self.next = before;
                continue;
            }
            let Some(left) = work.checked_sub(1) else {
                return Outcome::Paused;
            };
            *work = left;
            self.next = at;
            if level == Level::L4 && HYPERVISOR.contains(&at) {
                continue;
            }
            let word = machine.tables.load(self.table, at);
            if word & PRESENT == 0 {
                continue;
            }
            *work = work.saturating_sub(COUNTED);
            let Some(below) = level.below() else {
                references.drop_page(machine, word);
                continue;
            };
            if let Some(table) = references.drop_table(machine, word) {
                return Outcome::Down(table, below, Mode::Release);
            }
        }
        Outcome::End
    }
}

impl References {
    /// Drops what a word of a table above level 1 referred to, which is stored no longer. If it was the
    /// last reference by type, the table whose entries are to be let go.
    pub(super) fn drop_table(&mut self, machine: Machine<'_, impl GuestTables>, word: u64) -> Option<Mfn> {
        let table = Leaf::of(word)?.frame();
        self.stale = true;
        (machine.frames.drop_type(table, self.class) == Dropped::LastOfTable).then_some(table)
    }
}
