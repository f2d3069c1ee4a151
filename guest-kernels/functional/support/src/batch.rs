//! Batches whose calls are harmless.

use guest_sdk::protocol::shared::{BatchEntry, MemoryBatchEntry};
use guest_sdk::{Status, call};

/// Makes calls that touch no memory of the program, or are refused.
///
/// # Errors
/// Those of `batch`.
pub fn calls(entries: &mut [BatchEntry]) -> Result<u64, Status> {
    // SAFETY: the test passes calls that only ask, or that are refused; see `wild`.
    unsafe { call::batch(entries) }
}

/// Changes mappings of the lower half.
///
/// # Errors
/// Those of `memory_batch`.
pub fn memory(entries: &[MemoryBatchEntry]) -> Result<u64, Status> {
    // SAFETY: the test passes addresses of the lower half, where no Rust object lies, and frames that
    // it owns.
    unsafe { call::memory_batch(entries) }
}
