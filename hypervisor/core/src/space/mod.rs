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
mod pool;
mod spaces;
mod teardown;
mod walk;

use protocol::layout::limit;
use protocol::{Gfn, SpaceId, Status, VmId};

use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::{Class, FrameTable, Kind, Owner};

pub use batch::{Batch, WORK_PAGES};
pub use entry::ValidEntry;
pub use flush::{Flush, FlushOwed, PageRange};
pub use grants::GrantedFrame;
pub use list::FrameList;
pub use map::GRANT_NUMBER;
pub use pool::Pool;
pub use spaces::Roots;
pub use teardown::{Remains, Teardown};
pub use walk::PageWalk;

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
    /// Nothing was asked.
    const NOTHING: Covered = Covered { pages: 0, stopped: None, flush: FlushOwed::NOTHING };
}

/// The memory of one VM.
#[derive(Debug)]
pub struct Memory {
    owner: Owner,
    /// The VM's memory in the frame table.
    data: Class,
    list: FrameList,
    pool: Pool,
    /// Tables that were replaced and wait for a flush.
    retired: Pool,
    spaces: [Option<Space>; SPACES],
    slots: HypervisorSlots,
    time_page: Mfn,
    channels: [Option<Region>; CHANNELS],
    /// Pages of the vCPUs: first frame and how many. The hypervisor writes them, so each has a
    /// reference beyond those of its mappings.
    vcpu_pages: (Gfn, u64),
    /// Guest frames that were taken back already, while the VM is taken down.
    taken_down: u64,
}

const SPACES: usize = index_of(limit::SPACES);
const CHANNELS: usize = index_of(limit::CHANNELS);

/// Frames and lists that a [`Memory`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// The VM.
    pub vm: VmId,
    /// Its frame list.
    pub list: FrameList,
    /// The hypervisor's slots.
    pub slots: HypervisorSlots,
    /// Its time page.
    pub time_page: Mfn,
}

impl Memory {
    /// A memory without spaces, with an empty pool.
    #[must_use]
    pub const fn new(parts: Parts) -> Memory {
        Memory {
            owner: Owner::Vm(parts.vm),
            data: Class::new(Owner::Vm(parts.vm), Kind::Data),
            list: parts.list,
            pool: Pool::EMPTY,
            retired: Pool::EMPTY,
            spaces: [None; SPACES],
            slots: parts.slots,
            time_page: parts.time_page,
            channels: [None; CHANNELS],
            vcpu_pages: (Gfn(0), 0),
            taken_down: 0,
        }
    }

    /// Frames of the VM, released ones included.
    #[must_use]
    pub const fn memory_frames(&self) -> u64 {
        self.list.frames()
    }

    /// Free frames in the pool.
    #[must_use]
    pub const fn pool_frames(&self) -> u64 {
        self.pool.free()
    }

    /// Gives the VM one of its channels.
    pub(crate) fn attach_channel(&mut self, channel: usize, region: Region) {
        if let Some(slot) = self.channels.get_mut(channel) {
            *slot = Some(region);
        }
    }

    /// Notes which pinned frames are the vCPUs' pages.
    pub(crate) const fn set_vcpu_pages(&mut self, first: Gfn, pages: u64) {
        self.vcpu_pages = (first, pages);
    }

    /// The builder's: sets the machine frame of a guest frame.
    pub(crate) fn set_frame<T: TableMemory>(&self, machine: Machine<'_, T>, frame: Gfn, to: Mfn) {
        self.list.set(machine, frame, Some(to));
    }

    /// The machine frame of a guest frame of the VM's own memory.
    #[must_use]
    pub fn frame<T: TableMemory>(&self, machine: Machine<'_, T>, frame: Gfn) -> Option<Mfn> {
        self.list.get(machine, frame).ok().flatten()
    }

    /// Pays a flush: `flush` is called at most once and returns when every CPU has forgotten. Then
    /// tables that were replaced become free. Must happen before the lock of the memory is released.
    #[inline]
    pub fn settle<T: TableMemory>(&mut self, machine: Machine<'_, T>, owed: FlushOwed, flush: impl FnOnce(Flush)) {
        owed.pay(flush);
        while let Some(table) = self.retired.take(machine.frames, self.owner, Kind::Table) {
            self.give_table(machine, table);
        }
    }

    /// Adds a cleared frame of the VM (`Kept` or of another kind that is not in use) to the pool.
    pub(crate) fn give<T: TableMemory>(&mut self, machine: Machine<'_, T>, frame: Mfn, kind: Kind) {
        machine.tables.clear(frame);
        self.pool.give(machine.frames, self.owner, frame, kind);
    }

    fn give_table<T: TableMemory>(&mut self, machine: Machine<'_, T>, table: Mfn) {
        self.give(machine, table, Kind::Table);
    }

    /// The space of a number, unless it is being destroyed.
    ///
    /// # Errors
    /// [`Status::NotFound`].
    fn live(&self, space: SpaceId) -> Result<&Space, Status> {
        match self.spaces.get(index_of(space.0)) {
            Some(Some(found)) if !found.is_dying() => Ok(found),
            _ => Err(Status::NotFound),
        }
    }

    /// As [`Memory::live`], to change it.
    ///
    /// # Errors
    /// [`Status::NotFound`].
    fn live_mut(&mut self, space: SpaceId) -> Result<&mut Space, Status> {
        match self.spaces.get_mut(index_of(space.0)) {
            Some(Some(found)) if !found.is_dying() => Ok(found),
            _ => Err(Status::NotFound),
        }
    }
}

/// A 32-bit number as an index.
#[expect(clippy::as_conversions, reason = "const code: u32 widens to u64")]
const fn index_of(value: u32) -> usize {
    index(value as u64)
}

#[cfg(test)]
mod tests;
