//! A word that one CPU at a time writes and others may read: an atomic without the ceremony.

use core::sync::atomic::{AtomicU64, Ordering};

/// A word. Reads and writes order nothing else.
#[derive(Debug)]
pub(super) struct Cell(AtomicU64);

impl Cell {
    pub(super) const fn new(value: u64) -> Cell {
        Cell(AtomicU64::new(value))
    }

    #[inline(always)]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
