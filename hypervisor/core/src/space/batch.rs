//! `memory_batch`: operations one after the other, one flush for all.

use protocol::call::{Map, Protect, Unmap};
use protocol::flags::{MapFlags, MemoryOperation};
use protocol::shared::MemoryBatchEntry;
use protocol::{Gfn, GuestVirt, SpaceId, Status};

use super::{Covered, FlushOwed, Machine, Memory, TableMemory};

/// Pages after which a batch stops early, to be called again for the rest.
pub const WORK_PAGES: u64 = 1024;

/// What a batch did.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// Entries done wholly, from the first on.
    pub done: u64,
    /// Why the next one was not, if it was tried.
    pub refused: Option<Status>,
    /// What must be settled, also after a refusal.
    pub flush: FlushOwed,
}

impl Batch {
    /// What the call returns.
    ///
    /// # Errors
    /// The first entry's status, when it was not done wholly.
    pub const fn reply(done: u64, refused: Option<Status>) -> Result<u64, Status> {
        match refused {
            Some(status) if done == 0 => Err(status),
            _ => Ok(done),
        }
    }
}

impl Memory {
    /// The call `memory_batch`, over entries that were copied from the guest. Does at least the first.
    pub fn batch<T: TableMemory>(&mut self, machine: Machine<'_, T>, entries: &[MemoryBatchEntry]) -> Batch {
        let mut batch = Batch { done: 0, refused: None, flush: FlushOwed::NOTHING };
        let mut work = 0_u64;
        for entry in entries {
            if work >= WORK_PAGES {
                break;
            }
            match self.batch_entry(machine, entry) {
                Ok(covered) => {
                    batch.flush = batch.flush.merge(covered.flush);
                    if covered.stopped.is_some() {
                        batch.refused = covered.stopped;
                        break;
                    }
                    batch.done = batch.done.saturating_add(1);
                    // An entry that covers nothing costs something, too; a large page costs 512.
                    let pages = if entry.flags & MapFlags::LARGE.bits() == 0 {
                        covered.pages
                    } else {
                        protocol::layout::LARGE_PAGE_FRAMES
                    };
                    work = work.saturating_add(pages.saturating_add(8));
                }
                Err(status) => {
                    batch.refused = Some(status);
                    break;
                }
            }
        }
        batch
    }

    /// One entry.
    ///
    /// # Errors
    /// That of the operation, when it did nothing.
    fn batch_entry<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        entry: &MemoryBatchEntry,
    ) -> Result<Covered, Status> {
        let operation = MemoryOperation::from_number(u64::from(entry.operation));
        let flags = MapFlags::from_bits(entry.flags).ok_or(Status::InvalidArgument)?;
        let space = SpaceId(entry.space);
        let address = GuestVirt(entry.address);
        let count = entry.count;
        match operation.ok_or(Status::InvalidArgument)? {
            MemoryOperation::Map => self.map(machine, Map { space, address, frame: Gfn(entry.frame), count, flags }),
            MemoryOperation::Unmap if entry.frame == 0 && flags.is_empty() => {
                let call = Unmap { space, address, count };
                self.unmap(machine, call)
            }
            MemoryOperation::Protect if entry.frame == 0 => {
                let call = Protect { space, address, count, flags };
                self.protect(machine, call)
            }
            MemoryOperation::Unmap | MemoryOperation::Protect => Err(Status::InvalidArgument),
        }
    }
}
