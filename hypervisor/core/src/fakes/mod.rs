//! The machine as a host test sees it: frames in memory, and the page-table stores that were made.
//!
//! Unlike the real one it checks what it is asked: a frame or index out of range panics, which
//! is what a test wants.
#![cfg(any(test, feature = "fakes"))]
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a fake for tests: out of range is the test's failure"
)]

pub mod space;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::AtomicU64;

use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::FrameTable;
use crate::space::{TableMemory, ValidEntry};

const FRAME_BYTES: usize = 4096;

/// One recorded store of a page-table entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store {
    /// The table.
    pub table: Mfn,
    /// Which entry.
    pub index: usize,
    /// What it was.
    pub old: u64,
    /// What it became.
    pub new: u64,
}

/// Machine memory from frame 0 on.
#[derive(Debug)]
pub struct FakeMemory {
    frames: RefCell<Vec<Box<[u8; FRAME_BYTES]>>>,
    stores: RefCell<Vec<Store>>,
    #[cfg(feature = "xen")]
    flushes: core::cell::Cell<u64>,
}

impl FakeMemory {
    /// Memory of `frames` frames full of garbage, so that a missing `clear` shows.
    #[must_use]
    pub fn new(frames: usize) -> FakeMemory {
        FakeMemory {
            frames: RefCell::new(vec![Box::new([0xa5; FRAME_BYTES]); frames]),
            stores: RefCell::new(Vec::new()),
            #[cfg(feature = "xen")]
            flushes: core::cell::Cell::new(0),
        }
    }

    /// The stores since the last call, in order.
    pub fn take_stores(&self) -> Vec<Store> {
        self.stores.take()
    }

    /// Flushes since the last call.
    #[cfg(feature = "xen")]
    pub fn take_flushes(&self) -> u64 {
        self.flushes.take()
    }

    /// A copy of a frame.
    #[must_use]
    pub fn bytes(&self, frame: Mfn) -> [u8; FRAME_BYTES] {
        *self.frames.borrow()[index(frame.0)]
    }

    /// Whether a frame is all zero.
    #[must_use]
    pub fn is_clear(&self, frame: Mfn) -> bool {
        *self.frames.borrow()[index(frame.0)] == [0; FRAME_BYTES]
    }
}

impl TableMemory for FakeMemory {
    #[inline]
    fn load(&self, frame: Mfn, word: usize) -> u64 {
        let frames = self.frames.borrow();
        let (words, _) = frames[index(frame.0)].as_chunks::<8>();
        u64::from_le_bytes(words[word])
    }

    #[inline]
    fn store(&self, table: Mfn, word: usize, entry: ValidEntry) {
        let old = self.load(table, word);
        self.write(table, word * 8, &entry.bits().to_le_bytes());
        self.stores.borrow_mut().push(Store { table, index: word, old, new: entry.bits() });
    }

    #[inline]
    fn clear(&self, frame: Mfn) {
        self.frames.borrow_mut()[index(frame.0)].fill(0);
    }

    #[inline]
    fn write(&self, frame: Mfn, offset: usize, bytes: &[u8]) {
        let mut frames = self.frames.borrow_mut();
        frames[index(frame.0)][offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(feature = "xen")]
impl crate::paging::GuestTables for FakeMemory {
    fn compare_exchange(&self, table: Mfn, word: usize, old: u64, entry: ValidEntry) -> Result<(), u64> {
        let actual = self.load(table, word);
        if actual != old {
            return Err(actual);
        }
        self.store(table, word, entry);
        Ok(())
    }

    fn store_word(&self, frame: Mfn, word: usize, value: u64) {
        self.write(frame, word * 8, &value.to_le_bytes());
    }

    fn flush(&self) {
        self.flushes.set(self.flushes.get() + 1);
    }
}

/// Records for a machine of `frames` frames.
#[must_use]
pub fn records(frames: usize) -> Vec<AtomicU64> {
    let mut records = Vec::new();
    records.resize_with(frames, || AtomicU64::new(0));
    records
}

/// A frame table over `records` whose frames are all free but frame 0.
#[must_use]
pub fn free_table(records: &[AtomicU64]) -> FrameTable<'_> {
    let table = FrameTable::new(records);
    table.release_range(Mfn(0)..Mfn(table.frames()));
    table
}
