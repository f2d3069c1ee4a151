//! The cases, a module for each group of calls.

mod audit;
mod console;
mod debug;
mod events;
mod frames;
mod generated;
mod grants;
mod mapping;
mod memory_batches;
mod ports;
mod refusals;
mod scheduling;
mod segments;
mod spaces;
mod timer;
mod traps;

use alloc::vec::Vec;

use crate::case::Case;

/// Every case, in the order in which they run.
pub fn all() -> Vec<Case> {
    let groups = [
        generated::cases(),
        refusals::cases(),
        audit::cases(),
        console::cases(),
        scheduling::cases(),
        timer::cases(),
        traps::cases(),
        events::cases(),
        segments::cases(),
        debug::cases(),
        ports::cases(),
        spaces::cases(),
        mapping::cases(),
        memory_batches::cases(),
        frames::cases(),
        grants::cases(),
    ];
    groups.into_iter().flatten().collect()
}
