//! A line of bounded length that is not complete yet.

/// Bytes of a line; a longer one is cut.
pub(super) const LINE: usize = 256;

/// The line.
#[derive(Debug)]
pub(super) struct Line {
    bytes: [u8; LINE],
    length: usize,
}

impl Line {
    /// An empty line.
    pub(super) const fn new() -> Line {
        Line {
            bytes: [0; LINE],
            length: 0,
        }
    }

    /// What it holds.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Bytes that fit.
    pub(super) const fn room(&self) -> usize {
        LINE.saturating_sub(self.length)
    }

    /// Adds bytes; they fit.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let end = self.length.saturating_add(bytes.len());
        if let Some(slots) = self.bytes.get_mut(self.length..end) {
            slots.copy_from_slice(bytes);
            self.length = end;
        }
    }

    /// Empties it.
    pub(super) const fn clear(&mut self) {
        self.length = 0;
    }
}
