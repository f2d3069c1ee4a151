//! What one VM has written in its time slot, until the end of the slot.
//!
//! Whether a VM can write depends on nothing but what it wrote before in the same slot, and takes as long
//! whatever others write.

use alloc::vec::Vec;

/// Bytes of a unit's header: its kind and its length.
const HEADER: usize = 3;

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes for the console.
    Text,
    /// A log record in postcard.
    Log,
}

/// Units that wait for the end of the slot, behind their headers.
#[derive(Debug)]
pub(super) struct Held(Vec<u8>);

impl Held {
    /// Nothing, and no room.
    pub(super) const NOTHING: Held = Held(Vec::new());

    /// Nothing, with room for so many bytes.
    pub(super) fn new(room: usize) -> Held {
        Held(Vec::with_capacity(room.saturating_add(HEADER)))
    }

    /// Takes the first bytes of a unit, as many as there is room for; how many. Of a log record takes
    /// all or nothing.
    pub(super) fn put(&mut self, kind: Kind, bytes: &[u8]) -> usize {
        let room = self.0.capacity().saturating_sub(self.0.len()).saturating_sub(HEADER);
        let count = if kind == Kind::Log && bytes.len() > room { 0 } else { bytes.len().min(room) };
        let (Some(taken), Ok(length)) = (bytes.get(..count), u16::try_from(count)) else {
            return 0;
        };
        if count != 0 {
            self.0.push(u8::from(kind == Kind::Log));
            self.0.extend_from_slice(&length.to_le_bytes());
            self.0.extend_from_slice(taken);
        }
        count
    }

    /// Takes all units out.
    pub(super) fn take(&mut self, mut each: impl FnMut(Kind, &[u8])) {
        let mut rest = self.0.as_slice();
        while let [kind, low, high, behind @ ..] = rest {
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            let (unit, next) = behind.split_at_checked(length).unwrap_or((behind, &[]));
            each(if *kind == 0 { Kind::Text } else { Kind::Log }, unit);
            rest = next;
        }
        self.0.clear();
    }
}
