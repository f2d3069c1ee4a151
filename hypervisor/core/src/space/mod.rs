//! The memory of one native VM: which machine frame each guest frame is, the pool that pays for page
//! tables, and the address spaces, whose tables only the hypervisor writes.
//!
//! Invariants:
//! * Every table entry is a [`ValidEntry`]; every table is a frame of the VM of kind `Table`.
//! * Each leaf of own memory counts one reference of its frame (a large one: of its 512 frames),
//!   so a frame that is mapped cannot get another use.
//! * Pool frames are all zero. A table that was in use comes to the pool only after the flush that
//!   its removal owes ([`Memory::settle`]).
//! * All roots of a VM agree in the kernel half and in the hypervisor's slots, and the two roots of
//!   a space agree in the lower half.
//! * A refused operation has changed nothing.
//!
//! The value stands under one lock in `hv`. Every [`FlushOwed`] must be settled before that lock is
//! released. Which VM may use whose frame is not decided here.

mod batch;
mod change;
pub mod entry;
pub mod flush;
mod frames;
mod grants;
mod list;
mod map;
pub(crate) mod pool;
#[cfg(feature = "recount")]
mod recount;
mod spaces;
mod teardown;
mod walk;

use protocol::layout::limit;
use protocol::{SpaceId, Status, VmId};

use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::{Class, FrameTable, Kind};

pub use batch::WORK_PAGES;
pub use entry::ValidEntry;
pub use flush::{Flush, FlushOwed};
pub use list::FrameList;
#[cfg(feature = "recount")]
pub use recount::{Recount, Wrong, holds, leaked, unused};
pub use spaces::Roots;
pub use teardown::{Remains, Teardown};

use pool::Pool;
use spaces::Space;

/// Access to machine frames. Implemented by `hv-arch` through its direct map, and by
/// [`crate::fakes`] on a host. Frames that are passed here belong to the VM in whose name it
/// happens; indices are below 512, and offset plus length is at most 4096.
pub trait TableMemory {
    /// Reads one word of a frame.
    fn load(&self, frame: Mfn, index: usize) -> u64;
    /// Writes one entry of a page table, as one 64-bit store.
    fn store(&self, table: Mfn, index: usize, entry: ValidEntry);
    /// Fills a frame with zeros.
    fn clear(&self, frame: Mfn);
    /// Writes bytes into a frame that is not a page table.
    fn write(&self, frame: Mfn, offset: usize, bytes: &[u8]);
}

/// What operations on a VM's memory work with.
#[derive(Debug)]
pub struct Machine<'m, T> {
    /// The record of every frame.
    pub frames: &'m FrameTable<'m>,
    /// The frames themselves.
    pub tables: &'m T,
}

impl<T> Clone for Machine<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Machine<'_, T> {}

/// The hypervisor's top-level slots: for each the table it leads to, if any. The same in every root.
pub type HypervisorSlots = [Option<Mfn>; 16];

/// The shared region of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Its first frame; the others follow.
    pub first: Mfn,
    /// Its frames.
    pub frames: u64,
}

/// What an operation on a range of pages did.
#[derive(Debug, PartialEq, Eq)]
pub struct Covered {
    /// Small pages (for a large `map`: large pages) that it was done for, from the first on.
    pub pages: u64,
    /// Why it stopped there, if not at the end of the range.
    pub stopped: Option<Status>,
    /// What must be settled.
    pub flush: FlushOwed,
}

impl Covered {
    /// What an operation did that came so far.
    ///
    /// # Errors
    /// Why nothing was done.
    #[inline(always)]
    fn of(pages: u64, result: Result<(), Status>, flush: FlushOwed) -> Result<Covered, Status> {
        match result {
            Err(status) if pages == 0 => Err(status),
            _ => Ok(Covered { pages, stopped: result.err(), flush }),
        }
    }
}

/// The memory of one VM.
#[derive(Debug)]
pub struct Memory {
    vm: VmId,
    list: FrameList,
    pool: Pool,
    /// Tables that were replaced and wait for a flush.
    retired: Pool,
    spaces: [Option<Space>; SPACES],
    slots: HypervisorSlots,
    time_page: Mfn,
    /// The regions of the VM's channels.
    pub(crate) channels: [Option<Region>; CHANNELS],
    /// The pages of its vCPUs. The hypervisor writes them, so each is pinned.
    pub(crate) vcpu_pages: [Option<Mfn>; VCPUS],
    /// Guest frames that were taken back already, while the VM is taken down.
    taken_down: u64,
}

const SPACES: usize = index_of(limit::SPACES);
const CHANNELS: usize = index_of(limit::CHANNELS);
const VCPUS: usize = index_of(limit::VCPUS);

impl Memory {
    /// A memory without spaces and channels, with an empty pool.
    #[must_use]
    pub const fn new(vm: VmId, list: FrameList, slots: HypervisorSlots, time_page: Mfn) -> Memory {
        Memory {
            vm,
            list,
            pool: Pool::new(vm),
            retired: Pool::new(vm),
            spaces: [None; SPACES],
            slots,
            time_page,
            channels: [None; CHANNELS],
            vcpu_pages: [None; VCPUS],
            taken_down: 0,
        }
    }

    /// Which machine frame each guest frame is.
    #[must_use]
    pub const fn list(&self) -> &FrameList {
        &self.list
    }

    /// Free frames in the pool.
    #[must_use]
    pub const fn pool_frames(&self) -> u64 {
        self.pool.free()
    }

    /// The page from which the guest reads the time.
    #[must_use]
    pub const fn time_page(&self) -> Mfn {
        self.time_page
    }

    /// The pages of the VM's vCPUs, pinned until the teardown.
    #[must_use]
    pub const fn vcpu_pages(&self) -> &[Option<Mfn>; VCPUS] {
        &self.vcpu_pages
    }

    /// The VM's frames of a kind.
    const fn class(&self, kind: Kind) -> Class {
        Class::new(Some(self.vm), kind)
    }

    /// Pays a flush: `flush` is called at most once and returns when every CPU has forgotten. Then
    /// tables that were replaced become free. Must happen before the lock of the memory is released.
    #[inline]
    pub fn settle(&mut self, machine: Machine<'_, impl TableMemory>, owed: FlushOwed, flush: impl FnOnce(Flush)) {
        owed.pay(flush);
        while let Ok(table) = self.retired.take(machine.frames, self.class(Kind::Table), 0) {
            self.give_table(machine, table);
        }
    }

    /// Adds a frame of the VM to the pool, cleared.
    ///
    /// # Errors
    /// [`Status::Busy`] when something refers to it; then it is what it was.
    pub(crate) fn give(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        frame: Mfn,
        kind: Kind,
    ) -> Result<(), Status> {
        self.pool.give(machine.frames, frame, self.class(kind))?;
        machine.tables.clear(frame);
        Ok(())
    }

    fn give_table(&mut self, machine: Machine<'_, impl TableMemory>, table: Mfn) {
        let given = self.give(machine, table, Kind::Table);
        debug_assert!(given.is_ok(), "nothing refers to a table");
    }

    /// A frame of the pool as a table; pool frames are clear.
    ///
    /// # Errors
    /// [`Status::QuotaExceeded`].
    fn take_table(&mut self, machine: Machine<'_, impl TableMemory>) -> Result<Mfn, Status> {
        self.pool.take(machine.frames, self.class(Kind::Table), 0)
    }

    /// The space of a number, unless it is being destroyed.
    ///
    /// # Errors
    /// [`Status::NotFound`].
    fn live(&self, space: SpaceId) -> Result<&Space, Status> {
        let found = self.spaces.get(index_of(space.0)).and_then(Option::as_ref);
        found.filter(|space| !space.is_dying).ok_or(Status::NotFound)
    }

    /// As [`Memory::live`], to change it.
    ///
    /// # Errors
    /// [`Status::NotFound`].
    fn live_mut(&mut self, space: SpaceId) -> Result<&mut Space, Status> {
        let found = self.spaces.get_mut(index_of(space.0)).and_then(Option::as_mut);
        found.filter(|space| !space.is_dying).ok_or(Status::NotFound)
    }
}

/// A 32-bit number as an index.
#[expect(clippy::as_conversions, reason = "const code: u32 widens to u64")]
const fn index_of(value: u32) -> usize {
    index(value as u64)
}

#[cfg(test)]
mod tests;
