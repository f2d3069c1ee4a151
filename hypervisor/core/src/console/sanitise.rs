//! Decides which bytes of a guest reach the terminal.
//!
//! A guest must be able neither to draw over the prefix of its line, nor to end the line without a
//! newline, nor to send the terminal a command other than a colour. So: printable ASCII, tab and
//! newline pass; backspace passes as often as ASCII was printed before it in the line; `ESC [ ... m`
//! with digits and semicolons passes whole; well-formed UTF-8 passes except the C1 controls (U+0080
//! to U+009F, which 8-bit terminals obey). Carriage return disappears, so that "\r\n" is a newline.
//! Anything else becomes `?`.

/// What comes of one input byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Nothing, or nothing yet.
    Nothing,
    /// These bytes of [`Sanitiser::pending`] are to be shown, and are whole.
    Pending(usize),
    /// This byte.
    Byte(u8),
    /// A sequence broke off: show `?`, and feed the byte again.
    Again,
    /// The line ends.
    Newline,
}

/// What is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    Parameters,
    /// More bytes of a UTF-8 character of this many.
    Character(usize),
}

/// Longest sequence that passes.
pub(super) const LONGEST: usize = 16;

/// The state of one byte stream.
#[derive(Debug)]
pub(super) struct Sanitiser {
    state: State,
    held: [u8; LONGEST],
    length: usize,
    /// Columns of the line that a backspace may go back.
    columns: usize,
    /// A colour was set in the line.
    styled: bool,
}

impl Sanitiser {
    /// The start of a stream.
    pub(super) const fn new() -> Sanitiser {
        Sanitiser { state: State::Ground, held: [0; LONGEST], length: 0, columns: 0, styled: false }
    }

    /// The bytes that [`Output::Pending`] means.
    pub(super) fn pending(&self, length: usize) -> &[u8] {
        self.held.get(..length).unwrap_or_default()
    }

    /// Whether the terminal's colour may differ from the default at the end of the line so far.
    pub(super) const fn is_styled(&self) -> bool {
        self.styled
    }

    /// Notes that a new line begins.
    pub(super) const fn start_line(&mut self) {
        self.columns = 0;
        self.styled = false;
    }

    /// Takes a byte.
    pub(super) fn feed(&mut self, byte: u8) -> Output {
        match self.state {
            State::Ground => self.feed_ground(byte),
            State::Escape if byte == b'[' => self.hold(byte, State::Parameters),
            State::Parameters if byte == b'm' => {
                self.styled = true;
                self.finish(byte)
            }
            State::Parameters if byte.is_ascii_digit() || byte == b';' => self.hold(byte, State::Parameters),
            State::Character(bytes) if byte & 0xc0 == 0x80 => self.feed_character(byte, bytes),
            State::Escape | State::Parameters | State::Character(_) => {
                self.state = State::Ground;
                Output::Again
            }
        }
    }

    fn feed_ground(&mut self, byte: u8) -> Output {
        self.length = 0;
        match byte {
            b'\n' => Output::Newline,
            b'\r' => Output::Nothing,
            0x08 => match self.columns.checked_sub(1) {
                Some(left) => {
                    self.columns = left;
                    Output::Byte(byte)
                }
                None => Output::Nothing,
            },
            b'\t' | 0x20..=0x7e => {
                self.columns = self.columns.saturating_add(1);
                Output::Byte(byte)
            }
            0x1b => self.hold(byte, State::Escape),
            0xc2..=0xdf => self.hold(byte, State::Character(2)),
            0xe0..=0xef => self.hold(byte, State::Character(3)),
            0xf0..=0xf4 => self.hold(byte, State::Character(4)),
            0x00..=0x1f | 0x7f..=0xc1 | 0xf5..=0xff => Output::Byte(b'?'),
        }
    }

    fn feed_character(&mut self, byte: u8, bytes: usize) -> Output {
        if self.length.saturating_add(1) < bytes {
            return self.hold(byte, self.state);
        }
        let output = self.finish(byte);
        let text = core::str::from_utf8(self.pending(bytes)).ok();
        match text.and_then(|text| text.chars().next()) {
            Some(character) if !character.is_control() => output,
            _ => Output::Byte(b'?'),
        }
    }

    /// Keeps a byte of a sequence; one that is too long breaks off.
    fn hold(&mut self, byte: u8, next: State) -> Output {
        // The last place is for the byte that ends the sequence.
        if self.length.saturating_add(1) >= LONGEST {
            self.state = State::Ground;
            return Output::Again;
        }
        self.keep(byte);
        self.state = next;
        Output::Nothing
    }

    fn finish(&mut self, byte: u8) -> Output {
        self.keep(byte);
        self.state = State::Ground;
        Output::Pending(self.length)
    }

    fn keep(&mut self, byte: u8) {
        if let Some(slot) = self.held.get_mut(self.length) {
            *slot = byte;
            self.length = self.length.saturating_add(1);
        }
    }
}
