//! Rings of bytes, and of whole units in them: lines and records, each put in entirely or not at
//! all.

use alloc::boxed::Box;
use alloc::vec;
use core::fmt::{self, Write as _};

use crate::addr::convert::{index, wide};

/// Bytes in order of arrival. Allocated once.
#[derive(Debug)]
pub(super) struct ByteRing {
    bytes: Box<[u8]>,
    start: usize,
    used: usize,
}

impl ByteRing {
    /// An empty ring of a power of two of bytes.
    pub(super) fn new(capacity: usize) -> ByteRing {
        ByteRing { bytes: vec![0; capacity.next_power_of_two()].into_boxed_slice(), start: 0, used: 0 }
    }

    /// Bytes that are free.
    pub(super) const fn room(&self) -> usize {
        self.bytes.len().saturating_sub(self.used)
    }

    /// Bytes that it holds.
    pub(super) const fn length(&self) -> usize {
        self.used
    }

    /// Whether it holds nothing.
    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Drops all it holds.
    pub(super) const fn clear(&mut self) {
        self.used = 0;
    }

    /// Adds a byte; whether there was room.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        let has_room = self.room() > 0;
        if has_room {
            self.used = self.used.saturating_add(1);
            self.put(self.used.saturating_sub(1), byte);
        }
        has_room
    }

    /// Adds bytes that there is room for.
    pub(super) fn extend<'a>(&mut self, bytes: impl IntoIterator<Item = &'a u8>) {
        for byte in bytes {
            self.push(*byte);
        }
    }

    /// Takes the oldest byte.
    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = self.get(0)?;
        self.used = self.used.saturating_sub(1);
        self.start = self.place(1);
        Some(byte)
    }

    /// The byte that many places behind the oldest.
    pub(super) fn get(&self, at: usize) -> Option<u8> {
        let byte = self.bytes.get(self.place(at)).copied();
        byte.filter(|_| at < self.used)
    }

    /// Its bytes, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = u8> {
        (0..self.used).map_while(|at| self.get(at))
    }

    fn put(&mut self, at: usize, byte: u8) {
        let at = self.place(at);
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
        }
    }

    fn place(&self, at: usize) -> usize {
        let mask = wide(self.bytes.len()).wrapping_sub(1);
        index(wide(self.start.wrapping_add(at)) & mask)
    }
}

impl fmt::Display for ByteRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|byte| f.write_char(char::from(byte)))
    }
}

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

/// A ring of units.
#[derive(Debug)]
pub(super) struct UnitRing {
    /// The bytes. Written between `begin` and `commit`, taken after `pop_header`.
    pub(super) bytes: ByteRing,
    /// Where the unit that is being written began, counted from the oldest byte.
    open: usize,
}

impl UnitRing {
    /// An empty ring of a power of two of bytes.
    pub(super) fn new(capacity: usize) -> UnitRing {
        UnitRing { bytes: ByteRing::new(capacity), open: 0 }
    }

    /// Begins a unit.
    pub(super) fn begin(&mut self) {
        self.open = self.bytes.used;
        self.bytes.extend(&[0; HEADER]);
    }

    /// Ends the unit that was begun.
    pub(super) fn commit(&mut self, kind: Kind) {
        let length = self.bytes.used.saturating_sub(self.open);
        let length = u16::try_from(length.saturating_sub(HEADER)).unwrap_or(0);
        let [low, high] = match kind {
            Kind::Line => length,
            Kind::Record => length | RECORD_BIT,
        }
        .to_le_bytes();
        self.bytes.put(self.open, low);
        self.bytes.put(self.open.saturating_add(1), high);
    }

    /// The kind and length of the oldest unit.
    pub(super) fn header(&self) -> Option<(Kind, usize)> {
        let header = u16::from_le_bytes([self.bytes.get(0)?, self.bytes.get(1)?]);
        let length = usize::from(header & !RECORD_BIT);
        let is_line = header & RECORD_BIT == 0;
        Some((if is_line { Kind::Line } else { Kind::Record }, length))
    }

    /// Takes the header of the oldest unit; its bytes are then popped one by one.
    pub(super) fn pop_header(&mut self) -> Option<(Kind, usize)> {
        let header = self.header()?;
        self.bytes.pop()?;
        self.bytes.pop()?;
        Some(header)
    }
}
