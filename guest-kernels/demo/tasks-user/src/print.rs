//! Text to the kernel's console, a line at a time.

use core::fmt::{self, Write};

use crate::abi::PRINT_BYTES;
use crate::call;

const CAPACITY: usize = PRINT_BYTES as usize;

struct Writer {
    bytes: [u8; CAPACITY],
    length: usize,
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == CAPACITY {
                self.flush();
            }
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

impl Writer {
    fn flush(&mut self) {
        call::print(self.bytes.get(..self.length).unwrap_or_default());
        self.length = 0;
    }
}

/// What [`println!`](crate::println) does.
pub fn print(arguments: fmt::Arguments<'_>) {
    let mut writer = Writer { bytes: [0; CAPACITY], length: 0 };
    let _ = writer.write_fmt(arguments);
    writer.flush();
}
