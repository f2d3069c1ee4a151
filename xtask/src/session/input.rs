//! Keys that a person types while a system runs.

use std::io::Read;
use std::sync::mpsc::SyncSender;

use super::Signal;

/// What to do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// It goes to the serial line.
    Send(u8),
    /// The secure attention key: a BREAK on the line.
    Attention,
    /// The run ends.
    Quit,
    /// It begins a sequence.
    Nothing,
}

/// Ctrl-C.
const INTERRUPT: u8 = 3;
/// Ctrl-A.
const ESCAPE: u8 = 1;

/// Follows key sequences.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// What to do with the next key: Ctrl-C and Ctrl-A X quit, Ctrl-A B is the secure attention key,
    /// Ctrl-A Ctrl-A and Ctrl-A Ctrl-C send the second key as it is.
    pub fn take(&mut self, byte: u8) -> Key {
        if std::mem::take(&mut self.escaped) {
            return match byte {
                b'x' | b'X' => Key::Quit,
                b'b' | b'B' => Key::Attention,
                other => Key::Send(other),
            };
        }
        match byte {
            INTERRUPT => Key::Quit,
            ESCAPE => {
                self.escaped = true;
                Key::Nothing
            }
            // The terminal is raw: Return gives CR, and guests expect it as it comes.
            other => Key::Send(other),
        }
    }
}

/// Reads standard input in a thread of its own.
pub fn listen(sender: SyncSender<Signal>) {
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = [0; 256];
        while let Ok(count) = stdin.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default().to_vec();
            if count == 0 || sender.send(Signal::Typed(bytes)).is_err() {
                break;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{Key, Keys};

    #[test]
    fn ctrl_c_quits_and_can_be_sent_behind_ctrl_a() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b'a'), Key::Send(b'a'));
        assert_eq!(keys.take(1), Key::Nothing);
        assert_eq!(keys.take(3), Key::Send(3));
        assert_eq!(keys.take(3), Key::Quit);
        assert_eq!(keys.take(1), Key::Nothing);
        assert_eq!(keys.take(b'x'), Key::Quit);
        assert_eq!(keys.take(1), Key::Nothing);
        assert_eq!(keys.take(b'b'), Key::Attention);
    }
}
