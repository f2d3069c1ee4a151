//! Base64 (RFC 4648, section 4) in a stream.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Characters that encode so many bytes.
pub(super) const fn encoded_length(bytes: usize) -> usize {
    bytes.div_ceil(3).saturating_mul(4)
}

/// Encodes bytes, handing each character to `put`.
pub(super) fn encode(bytes: impl Iterator<Item = u8>, mut put: impl FnMut(u8)) {
    let mut bytes = bytes;
    while let Some(first) = bytes.next() {
        let (second, third) = (bytes.next(), bytes.next());
        let group = u32::from_be_bytes([0, first, second.unwrap_or(0), third.unwrap_or(0)]);
        put(character(group >> 18));
        put(character(group >> 12));
        put(second.map_or(b'=', |_| character(group >> 6)));
        put(third.map_or(b'=', |_| character(group)));
    }
}

fn character(sextet: u32) -> u8 {
    let place = usize::try_from(sextet & 63).unwrap_or(0);
    ALPHABET.get(place).copied().unwrap_or(b'=')
}
