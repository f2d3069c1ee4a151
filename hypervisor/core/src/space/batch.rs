//! `memory_batch`: operations one after the other, one flush for all.

use protocol::call::{Map, Protect, Unmap};
use protocol::flags::{MapFlags, MemoryOperation};
use protocol::layout::LARGE_PAGE_FRAMES;
use protocol::shared::MemoryBatchEntry;
use protocol::{Gfn, GuestVirt, SpaceId, Status};

use super::{Covered, FlushOwed, Machine, Memory, TableMemory};

/// Pages after which a batch stops early, to be called again for the rest.
pub const WORK_PAGES: u64 = 1024;

impl Memory {
    /// The call `memory_batch`, over entries that were copied from the guest. Does at least the first.
    /// Returns what must be settled, also after a refusal, and what the call returns.
    pub fn batch(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        entries: &[MemoryBatchEntry],
    ) -> (FlushOwed, Result<u64, Status>) {
        let (mut owed, mut done, mut work) = (FlushOwed::NOTHING, 0_u64, 0_u64);
        for entry in entries {
            if work >= WORK_PAGES {
                break;
            }
            let stopped = match self.batch_entry(machine, entry) {
                Ok(Covered { pages, stopped, flush }) => {
                    owed = owed.merge(flush);
                    // An entry that covers nothing costs something, too; a large page costs 512.
                    let is_large = entry.flags & MapFlags::LARGE.bits() != 0;
                    work = work.saturating_add(if is_large { LARGE_PAGE_FRAMES } else { pages }).saturating_add(8);
                    stopped
                }
                Err(status) => Some(status),
            };
            match stopped {
                None => done = done.saturating_add(1),
                Some(status) if done == 0 => return (owed, Err(status)),
                Some(_) => break,
            }
        }
        (owed, Ok(done))
    }

    /// One entry.
    ///
    /// # Errors
    /// That of the operation, when it did nothing.
    fn batch_entry(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
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
                self.unmap(machine, Unmap { space, address, count })
            }
            MemoryOperation::Protect if entry.frame == 0 => {
                self.protect(machine, Protect { space, address, count, flags })
            }
            MemoryOperation::Unmap | MemoryOperation::Protect => Err(Status::InvalidArgument),
        }
    }
}
