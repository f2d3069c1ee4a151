//! The queue to the serial line: lines and records of all, in the order in which they were written.
//!
//! A unit lies behind a header with its origin and length. What each origin has in here is counted
//! against its budget. The room is the sum of all budgets, so a unit within its budget always fits,
//! whoever else writes without end, and the queue never grows.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;

/// Bytes before each unit: its origin and its length.
pub(super) const HEADER: usize = 4;

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    bytes: VecDeque<u8>,
    /// Bytes of each origin that wait.
    waiting: Box<[usize]>,
    /// Origin and bytes left of the unit that is going out.
    unit: (u16, usize),
}

impl Queue {
    /// An empty queue for the origins `0..origins`, whose budgets add up to `room`.
    pub(super) fn new(origins: usize, room: usize) -> Queue {
        Queue { bytes: VecDeque::with_capacity(room), waiting: vec![0; origins].into_boxed_slice(), unit: (0, 0) }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether nothing of an origin waits.
    pub(super) fn is_through(&self, origin: u16) -> bool {
        self.waiting.get(usize::from(origin)) == Some(&0)
    }

    /// Adds a unit, if its origin then has no more than `budget` bytes waiting.
    pub(super) fn push(&mut self, origin: u16, budget: usize, unit: impl Iterator<Item = u8> + Clone) -> bool {
        let length = unit.clone().count();
        let (Some(waiting), Ok(short)) = (self.waiting.get_mut(usize::from(origin)), u16::try_from(length)) else {
            return false;
        };
        let after = waiting.saturating_add(HEADER).saturating_add(length);
        if after > budget {
            return false;
        }
        *waiting = after;
        self.bytes.extend(origin.to_le_bytes().into_iter().chain(short.to_le_bytes()));
        self.bytes.extend(unit);
        true
    }

    /// Origin and first byte of the oldest unit, when none is going out.
    pub(super) fn next_unit(&self) -> Option<(u16, u8)> {
        Some((self.number_at(0)?, *self.bytes.get(HEADER)?))
    }

    /// Lets the oldest unit out, without its first `skip` bytes.
    pub(super) fn begin_unit(&mut self, skip: usize) -> Option<()> {
        self.unit = (self.number_at(0)?, usize::from(self.number_at(2)?).saturating_add(HEADER));
        for _ in 0..skip.saturating_add(HEADER) {
            self.pop();
        }
        Some(())
    }

    fn number_at(&self, place: usize) -> Option<u16> {
        let byte = |at| self.bytes.get(at).copied();
        Some(u16::from_le_bytes([byte(place)?, byte(place.saturating_add(1))?]))
    }

    /// Takes the next byte of the unit that is going out.
    pub(super) fn pop(&mut self) -> Option<u8> {
        let (origin, left) = self.unit;
        self.unit.1 = left.checked_sub(1)?;
        let waiting = self.waiting.get_mut(usize::from(origin))?;
        *waiting = waiting.saturating_sub(1);
        self.bytes.pop_front()
    }

    /// Bytes that it can hold without growing.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}
