//! Where a process may have pages, and how they come when touched.

use guest_sdk::Status;
use guest_sdk::protocol::flags::MapFlags;
use guest_sdk::space::{Space, page_of};
use guest_sdk::trap;
use guest_sdk::user::{Fault, page_fault};

/// End of the stack, and its greatest size.
pub const STACK_TOP: u64 = 0x7000_0000_0000;
const STACK_BYTES: u64 = 256 * 1024;
/// Start of the heap, and its greatest size.
const HEAP_START: u64 = 0x1000_0000;
const HEAP_BYTES: u64 = 4 * 1024 * 1024;

/// The areas of one process that grow.
#[derive(Debug)]
pub struct Areas {
    heap_end: u64,
}

impl Areas {
    /// An empty heap and the stack.
    pub fn new() -> Areas {
        Areas { heap_end: HEAP_START }
    }

    /// Makes the heap larger; where the new part starts, or nothing over the limit.
    pub fn grow_heap(&mut self, bytes: u64) -> Option<u64> {
        let start = self.heap_end;
        let end = start.checked_add(bytes.checked_next_multiple_of(4096)?)?;
        if end > HEAP_START + HEAP_BYTES {
            return None;
        }
        self.heap_end = end;
        Some(start)
    }

    /// Maps the page that a fault asks for; false when the process has no right to it.
    pub fn resolve(&self, fault: Fault, space: &mut Space) -> Result<bool, Status> {
        let wanted = fault.vector == trap::PAGE_FAULT
            && fault.error_code & (page_fault::PRESENT | page_fault::FETCH) == 0
            && self.covers(fault.address);
        if wanted {
            space.map_zeroed(page_of(fault.address), 1, MapFlags::WRITE)?;
        }
        Ok(wanted)
    }

    fn covers(&self, address: u64) -> bool {
        (HEAP_START..self.heap_end).contains(&address) || (STACK_TOP - STACK_BYTES..STACK_TOP).contains(&address)
    }
}
