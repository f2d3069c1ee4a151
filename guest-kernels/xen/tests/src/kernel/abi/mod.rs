//! Whether every call answers as the ABI says.

pub mod events;
mod facts;
#[expect(unsafe_code, reason = "executes instructions that trap")]
mod paging;
#[expect(unsafe_code, reason = "executes instructions that trap")]
mod processor;
#[expect(unsafe_code, reason = "executes instructions that trap")]
mod traps;

pub use facts::{HOLE, HYPERVISOR, reserve};
pub use paging::word_at;

use super::world::{self, check};

/// Checks everything.
pub fn run(stack: u64, segments: [u64; 2]) {
    check("segments at the start", segments, [0xe033, 0xe02b]);
    check("stack at the start", stack & 0xfff, 0);
    for part in [facts::run, paging::run, processor::run, traps::run, events::run] {
        let kept = world::pages_in_use();
        part();
        world::recount();
        check("pages that are stuck", world::give_back(kept), 0);
    }
}
