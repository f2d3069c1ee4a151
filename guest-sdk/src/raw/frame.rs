//! The VM's free frames: single ones from the top of its memory down, the heap's from the bottom up.
//!
//! Invariant F1: a frame number between `Memory::low` and `Memory::high` is nobody's; one on the
//! free list was given back by its only owner; a [`Frame`] value is that frame's only owner.

use protocol::Gfn;
use protocol::layout::PAGE_SIZE;

use super::region::{self, Region};
use crate::sync::Mutex;

#[derive(Debug)]
struct Memory {
    /// First frame that the heap has not taken.
    low: u64,
    /// End of the frames that nobody has taken.
    high: u64,
    /// First frame of the free list, whose first word is the number of the next; 0 for none.
    free: u64,
    free_count: u64,
    total: u64,
}

static MEMORY: Mutex<Memory> = Mutex::new(Memory { low: 0, high: 0, free: 0, free_count: 0, total: 0 });

/// Bytes of a page, for buffers.
pub const PAGE_BYTES: usize = PAGE_SIZE as usize;

/// A frame of the VM's memory, which nobody else uses. Dropping it gives it back.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    number: Gfn,
}

/// A run of frames with consecutive numbers, of which nobody else uses any.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameRun {
    first: Gfn,
    count: u64,
}

impl Memory {
    fn take(&mut self) -> Option<Gfn> {
        if self.free != 0 {
            let number = Gfn(self.free);
            let mut next = [0; 8];
            // SAFETY: a frame on the list is nobody's, by F1.
            let bytes = unsafe { region::frames(number, 1) }?;
            let _ = bytes.read(0, &mut next);
            bytes.clear();
            self.free = u64::from_le_bytes(next);
            self.free_count -= 1;
            return Some(number);
        }
        if self.low >= self.high {
            return None;
        }
        // Frames that nobody had are zero: the hypervisor zeroes them.
        self.high -= 1;
        Some(Gfn(self.high))
    }

    fn give(&mut self, number: Gfn) {
        // SAFETY: its only owner gives it back, by F1.
        if let Some(bytes) = unsafe { region::frames(number, 1) } {
            let _ = bytes.write(0, &self.free.to_le_bytes());
            self.free = number.0;
            self.free_count += 1;
        }
    }
}

/// Takes over the VM's free memory. The entry code does this once.
pub(super) fn start(first_free: u64, memory_frames: u64) {
    let mut memory = MEMORY.lock();
    memory.low = first_free;
    memory.high = memory_frames;
    memory.total = memory_frames;
}

/// Takes frames for the heap, next to those that it took last.
#[cfg(feature = "alloc")]
pub(super) fn take_for_heap(count: u64) -> Option<u64> {
    let mut memory = MEMORY.lock();
    let end = memory.low.checked_add(count).filter(|end| *end <= memory.high)?;
    let first = memory.low;
    memory.low = end;
    Some(first)
}

/// Frames that are free, and all frames of the VM.
#[must_use]
pub fn usage() -> (u64, u64) {
    let memory = MEMORY.lock();
    (memory.high - memory.low + memory.free_count, memory.total)
}

impl Frame {
    /// A frame filled with zeros; nothing when memory is used up.
    #[must_use]
    pub fn new() -> Option<Frame> {
        MEMORY.lock().take().map(|number| Frame { number })
    }

    /// Its number, to map it.
    #[must_use]
    pub fn number(&self) -> Gfn {
        self.number
    }

    /// Copies bytes from the frame; whether they lie within it.
    #[must_use]
    pub fn read(&self, offset: usize, target: &mut [u8]) -> bool {
        self.bytes().is_some_and(|bytes| bytes.read(offset, target))
    }

    /// Copies bytes into the frame; whether they lie within it.
    #[must_use]
    pub fn write(&self, offset: usize, source: &[u8]) -> bool {
        self.bytes().is_some_and(|bytes| bytes.write(offset, source))
    }

    fn bytes(&self) -> Option<Region> {
        // SAFETY: the value is the frame's only owner, by F1, and makes no reference into it.
        unsafe { region::frames(self.number, 1) }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        MEMORY.lock().give(self.number);
    }
}

impl FrameRun {
    /// `count` zeroed frames, the first of which is a multiple of `alignment` (a power of two);
    /// nothing when memory has no such run that was never used.
    #[must_use]
    pub fn new(count: u64, alignment: u64) -> Option<FrameRun> {
        let mut memory = MEMORY.lock();
        let first = memory.high.checked_sub(count)? & alignment.wrapping_neg();
        if first < memory.low || count == 0 {
            return None;
        }
        for skipped in first + count..memory.high {
            memory.give(Gfn(skipped));
        }
        memory.high = first;
        Some(FrameRun { first: Gfn(first), count })
    }

    /// The first frame's number.
    #[must_use]
    pub fn first(&self) -> Gfn {
        self.first
    }

    /// How many frames.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Copies bytes from the frames; whether they lie within.
    #[must_use]
    pub fn read(&self, offset: usize, target: &mut [u8]) -> bool {
        self.bytes().is_some_and(|bytes| bytes.read(offset, target))
    }

    /// Copies bytes into the frames; whether they lie within.
    #[must_use]
    pub fn write(&self, offset: usize, source: &[u8]) -> bool {
        self.bytes().is_some_and(|bytes| bytes.write(offset, source))
    }

    fn bytes(&self) -> Option<Region> {
        // SAFETY: the value is the frames' only owner, by F1, and makes no reference into them.
        unsafe { region::frames(self.first, self.count) }
    }
}

impl Drop for FrameRun {
    fn drop(&mut self) {
        let mut memory = MEMORY.lock();
        for number in self.first.0..self.first.0 + self.count {
            memory.give(Gfn(number));
        }
    }
}
