//! The console of one VM: its name, its incomplete line, its input; and which of its bytes reach the
//! terminal.
//!
//! A guest must be able neither to draw over the prefix of its line, nor to end the line without a
//! newline, nor to send the terminal a command other than a colour. So: printable ASCII, tab and
//! newline pass; backspace passes as often as ASCII was printed before it in the line; `ESC [ ... m`
//! with digits and semicolons passes whole, and disappears whole with another letter, as shells ask the
//! terminal for its cursor at every prompt; well-formed UTF-8 passes except the C1 controls (U+0080
//! to U+009F, which 8-bit terminals obey). Carriage return disappears, so that "\r\n" is a newline.
//! Anything else becomes `?`.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use protocol::layout::limit;

use super::attention::LABEL;
use super::queue::{HEADER, Queue};
use crate::addr::convert::index;

/// Bytes of one VM that wait to go out, not counting its last line.
pub(super) const BUDGET: usize = 4096;
/// Bytes after which a line is cut, with its prefix.
const LINE: usize = 256;
/// Longest colour sequence that passes.
const LONGEST: usize = 16;
/// Bytes typed for a VM that wait at most; later ones are lost.
const INPUT: usize = 256;
/// What ends a line, and first puts colours back to the default.
const END: &[u8] = b"\x1b[0m\r\n";
/// What one VM takes of the queue. One more line than its budget, so that its last words fit.
pub(super) const ROOM: usize = BUDGET + HEADER + LINE + LONGEST + END.len();

/// What is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    Parameters,
    /// So many more bytes of a UTF-8 character.
    Character(u8),
}

/// One VM's console.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its number in the queue.
    pub(super) origin: u16,
    /// `[name] `, the incomplete line, and the beginning of a sequence that is not whole.
    text: Vec<u8>,
    /// Bytes of `[name] `.
    prefix: usize,
    /// Bytes of `text` that may be shown.
    whole: usize,
    state: State,
    /// Columns of the line that a backspace may go back.
    columns: usize,
    /// A colour was set in the line.
    is_styled: bool,
    pub(super) input: VecDeque<u8>,
    pub(super) is_live: bool,
    /// The label of its VM, in words.
    pub(super) label: String,
}

impl Stream {
    /// A console without a VM.
    pub(super) fn new(origin: u16) -> Stream {
        Stream {
            origin,
            text: Vec::with_capacity(LINE.saturating_add(LONGEST)),
            prefix: 0,
            whole: 0,
            state: State::Ground,
            columns: 0,
            is_styled: false,
            input: VecDeque::with_capacity(INPUT),
            is_live: false,
            label: String::with_capacity(LABEL),
        }
    }

    /// Gives the console to a VM. Output of its predecessor still goes out.
    pub(super) fn open(&mut self, name: &str, label: &str) {
        let graphic = |byte: u8| if byte.is_ascii_graphic() { byte } else { b'?' };
        self.text.clear();
        self.text.push(b'[');
        self.text.extend(name.bytes().take(index(u64::from(limit::NAME))).map(graphic));
        self.text.extend(b"] ");
        self.prefix = self.text.len();
        self.start_line();
        self.input.clear();
        self.label.clear();
        self.label.extend(label.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(LABEL));
        self.is_live = true;
    }

    /// Takes the VM away, and lets its incomplete line out.
    pub(super) fn close(&mut self, queue: &mut Queue) {
        self.is_live = false;
        if self.whole > self.prefix {
            self.flush(queue, ROOM);
        }
    }

    /// `[name] `.
    pub(super) fn prefix(&self) -> &str {
        self.text.get(..self.prefix).and_then(|bytes| core::str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    /// The incomplete line as it is shown, from a byte on; nothing when the line is empty.
    pub(super) fn partial_byte(&self, at: usize) -> Option<u8> {
        let is_shown = self.whole > self.prefix && at < self.whole;
        self.text.get(at).copied().filter(|_| is_shown)
    }

    /// Takes bytes; how many.
    pub(super) fn write(&mut self, bytes: &[u8], queue: &mut Queue) -> usize {
        bytes.iter().take_while(|byte| self.put(**byte, queue)).count()
    }

    /// Takes a typed byte, if there is room.
    pub(super) fn receive(&mut self, byte: u8) -> bool {
        let has_room = self.input.len() < INPUT;
        if has_room {
            self.input.push_back(byte);
        }
        has_room
    }

    /// Takes a byte, if there is room for what it completes.
    fn put(&mut self, byte: u8, queue: &mut Queue) -> bool {
        if self.goes_on(byte) {
            return true;
        }
        if self.state != State::Ground {
            self.replace();
        }
        let is_newline = byte == b'\n';
        if (is_newline || self.text.len() >= LINE) && !self.flush(queue, BUDGET) {
            return false;
        }
        if !is_newline {
            self.begin(byte);
        }
        true
    }

    /// Takes a byte that belongs to the sequence before it; whether it does.
    fn goes_on(&mut self, byte: u8) -> bool {
        let has_room = self.text.len().saturating_sub(self.whole) < LONGEST.saturating_sub(1);
        match (self.state, byte) {
            (State::Escape, b'[') => self.hold(byte, State::Parameters),
            (State::Parameters, b'0'..=b'9' | b';') if has_room => self.hold(byte, State::Parameters),
            (State::Parameters, b'm') => {
                self.is_styled = true;
                self.show(byte);
            }
            (State::Parameters, 0x40..=0x7e) => {
                self.text.truncate(self.whole);
                self.state = State::Ground;
            }
            (State::Character(1), 0x80..=0xbf) => {
                self.text.push(byte);
                let held = self.text.get(self.whole..).and_then(|held| core::str::from_utf8(held).ok());
                if held.is_some_and(|text| !text.contains(char::is_control)) {
                    self.state = State::Ground;
                    self.whole = self.text.len();
                } else {
                    self.replace();
                }
            }
            (State::Character(left), 0x80..=0xbf) => self.hold(byte, State::Character(left.saturating_sub(1))),
            _ => return false,
        }
        true
    }

    /// Takes a byte that begins something.
    fn begin(&mut self, byte: u8) {
        match byte {
            b'\r' => {}
            0x08 => {
                if let Some(left) = self.columns.checked_sub(1) {
                    self.columns = left;
                    self.show(byte);
                }
            }
            b'\t' | 0x20..=0x7e => {
                self.columns = self.columns.saturating_add(1);
                self.show(byte);
            }
            0x1b => self.hold(byte, State::Escape),
            0xc2..=0xdf => self.hold(byte, State::Character(1)),
            0xe0..=0xef => self.hold(byte, State::Character(2)),
            0xf0..=0xf4 => self.hold(byte, State::Character(3)),
            _ => self.show(b'?'),
        }
    }

    /// Keeps a byte of a sequence that is not whole.
    fn hold(&mut self, byte: u8, next: State) {
        self.text.push(byte);
        self.state = next;
    }

    /// Adds a byte after which the line may be shown.
    fn show(&mut self, byte: u8) {
        self.hold(byte, State::Ground);
        self.whole = self.text.len();
    }

    /// Gives up a sequence.
    fn replace(&mut self) {
        self.text.truncate(self.whole);
        self.show(b'?');
    }

    /// Puts the line into the queue, if its VM then has no more than so many bytes there.
    fn flush(&mut self, queue: &mut Queue, budget: usize) -> bool {
        let end = END.iter().skip(if self.is_styled { 0 } else { END.len().saturating_sub(2) });
        let line = self.text.iter().take(self.whole).chain(end).copied();
        let is_taken = queue.push(self.origin, budget, line);
        if is_taken {
            self.start_line();
        }
        is_taken
    }

    fn start_line(&mut self) {
        self.text.truncate(self.prefix);
        self.whole = self.prefix;
        self.state = State::Ground;
        self.columns = 0;
        self.is_styled = false;
    }
}
