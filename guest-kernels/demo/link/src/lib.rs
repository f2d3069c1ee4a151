//! What `ping` sends and `pong` answers: 64 MiB in messages, with a checksum on both sides.
#![cfg_attr(not(test), no_std)]

/// Name of the channel.
pub const CHANNEL: &str = "link";
/// Bytes of one message.
pub const MESSAGE_BYTES: usize = 16 * 1024;
/// Number of messages: 64 MiB in all.
pub const MESSAGES: u64 = 64 * 1024 * 1024 / MESSAGE_BYTES as u64;

/// A checksum that depends on the order of the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checksum(pub u64);

impl Checksum {
    /// Goes on over the words of a message. Bytes behind the last whole word do not count: a message
    /// has none.
    pub fn add(&mut self, message: &[u8]) {
        let (words, _) = message.as_chunks::<8>();
        let mut sum = self.0;
        for word in words {
            sum = sum.rotate_left(5) ^ u64::from_le_bytes(*word);
        }
        self.0 = sum;
    }
}

/// Fills a message with words that differ from message to message.
pub fn fill(message: &mut [u8], number: u64) {
    let (words, _) = message.as_chunks_mut::<8>();
    let mut value = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in words {
        value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        *word = value.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::{Checksum, fill};

    #[test]
    fn the_checksum_notices_a_changed_and_a_moved_word() {
        let mut message = [0; 64];
        fill(&mut message, 3);
        let sum = |bytes: &[u8]| {
            let mut sum = Checksum::default();
            sum.add(bytes);
            sum
        };
        let good = sum(&message);
        let mut changed = message;
        changed[17] ^= 1;
        assert_ne!(sum(&changed), good);
        let mut moved = message;
        moved[..16].rotate_left(8);
        assert_ne!(sum(&moved), good);
    }
}
