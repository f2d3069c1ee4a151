//! Takes the serial line apart: lines for people, and the hypervisor's records between them.

use data_encoding::BASE64_NOPAD;
use protocol::record::{PREFIX, Record, SUFFIX};

/// A piece of the serial line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A whole line without its end.
    Line(String),
    /// A record.
    Record(Box<Record<'static>>),
    /// Bytes in the place of a record that are none.
    Damaged(String),
}

/// The longest record that is waited for. A crash report takes a few KiB.
const RECORD_LIMIT: usize = 64 * 1024;

/// What takes the unfinished line back, as a terminal obeys it: the left edge, erase to the right.
const TAKE_BACK: &[u8] = b"\r\x1b[K";

/// Where the reader stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// In a line.
    Text,
    /// In what may become the prefix of a record: so many of its bytes were seen.
    Prefix(usize),
    /// In a record; whether the last byte may begin the suffix.
    Record(Vec<u8>, bool),
}

/// Takes bytes as they come and gives items as they end.
#[derive(Debug)]
pub struct Demultiplexer {
    state: State,
    line: Vec<u8>,
}

impl Demultiplexer {
    /// At the start of a line.
    pub fn new() -> Demultiplexer {
        Demultiplexer { state: State::Text, line: Vec::new() }
    }

    /// Takes bytes; the items that they end go to `items`.
    pub fn feed(&mut self, bytes: &[u8], items: &mut Vec<Item>) {
        for byte in bytes {
            items.extend(self.take(*byte));
        }
    }

    /// The line that has not ended yet.
    pub fn partial(&self) -> String {
        String::from_utf8_lossy(&self.line).into_owned()
    }

    /// The rest, when nothing more comes.
    pub fn finish(&mut self) -> Option<Item> {
        (!self.line.is_empty()).then(|| self.end_line())
    }

    /// Takes one byte.
    fn take(&mut self, byte: u8) -> Option<Item> {
        match std::mem::replace(&mut self.state, State::Text) {
            State::Text => self.take_text(byte),
            State::Prefix(seen) => self.take_prefix(seen, byte),
            State::Record(content, ending) => self.take_record(content, ending, byte),
        }
    }

    /// A byte within a line.
    fn take_text(&mut self, byte: u8) -> Option<Item> {
        if PREFIX.first() == Some(&byte) {
            self.state = State::Prefix(1);
            return None;
        }
        if byte == b'\n' {
            return Some(self.end_line());
        }
        self.line.push(byte);
        if self.line.ends_with(TAKE_BACK) {
            self.line.clear();
        }
        None
    }

    /// A byte within what may be a prefix.
    fn take_prefix(&mut self, seen: usize, byte: u8) -> Option<Item> {
        if PREFIX.get(seen) == Some(&byte) {
            self.state =
                if seen + 1 == PREFIX.len() { State::Record(Vec::new(), false) } else { State::Prefix(seen + 1) };
            return None;
        }
        // It was a guest's escape sequence: its bytes belong to the line.
        self.line.extend(PREFIX.iter().take(seen));
        self.take_text(byte)
    }

    /// A byte within a record.
    fn take_record(&mut self, mut content: Vec<u8>, ending: bool, byte: u8) -> Option<Item> {
        if ending && SUFFIX.last() == Some(&byte) {
            return Some(decode(&content));
        }
        if SUFFIX.first() == Some(&byte) && !ending {
            self.state = State::Record(content, true);
            return None;
        }
        content.push(byte);
        if byte == b'\n' || ending || content.len() > RECORD_LIMIT {
            return Some(Item::Damaged(format!("{} bytes are no record", content.len())));
        }
        self.state = State::Record(content, false);
        None
    }

    /// Ends the line.
    fn end_line(&mut self) -> Item {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        Item::Line(text.trim_end_matches('\r').to_owned())
    }
}

/// The record of base64 text.
fn decode(content: &[u8]) -> Item {
    let bare = content.trim_ascii_end();
    let padding = bare.iter().rev().take_while(|byte| **byte == b'=').count();
    let bare = bare.get(..bare.len() - padding).unwrap_or(bare);
    let bytes = match BASE64_NOPAD.decode(bare) {
        Ok(bytes) => bytes,
        Err(error) => return Item::Damaged(format!("a record is not base64: {error}")),
    };
    match postcard::from_bytes(&bytes) {
        Ok(record) => Item::Record(Box::new(record)),
        Err(error) => Item::Damaged(format!("a record cannot be read: {error}")),
    }
}

/// A guest's text made harmless for the terminal: colours, tab and backspace pass, other control
/// bytes are shown. The hypervisor cleans its guests' lines too; a file or firmware does not.
pub fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\x1b' => colour_length(rest).unwrap_or(0),
            _ => 0,
        };
        if let Some((colour, after)) = rest.split_at_checked(length)
            && length > 0
        {
            clean.push_str(colour);
            rest = after;
            continue;
        }
        if c.is_control() && !matches!(c, '\t' | '\u{8}') {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
        rest = rest.get(c.len_utf8()..).unwrap_or("");
    }
    clean
}

/// The length of a colour sequence (`ESC [ digits m`) at the start of the text.
fn colour_length(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters.get(end..)?.starts_with('m').then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use protocol::handle::VmId;
    use protocol::record::{Ended, Record};

    use super::{Demultiplexer, Item, harmless};

    fn record() -> Record<'static> {
        Record::Ended(Ended { vm: VmId(3), code: 7, cpu_time_ns: 1 << 40 })
    }

    fn wire(record: &Record<'_>) -> Vec<u8> {
        let text = BASE64.encode(&postcard::to_allocvec(record).unwrap());
        [b"\x1b_C", text.as_bytes(), b"\x1b\\"].concat()
    }

    fn items(bytes: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        Demultiplexer::new().feed(bytes, &mut items);
        items
    }

    #[test]
    fn lines_and_records_come_apart_wherever_the_bytes_are_cut() {
        let bytes = [b"[a] on\r\n[b] t".to_vec(), wire(&record()), b"wo\n".to_vec()].concat();
        let expected = [Item::Line("[a] on".into()), Item::Record(Box::new(record())), Item::Line("[b] two".into())];
        for cut in 0..=bytes.len() {
            let mut demultiplexer = Demultiplexer::new();
            let mut items = Vec::new();
            demultiplexer.feed(&bytes[..cut], &mut items);
            demultiplexer.feed(&bytes[cut..], &mut items);
            assert_eq!(items, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_that_is_taken_back_is_gone_wherever_the_bytes_are_cut() {
        let bytes = [b"[a] $ \x1b[0m\r".to_vec(), b"\x1b[K[b] x\r\n[a] $ ".to_vec(), wire(&record())].concat();
        for cut in 0..=bytes.len() {
            let mut demultiplexer = Demultiplexer::new();
            let mut items = Vec::new();
            demultiplexer.feed(&bytes[..cut], &mut items);
            demultiplexer.feed(&bytes[cut..], &mut items);
            assert_eq!(items, [Item::Line("[b] x".into()), Item::Record(Box::new(record()))], "cut at {cut}");
            assert_eq!(demultiplexer.partial(), "[a] $ ");
        }
    }

    #[test]
    fn a_guests_escape_sequences_stay_in_its_line() {
        assert_eq!(items(b"\x1b[1mbold\x1b_x\n"), [Item::Line("\x1b[1mbold\x1b_x".into())]);
    }

    #[test]
    fn a_damaged_record_is_reported_and_the_next_line_is_read() {
        let found = items(b"\x1b_C!!!\x1b\\ok\n\x1b_CAAAA\nnext\n");
        assert!(matches!(found[0], Item::Damaged(_)), "{found:?}");
        assert_eq!(found[1], Item::Line("ok".into()));
        assert!(matches!(found[2], Item::Damaged(_)), "{found:?}");
        assert_eq!(found[3], Item::Line("next".into()));
    }

    #[test]
    fn only_colours_reach_the_terminal() {
        assert_eq!(harmless("a\x1b[31mb\tc"), "a\x1b[31mb\tc");
        assert_eq!(harmless("\x1b]0;title\x07"), "\\u{1b}]0;title\\u{7}");
        assert_eq!(harmless("\x1b[2J"), "\\u{1b}[2J");
        assert_eq!(harmless("ü\r"), "ü\\r");
    }
}
