//! Bytes typed for one VM and not read yet.

use crate::addr::convert::{index, wide};

/// Bytes that wait at most; later ones are lost.
const CAPACITY: usize = 256;

/// The queue.
#[derive(Debug)]
pub(super) struct InputQueue {
    bytes: [u8; CAPACITY],
    start: usize,
    used: usize,
}

impl InputQueue {
    /// An empty queue.
    pub(super) const fn new() -> InputQueue {
        InputQueue {
            bytes: [0; CAPACITY],
            start: 0,
            used: 0,
        }
    }

    /// Adds a byte; whether there was room.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        let at = place(self.start, self.used);
        if self.used >= CAPACITY {
            return false;
        }
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
            self.used = self.used.saturating_add(1);
        }
        true
    }

    /// Copies the oldest bytes without taking them; how many.
    pub(super) fn peek(&self, out: &mut [u8]) -> usize {
        let count = self.used.min(out.len());
        for (offset, slot) in out.iter_mut().take(count).enumerate() {
            *slot = self.bytes.get(place(self.start, offset)).map_or(0, |b| *b);
        }
        count
    }

    /// Takes the oldest bytes.
    pub(super) fn consume(&mut self, count: usize) {
        let count = count.min(self.used);
        self.start = place(self.start, count);
        self.used = self.used.saturating_sub(count);
    }
}

fn place(start: usize, offset: usize) -> usize {
    index(wide(start.wrapping_add(offset)) & wide(CAPACITY).wrapping_sub(1))
}
