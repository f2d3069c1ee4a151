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
pub const FORMAT: u16 = 3;

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
    /// CRC-32 (ISO-HDLC) of this header with this field zero.
    pub header_checksum: U32,
    /// Bytes of the whole image.
    pub image_bytes: U64,
    /// Bytes of the manifest, which starts right after the header.
    pub manifest_bytes: U64,
    /// Bytes of the policy, which starts right after the manifest.
    pub policy_bytes: U64,
    /// SHA-256 of the policy's bytes: the policy's name, so to speak, wherever it is mentioned.
    pub policy_hash: [u8; 32],
    /// CRC-32 (ISO-HDLC) of all bytes after the header.
    pub body_checksum: U32,
    /// Zero.
    pub reserved_end: U32,
}

const _: () = assert!(size_of::<ImageHeader>() == 80);

/// Continues a CRC-32 (ISO-HDLC, reflected polynomial 0xEDB88320) over `bytes`; start with 0.
#[must_use]
#[expect(
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "const code: the index is masked to the table's length"
)]
pub const fn crc32(previous: u32, bytes: &[u8]) -> u32 {
    let mut crc = !previous;
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        let index = (crc ^ (*byte as u32)) & 0xff;
        crc = (crc >> 8) ^ CRC_TABLE[index as usize];
        rest = tail;
    }
    !crc
}

/// One table step of the CRC for each byte value.
#[expect(
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "const code: the index is below the table's length"
)]
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::crc32;

    #[test]
    fn the_checksum_has_the_published_check_value() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
    }
}
