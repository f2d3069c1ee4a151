//! A line that is being typed, with echo and rubout.

use guest_sdk::print;

const CAPACITY: usize = 120;

/// What was typed since the last line end.
pub struct Line {
    bytes: [u8; CAPACITY],
    length: usize,
    /// The line is over: the next byte starts a new one.
    over: bool,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Line {
        Line { bytes: [0; CAPACITY], length: 0, over: false }
    }

    /// Takes one typed byte; the whole line when it ends it. What finds no room is dropped.
    pub fn type_byte(&mut self, byte: u8) -> Option<&str> {
        if self.over {
            self.over = false;
            self.length = 0;
        }
        match byte {
            b'\r' | b'\n' => {
                print!("\n");
                self.over = true;
                let text = self.bytes.get(..self.length).unwrap_or_default();
                return core::str::from_utf8(text).ok();
            }
            0x08 | 0x7f if self.length > 0 => {
                self.length -= 1;
                print!("\x08 \x08");
            }
            b' '..=b'~' => {
                if let Some(place) = self.bytes.get_mut(self.length) {
                    *place = byte;
                    self.length += 1;
                    print!("{}", char::from(byte));
                }
            }
            _ => {}
        }
        None
    }
}
