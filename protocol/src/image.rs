//! The system image: what `cargo xtask image` packs and the hypervisor gets as its boot module.
//!
//! Header, then the postcard manifest, then the postcard policy, then page-aligned payloads (segments
//! and modules), then nothing. The checksum covers every byte after the header, so that a damaged image is refused
//! before any of it is believed.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of a system image.
pub const MAGIC: [u8; 8] = *b"CLOISTER";
/// Version of header, manifest and policy together. Control data is checked by exact version.
pub const FORMAT: u16 = 4;

/// The first bytes of a system image. All numbers little-endian.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ImageHeader {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`FORMAT`].
    pub format: U16,
    /// Zero.
    pub reserved: U16,
    /// [`ImageHeader::own_checksum`].
    pub header_checksum: U32,
    /// Bytes of the whole image.
    pub image_bytes: U64,
    /// Bytes of the manifest, which starts right after the header.
    pub manifest_bytes: U64,
    /// Bytes of the policy, which starts right after the manifest.
    pub policy_bytes: U64,
    /// SHA-256 of the policy's bytes: the policy's name, so to speak, wherever it is mentioned.
    pub policy_hash: [u8; 32],
    /// [`checksum`] of all bytes after the header.
    pub body_checksum: U64,
}

const _: () = assert!(size_of::<ImageHeader>() == 80);

impl ImageHeader {
    /// The lower half of the [`checksum`] of this header, with zero where it is to stand.
    #[must_use]
    pub fn own_checksum(&self) -> U32 {
        let bare = ImageHeader { header_checksum: U32::ZERO, ..*self };
        let [a, b, c, d, ..] = checksum(bare.as_bytes()).to_le_bytes();
        U32::from_bytes([a, b, c, d])
    }
}

/// XXH64 with seed 0: four words a round, so that a large image is read about as fast as it can be copied.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    let (stripes, rest) = bytes.as_chunks::<32>();
    let mut sum = match stripes {
        [] => PRIMES[4],
        stripes => sum_of_stripes(stripes),
    };
    // `usize` is no wider than `u64`.
    sum = sum.wrapping_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        sum ^= mixed(0, u64::from_le_bytes(*word));
        sum = sum.rotate_left(27).wrapping_mul(PRIMES[0]).wrapping_add(PRIMES[3]);
    }
    let (halves, rest) = rest.as_chunks::<4>();
    for half in halves {
        sum ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(PRIMES[0]);
        sum = sum.rotate_left(23).wrapping_mul(PRIMES[1]).wrapping_add(PRIMES[2]);
    }
    for byte in rest {
        sum ^= u64::from(*byte).wrapping_mul(PRIMES[4]);
        sum = sum.rotate_left(11).wrapping_mul(PRIMES[0]);
    }
    sum = (sum ^ (sum >> 33)).wrapping_mul(PRIMES[1]);
    sum = (sum ^ (sum >> 29)).wrapping_mul(PRIMES[2]);
    sum ^ (sum >> 32)
}

/// The odd numbers that XXH64 multiplies by.
const PRIMES: [u64; 5] =
    [0x9e37_79b1_85eb_ca87, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9, 0x85eb_ca77_c2b2_ae63, 0x27d4_eb2f_1656_67c5];

/// A sum with another word.
const fn mixed(sum: u64, word: u64) -> u64 {
    sum.wrapping_add(word.wrapping_mul(PRIMES[1])).rotate_left(31).wrapping_mul(PRIMES[0])
}

/// The sum of all whole stripes.
fn sum_of_stripes(stripes: &[[u8; 32]]) -> u64 {
    let mut lanes = [PRIMES[0].wrapping_add(PRIMES[1]), PRIMES[1], 0, PRIMES[0].wrapping_neg()];
    for stripe in stripes {
        let (words, _) = stripe.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = mixed(*lane, u64::from_le_bytes(*word));
        }
    }
    let turned = lanes.iter().zip([1, 7, 12, 18]).map(|(lane, bits)| lane.rotate_left(bits));
    let sum = turned.fold(0, u64::wrapping_add);
    let join = |sum: u64, lane: &u64| (sum ^ mixed(0, *lane)).wrapping_mul(PRIMES[0]).wrapping_add(PRIMES[3]);
    lanes.iter().fold(sum, join)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn the_checksum_has_the_published_values() {
        assert_eq!(checksum(b""), 0xef46_db37_51d8_e999);
        assert_eq!(checksum(b"abc"), 0x44bc_2cf5_ad77_0999);
        assert_eq!(checksum(b"Nobody inspects the spammish repetition"), 0xfbce_a83c_8a37_8bf1);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases of safe code: too long for an interpreter")]
    fn the_checksum_depends_on_every_bit_and_on_the_length() {
        for length in 0..80 {
            let bytes: Vec<u8> = (0..length).collect();
            let sum = checksum(&bytes);
            assert_ne!(sum, checksum(&[&bytes[..], &[0]].concat()));
            for bit in 0..bytes.len() * 8 {
                let mut other = bytes.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(sum, checksum(&other), "bit {bit} of {length} bytes");
            }
        }
    }
}
