//! A short text on the stack, for lines that are put together where nothing may be allocated.

use core::fmt;

/// Text of at most 200 bytes; the rest is cut off.
#[derive(Debug)]
pub(super) struct Text {
    bytes: [u8; 200],
    used: usize,
}

impl Text {
    /// Empty text.
    pub(super) const fn new() -> Text {
        Text { bytes: [0; 200], used: 0 }
    }

    /// The text so far.
    pub(super) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.used).unwrap_or(&[]);
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => bytes
                .get(..error.valid_up_to())
                .and_then(|valid| core::str::from_utf8(valid).ok())
                .unwrap_or(""),
        }
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (slot, byte) in self.bytes.iter_mut().skip(self.used).zip(text.bytes()) {
            *slot = byte;
            self.used = self.used.saturating_add(1);
        }
        Ok(())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
