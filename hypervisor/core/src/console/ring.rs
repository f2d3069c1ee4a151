//! A byte ring of whole units: lines and records, each put in entirely or not at all.

use alloc::boxed::Box;
use alloc::vec;

use crate::addr::convert::{index, wide};

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A line with its newline: it starts at the left edge.
    Line,
    /// Bytes that a terminal does not show.
    Record,
}

/// Bytes before each unit: its length, and a bit for its kind.
pub(super) const HEADER: usize = 2;
const RECORD_BIT: u16 = 1 << 15;
/// Bytes of the longest unit.
pub(super) const LONGEST_UNIT: usize = (1 << 15) - 1;

/// The ring.
#[derive(Debug)]
pub(super) struct UnitRing {
    bytes: Box<[u8]>,
    start: usize,
    used: usize,
    /// Where the unit that is being written began, counted from `start`.
    open: usize,
}

impl UnitRing {
    /// An empty ring of a power of two of bytes.
    pub(super) fn new(capacity: usize) -> UnitRing {
        UnitRing {
            bytes: vec![0; capacity.next_power_of_two()].into_boxed_slice(),
            start: 0,
            used: 0,
            open: 0,
        }
    }

    /// Bytes that are free.
    pub(super) const fn room(&self) -> usize {
        self.bytes.len().saturating_sub(self.used)
    }

    /// Whether it holds no unit.
    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Begins a unit.
    pub(super) fn begin(&mut self) {
        self.open = self.used;
        self.push(0);
        self.push(0);
    }

    /// Adds a byte to the unit that was begun.
    pub(super) fn push(&mut self, byte: u8) {
        let at = self.place(self.used);
        if self.room() > 0
            && let Some(slot) = self.bytes.get_mut(at)
        {
            *slot = byte;
            self.used = self.used.saturating_add(1);
        }
    }

    /// Ends the unit that was begun.
    pub(super) fn commit(&mut self, kind: Kind) {
        let length = self.used.saturating_sub(self.open).saturating_sub(HEADER);
        let kind = match kind {
            Kind::Line => 0,
            Kind::Record => RECORD_BIT,
        };
        let header = (u16::try_from(length).unwrap_or(0) | kind).to_le_bytes();
        for (offset, byte) in header.into_iter().enumerate() {
            let at = self.place(self.open.saturating_add(offset));
            if let Some(slot) = self.bytes.get_mut(at) {
                *slot = byte;
            }
        }
    }

    /// Takes the header of the oldest unit; its bytes are then popped one by one.
    pub(super) fn pop_header(&mut self) -> Option<(Kind, usize)> {
        let header = u16::from_le_bytes([self.pop()?, self.pop()?]);
        let kind = if header & RECORD_BIT == 0 {
            Kind::Line
        } else {
            Kind::Record
        };
        Some((kind, usize::from(header & !RECORD_BIT)))
    }

    /// The kind of the oldest unit.
    pub(super) fn peek_kind(&self) -> Option<Kind> {
        let high = *self.bytes.get(self.place(1))?;
        match (self.used, high & 0x80) {
            (0, _) => None,
            (_, 0) => Some(Kind::Line),
            _ => Some(Kind::Record),
        }
    }

    /// Takes one byte.
    pub(super) fn pop(&mut self) -> Option<u8> {
        self.used = self.used.checked_sub(1)?;
        let byte = self.bytes.get(self.start).copied();
        self.start = self.place(1);
        byte
    }

    /// The index of the byte that many places behind the first.
    fn place(&self, offset: usize) -> usize {
        let mask = wide(self.bytes.len()).wrapping_sub(1);
        index(wide(self.start.wrapping_add(offset)) & mask)
    }
}
