//! Page tables that a VM writes itself and the processor walks: which use each of its frames has, and
//! which words may stand in its tables.
//!
//! Invariants:
//! * No frame that is in use as a page table or a descriptor table is mapped writable, nor was it on any
//!   CPU that has not forgotten since.
//! * Every present entry of a validated table was checked, names a frame of the VM, and is counted there:
//!   one general reference, and one by type for a page that can be written and for a table.
//! * Every root that CPUs load is validated, and has the hypervisor's entries.
//! * A refused operation has changed no count.
//!
//! The value stands under the VM's one memory lock. There is at most one unfinished [`Job`]; every
//! operation first goes on with it, and answers [`Progress::Again`] if it does not get through: the guest's
//! call is then to be restarted. So no operation sees a table that is validated halfway.
//!
//! [The page on it](../../../docs/security/paging.md) says which attacks each rule answers.

mod change;
mod descriptor;
mod job;
mod memory;
#[cfg(feature = "recount")]
mod recount;
mod references;

use protocol::layout::limit;
use protocol::xen::Errno;
use protocol::{GuestVirt, VcpuId, VmId};

use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::typed::{Dropped, Level, Type, Typed};
use crate::frame::{Class, Kind};
use crate::space::entry::{BadWord, Leaf, WRITABLE};
use crate::space::pool::Pool;
use crate::space::{HypervisorSlots, Machine, TableMemory, ValidEntry};

use job::{HYPERVISOR, Held, Job};
use references::References;

/// What one call does at most with the entries of whole tables before it has to be restarted, in units of
/// about eight instructions.
pub const WORK: u32 = 8192;
/// Units for one word that is present, beside the one for each word.
const COUNTED: u32 = 7;

/// Access to the frames of a VM that writes its own page tables, while CPUs walk these.
pub trait GuestTables: TableMemory {
    /// Replaces an entry of a page table in one atomic step, if it still is `old`.
    ///
    /// # Errors
    /// What it is instead. CPUs set bits in entries on their own.
    fn compare_exchange(&self, table: Mfn, index: usize, old: u64, entry: ValidEntry) -> Result<(), u64>;
    /// Stores a word of a frame that is no page table, as one 64-bit store.
    fn store_word(&self, frame: Mfn, index: usize, value: u64);
    /// Has every CPU forget all translations of the VM. Returns when all have.
    fn flush(&self);
}

/// Whether an operation is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the operation may have to be started again"]
pub enum Progress<T> {
    /// It is.
    Done(T),
    /// The VM has work left from an earlier one, or this one takes longer: restart the call.
    Again,
}

/// An entry of a table of level 1, found by the address that it maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The table.
    pub table: Mfn,
    /// Which entry.
    pub index: usize,
}

/// What the sixteen entries of every root lead to that are the hypervisor's.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Roots {
    slots: HypervisorSlots,
    /// The level-3 table of the list that tells the guest frame of each machine frame.
    list: Option<Mfn>,
}

impl Roots {
    /// Each of them with its place.
    fn entries(&self) -> impl Iterator<Item = (usize, ValidEntry)> {
        HYPERVISOR.zip(self.slots).map(|(slot, table)| {
            let list = if slot == HYPERVISOR.start { self.list } else { None };
            let shown = list.and_then(ValidEntry::shown_table);
            let entry = shown.or_else(|| table.and_then(ValidEntry::hypervisor_table));
            (slot, entry.unwrap_or(ValidEntry::NONE))
        })
    }

    /// Writes them into a root.
    fn fill(&self, machine: Machine<'_, impl GuestTables>, root: Mfn) {
        self.entries().for_each(|(slot, entry)| machine.tables.store(root, slot, entry));
    }
}

/// The page tables of one VM and the frames that it may use in them.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Paging {
    references: References,
    roots: Roots,
    pool: Pool,
    /// Frames of memory that the guest gave back, and did not ask for again.
    released: u64,
    job: Option<Job>,
    /// For each vCPU the result of a validation that it started and somebody else finished.
    held: [Option<Held>; VCPUS],
    /// [`WORK`], or less in tests.
    work: u32,
    /// Units since [`Paging::take_spent`].
    spent: u32,
}

/// vCPUs of a VM.
#[expect(clippy::as_conversions, reason = "const code: u32 widens to u64")]
const VCPUS: usize = index(limit::VCPUS as u64);

/// What a guest gets for a word that cannot stand in a table of a level.
fn bad_word(level: Level, bad: BadWord) -> Errno {
    match bad {
        BadWord::Beyond if level == Level::L1 => Errno::NotPermitted,
        BadWord::Flags | BadWord::Beyond | BadWord::NoFrame => Errno::Invalid,
    }
}

impl Paging {
    /// A VM with an empty pool. `m2p` is the level-3 table of its list "machine frame to guest frame".
    #[must_use]
    pub const fn new(vm: VmId, slots: HypervisorSlots, m2p: Option<Mfn>) -> Paging {
        Paging {
            references: References { class: Class::new(Some(vm), Kind::Paged), stale: false },
            roots: Roots { slots, list: m2p },
            pool: Pool::new(vm),
            released: 0,
            job: None,
            held: [None; VCPUS],
            work: WORK,
            spent: 0,
        }
    }

    /// Units of work that went into whole tables since the last call. A hypercall with many elements adds
    /// them up, since each operation may do [`WORK`].
    pub const fn take_spent(&mut self) -> u32 {
        core::mem::replace(&mut self.spent, 0)
    }

    /// Goes on with unfinished work, as far as one call may.
    pub fn drain(&mut self, machine: Machine<'_, impl GuestTables>) -> Progress<()> {
        let mut work = self.work;
        if self.settle(machine, &mut work) { Progress::Done(()) } else { Progress::Again }
    }

    /// Has every CPU forget what was removed from the page tables.
    pub fn flush(&mut self, machine: Machine<'_, impl GuestTables>) {
        self.references.flush(machine);
    }

    /// The call `mmuext_op`, pin: the frame becomes and stays a page table.
    ///
    /// # Errors
    /// `Invalid` when it is not the VM's, is used as something else or is pinned already; else what is
    /// wrong with an entry.
    pub fn pin(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        vcpu: VcpuId,
        frame: Mfn,
        level: Level,
    ) -> Result<Progress<()>, Errno> {
        let mut work = self.work;
        if !self.settle(machine, &mut work) {
            return Ok(Progress::Again);
        }
        let used = machine.frames.typed(frame, self.references.class);
        if used.is_none_or(|used| used.is_pinned()) {
            return Err(Errno::Invalid);
        }
        if self.acquire(machine, vcpu, (frame, level), &mut work)? == Progress::Again {
            return Ok(Progress::Again);
        }
        let pinned = machine.frames.set_pinned(frame, self.references.class);
        debug_assert!(pinned.is_ok(), "looked up above");
        Ok(Progress::Done(()))
    }

    /// The call `mmuext_op`, unpin.
    ///
    /// # Errors
    /// `Invalid` when it is not pinned.
    pub fn unpin(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn) -> Result<Progress<()>, Errno> {
        let mut work = self.work;
        if !self.settle(machine, &mut work) {
            return Ok(Progress::Again);
        }
        machine.frames.clear_pinned(frame, self.references.class).map_err(|_| Errno::Invalid)?;
        self.drop_table(machine, frame, &mut work);
        Ok(Progress::Done(()))
    }

    /// Takes a reference to a root, for a vCPU that is going to load it.
    ///
    /// # Errors
    /// As for [`Paging::pin`].
    pub fn take_root(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        vcpu: VcpuId,
        frame: Mfn,
    ) -> Result<Progress<()>, Errno> {
        let mut work = self.work;
        if !self.settle(machine, &mut work) {
            return Ok(Progress::Again);
        }
        self.acquire(machine, vcpu, (frame, Level::L4), &mut work)
    }

    /// Drops such a reference, when no CPU has the root loaded for it any longer. `Again`: it was not
    /// dropped, since there is work left; not so directly after an operation that is done without leaving
    /// work, like [`Paging::take_root`].
    pub fn drop_root(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn) -> Progress<()> {
        let mut work = self.work;
        if !self.settle(machine, &mut work) {
            return Progress::Again;
        }
        self.drop_table(machine, frame, &mut work);
        Progress::Done(())
    }

    /// Takes a reference to a frame that the hypervisor writes or lets others write. Nothing waits for
    /// unfinished work here, so a page table that is still being taken apart is refused: drain first.
    ///
    /// # Errors
    /// `Invalid` when the frame is not the VM's or is used as something else.
    pub fn take_writable(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn) -> Result<(), Errno> {
        let taken = self.references.take(machine, frame, Type::Writable);
        taken.map(drop).map_err(|_| Errno::Invalid)
    }

    /// Drops such a reference, when nobody can write the frame through it any longer: whoever mapped it
    /// into another VM has flushed there.
    pub fn drop_writable(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn) {
        let dropped = machine.frames.drop_type(frame, self.references.class);
        debug_assert!(dropped == Dropped::Whole, "memory is no table");
    }

    /// Takes a reference to a frame that is read only, whatever it is used as.
    ///
    /// # Errors
    /// `Invalid` when the frame is not the VM's.
    pub fn take_readable(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn) -> Result<(), Errno> {
        machine.frames.add_reference(frame, self.references.class).map_err(|_| Errno::Invalid)
    }

    /// Drops such a reference.
    pub fn drop_readable(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn) {
        let dropped = machine.frames.drop_reference(frame, self.references.class);
        debug_assert!(dropped.is_ok(), "a reference that nobody had");
    }

    /// The entry of level 1 that maps an address, from a root that the caller has a reference to. Nothing
    /// without a table there, or when the address is not the guest's.
    #[must_use]
    #[inline]
    pub fn find(&self, machine: Machine<'_, impl GuestTables>, root: Mfn, address: GuestVirt) -> Option<Place> {
        let is_root = machine.frames.typed(root, self.references.class)?.is_table(Level::L4);
        if !is_root || !address.is_guest_range(1) {
            return None;
        }
        let table = descend(machine, root, address.0, [Level::L4, Level::L3, Level::L2])?;
        Some(Place { table, index: Level::L1.slot(address.0) })
    }

    /// Whether no entry on the way to an address below a root that is one forbids to write there.
    #[must_use]
    pub fn allows_store(&self, machine: Machine<'_, impl GuestTables>, root: Mfn, address: u64) -> bool {
        let mut table = root;
        Level::ALL.into_iter().rev().all(|level| {
            let word = machine.tables.load(table, level.slot(address));
            table = Leaf::of(word).map_or(table, Leaf::frame);
            word & WRITABLE != 0
        })
    }

    /// Whether a frame is a root that is validated, so that a reference to it is had at once.
    #[must_use]
    pub fn is_root(&self, machine: Machine<'_, impl GuestTables>, frame: Mfn) -> bool {
        machine.frames.typed(frame, self.references.class).is_some_and(|used| used.is_table(Level::L4))
    }

    /// Goes on with unfinished work. `true` when there is none left.
    #[inline]
    fn settle(&mut self, machine: Machine<'_, impl GuestTables>, work: &mut u32) -> bool {
        self.job.is_none() || self.go_on(machine, work)
    }

    /// As above, when there is.
    fn go_on(&mut self, machine: Machine<'_, impl GuestTables>, work: &mut u32) -> bool {
        let Some(job) = &mut self.job else {
            return true;
        };
        let before = *work;
        let is_done = job.run(&mut self.references, machine, &self.roots, work);
        self.spent = self.spent.saturating_add(before.wrapping_sub(*work));
        if !is_done {
            return false;
        }
        let waiting = self.job.take().and_then(|job| job.waiting);
        if let Some(held) = waiting
            && let Some(place) = self.held_for(held.vcpu)
        {
            // Empty: a vCPU starts no second validation before it took the result of the first.
            *place = Some(held);
        }
        true
    }

    fn held_for(&mut self, vcpu: VcpuId) -> Option<&mut Option<Held>> {
        self.held.get_mut(index(u64::from(vcpu.0)))
    }

    /// Takes a reference by type to a page table, validated if it is the first. There is no unfinished
    /// work. What the vCPU's last validation came to is used if it is this one, else forgotten.
    ///
    /// # Errors
    /// As for [`Paging::pin`].
    fn acquire(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        vcpu: VcpuId,
        (frame, level): (Mfn, Level),
        work: &mut u32,
    ) -> Result<Progress<()>, Errno> {
        if let Some(held) = self.held_for(vcpu).ok_or(Errno::Invalid)?.take() {
            if (held.frame, held.level) == (frame, level) {
                return held.result.map(Progress::Done);
            }
            if held.result.is_ok() {
                self.drop_table(machine, held.frame, work);
                // That may have been all that kept a table which this operation relies on: look again.
                return Ok(Progress::Again);
            }
        }
        if self.references.take_table(machine, frame, level)? {
            self.job = Some(Job::validate(vcpu, frame, level));
            if !self.go_on(machine, work) {
                return Ok(Progress::Again);
            }
            let held = self.held_for(vcpu).and_then(Option::take);
            return held.map_or(Ok(()), |held| held.result).map(Progress::Done);
        }
        Ok(Progress::Done(()))
    }

    /// Drops a reference by type to a page table. There is no unfinished work before; `true` if there is
    /// none afterwards.
    fn drop_table(&mut self, machine: Machine<'_, impl GuestTables>, frame: Mfn, work: &mut u32) -> bool {
        let class = self.references.class;
        let Some(Type::Table(level)) = machine.frames.typed(frame, class).map(Typed::current) else {
            debug_assert!(false, "a table that somebody refers to is one");
            return true;
        };
        machine.frames.drop_type(frame, class) == Dropped::Whole || self.release_table(machine, frame, level, work)
    }

    /// Lets the entries of a table go that has lost its last reference. `true` if no work is left.
    fn release_table(
        &mut self,
        machine: Machine<'_, impl GuestTables>,
        table: Mfn,
        level: Level,
        work: &mut u32,
    ) -> bool {
        self.job = Some(Job::release(table, level, &self.references));
        self.go_on(machine, work)
    }
}

/// The table that the words of three tables lead to.
#[inline(always)]
fn descend(machine: Machine<'_, impl GuestTables>, top: Mfn, address: u64, levels: [Level; 3]) -> Option<Mfn> {
    let mut table = top;
    for level in levels {
        table = Leaf::of(machine.tables.load(table, level.slot(address)))?.frame();
    }
    Some(table)
}

#[cfg(test)]
mod tests;
