//! Base64 (RFC 4648, section 4) in a stream.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The characters that encode these bytes.
pub(super) fn encode(bytes: &[u8]) -> impl Iterator<Item = u8> + Clone {
    bytes.chunks(3).flat_map(|group| {
        let at = |place| group.get(place).copied();
        let bits = u32::from_be_bytes([0, at(0).unwrap_or(0), at(1).unwrap_or(0), at(2).unwrap_or(0)]);
        let third = at(1).map_or(b'=', |_| character(bits >> 6));
        let fourth = at(2).map_or(b'=', |_| character(bits));
        [character(bits >> 18), character(bits >> 12), third, fourth]
    })
}

fn character(sextet: u32) -> u8 {
    let place = usize::try_from(sextet & 63).unwrap_or(0);
    ALPHABET.get(place).copied().unwrap_or(b'=')
}
