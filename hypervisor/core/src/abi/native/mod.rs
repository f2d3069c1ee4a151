//! The native ABI, as far as it can be decided from values alone.

pub mod cpuid;
pub mod debug;
pub mod entry;
pub mod traps;
