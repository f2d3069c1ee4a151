//! The console of one VM: its name, its incomplete line, its share of the transmit room, its input.

use protocol::layout::limit;

use super::ring::{ByteRing, HEADER, Kind, UnitRing};
use super::sanitise::{LONGEST, Output, Sanitiser};
use crate::addr::convert::index;

/// Bytes that one VM's output can wait in.
const RING: usize = 8192;
/// Bytes of a line; a longer one is cut.
const LINE: usize = 256;
/// Bytes typed for a VM that wait at most; later ones are lost.
const INPUT: usize = 256;
/// Bytes of `[name] `.
const PREFIX: usize = 34;
const _: () = assert!(PREFIX == 31 + 3 && limit::NAME == 31);
/// Puts colours back to the default.
pub(super) const RESET: &[u8] = b"\x1b[0m";
/// Bytes of the longest line as a unit. So many stay free while the VM lives, for its last line.
const LONGEST_UNIT: usize = HEADER + PREFIX + LINE + RESET.len() + 1;

/// One VM's console.
#[derive(Debug)]
pub(super) struct Stream {
    /// `[name] `.
    pub(super) prefix: ByteRing,
    line: ByteRing,
    /// Lines that were completed before it.
    lines: u64,
    sanitiser: Sanitiser,
    pub(super) ring: UnitRing,
    pub(super) input: ByteRing,
    pub(super) is_live: bool,
}

impl Stream {
    /// A console without a VM.
    pub(super) fn new() -> Stream {
        Stream {
            prefix: ByteRing::new(PREFIX),
            line: ByteRing::new(LINE),
            lines: 0,
            sanitiser: Sanitiser::new(),
            ring: UnitRing::new(RING),
            input: ByteRing::new(INPUT),
            is_live: false,
        }
    }

    /// Gives the console to a VM. Output of its predecessor still goes out.
    pub(super) fn open(&mut self, name: &str) {
        self.prefix.clear();
        self.prefix.push(b'[');
        for byte in name.bytes().take(index(u64::from(limit::NAME))) {
            self.prefix.push(if byte.is_ascii_graphic() { byte } else { b'?' });
        }
        self.prefix.extend(b"] ");
        self.line.clear();
        self.sanitiser = Sanitiser::new();
        self.input.clear();
        self.is_live = true;
    }

    /// Takes the VM away, and lets its incomplete line out.
    pub(super) fn close(&mut self) -> bool {
        self.is_live = false;
        !self.line.is_empty() && self.flush(0)
    }

    /// How many lines were completed: what names the incomplete one.
    pub(super) const fn lines(&self) -> u64 {
        self.lines
    }

    /// The incomplete line as it is shown, from a byte on; nothing when the line is empty.
    pub(super) fn partial_byte(&self, at: usize) -> Option<u8> {
        if self.line.is_empty() {
            return None;
        }
        let after = at.checked_sub(self.prefix.length());
        after.map_or_else(|| self.prefix.get(at), |at| self.line.get(at))
    }

    /// Takes bytes; how many were taken, and how many lines they completed.
    pub(super) fn write(&mut self, bytes: &[u8]) -> (usize, usize) {
        let (mut taken, mut lines) = (0_usize, 0_usize);
        for byte in bytes {
            if self.line.room() <= LONGEST {
                if !self.flush(LONGEST_UNIT) {
                    break;
                }
                lines = lines.saturating_add(1);
            }
            match self.put(*byte) {
                Put::Inside => {}
                Put::Completed => lines = lines.saturating_add(1),
                Put::Full => break,
            }
            taken = taken.saturating_add(1);
        }
        (taken, lines)
    }

    /// Whether a unit of so many bytes may be added.
    pub(super) const fn has_room(&self, bytes: usize) -> bool {
        self.ring.bytes.room() >= bytes.saturating_add(HEADER).saturating_add(LONGEST_UNIT)
    }

    fn put(&mut self, byte: u8) -> Put {
        let mut output = self.sanitiser.feed(byte);
        if output == Output::Again {
            self.line.extend(b"?");
            output = self.sanitiser.feed(byte);
        }
        match output {
            Output::Nothing | Output::Again => Put::Inside,
            Output::Pending(length) => {
                self.line.extend(self.sanitiser.pending(length));
                Put::Inside
            }
            Output::Byte(byte) => {
                self.line.extend(&[byte]);
                Put::Inside
            }
            Output::Newline if self.flush(LONGEST_UNIT) => Put::Completed,
            Output::Newline => Put::Full,
        }
    }

    /// Makes the line a unit, if so many bytes stay free.
    fn flush(&mut self, reserve: usize) -> bool {
        if self.ring.bytes.room() < reserve.saturating_add(LONGEST_UNIT) {
            return false;
        }
        self.ring.begin();
        for byte in self.prefix.iter().chain(self.line.iter()) {
            self.ring.bytes.push(byte);
        }
        if self.sanitiser.is_styled() {
            self.ring.bytes.extend(RESET);
        }
        self.ring.bytes.push(b'\n');
        self.ring.commit(Kind::Line);
        self.line.clear();
        self.lines = self.lines.wrapping_add(1);
        self.sanitiser.start_line();
        true
    }
}

/// What came of one byte.
enum Put {
    Inside,
    Completed,
    Full,
}
