//! What a kernel is packed with, by its first bytes, and its unpacking. Little more than the
//! stated number of bytes ever comes out.

use std::fmt::Display;
use std::io::Read;

use super::Fault;

/// Unpacks one format: the packed bytes, and how many come out.
type Unpack = fn(&[u8], usize) -> Result<Vec<u8>, Fault>;

/// The formats by the first bytes of what they pack.
const FORMATS: [(&[u8], Unpack); 6] = [
    (&[0xfd, b'7', b'z', b'X', b'Z', 0x00], xz),
    (LZ4_LEGACY, lz4_legacy),
    (b"BZh", bzip2),
    (&[0x5d, 0x00, 0x00], lzma),
    (&[0x28, 0xb5, 0x2f, 0xfd], zstd),
    (b"\x7fELF", plain),
];
/// First bytes of a gzip member.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// First bytes of LZ4's legacy frame.
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// First bytes of what lzop writes. No crate for it is both kept and free to be used here.
const LZO: &[u8] = &[0x89, b'L', b'Z', b'O'];
/// The most that a block of a legacy frame unpacks to.
const LZ4_BLOCK: usize = 8 << 20;

/// Unpacks `size` bytes, or some other number if the image is damaged. The build wrote the size behind
/// `packed`, which `trailer` includes; gzip states it there by itself.
pub fn decompress(packed: &[u8], trailer: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    if is_gzip(trailer) {
        return gzip(trailer, size);
    }
    match FORMATS.iter().find(|(magic, _)| packed.starts_with(magic)) {
        Some((_, unpack)) => unpack(packed, size),
        None if packed.starts_with(LZO) => Err(Fault::Packing("LZO")),
        None => Err(Fault::Packing("something unknown")),
    }
}

/// Whether the bytes are packed with gzip.
pub fn is_gzip(packed: &[u8]) -> bool {
    packed.starts_with(GZIP)
}

/// A member of gzip.
pub fn gzip(packed: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    stream("gzip", flate2::bufread::GzDecoder::new(packed), size)
}

/// What is not packed at all.
fn plain(packed: &[u8], _size: usize) -> Result<Vec<u8>, Fault> {
    Ok(packed.to_vec())
}

/// An xz stream, with the x86 filter if it has one.
fn xz(packed: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    stream("xz", lzma_rust2::XzReader::new(packed, false), size)
}

/// A stream of LZMA without a container.
fn lzma(packed: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    let reader = lzma_rust2::LzmaReader::new_mem_limit(packed, MOST_KIB, None);
    stream("LZMA", reader.map_err(|error| damaged("LZMA", error))?, size)
}

/// The most memory that a stream of LZMA may ask for: the dictionary of its highest level, and half of it.
const MOST_KIB: u32 = 96 << 10;

/// A stream of bzip2.
fn bzip2(packed: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    stream("bzip2", bzip2::bufread::BzDecoder::new(packed), size)
}

/// A frame of Zstandard.
fn zstd(packed: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    let reader = ruzstd::decoding::StreamingDecoder::new(packed);
    let mut reader = reader.map_err(|error| damaged("zstd", error))?;
    let kernel = stream("zstd", &mut reader, size)?;
    // The crate leaves it to its user to compare them.
    let stated = reader.decoder.get_checksum_from_data();
    if stated.is_some() && stated != reader.decoder.get_calculated_checksum() {
        return Err(damaged("zstd", "the checksum is wrong"));
    }
    Ok(kernel)
}

/// What a reader gives, and one byte more, so that a longer stream shows, and a whole one is read to
/// its checksum.
fn stream(format: &str, reader: impl Read, size: usize) -> Result<Vec<u8>, Fault> {
    let mut kernel = Vec::new();
    reader.take(size as u64 + 1).read_to_end(&mut kernel).map_err(|error| damaged(format, error))?;
    Ok(kernel)
}

/// The fault of bytes that their format does not allow.
fn damaged(format: &str, what: impl Display) -> Fault {
    Fault::Damaged(format!("{format}: {what}"))
}

/// Blocks of LZ4, each behind its length.
fn lz4_legacy(packed: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    let mut blocks = packed.strip_prefix(LZ4_LEGACY).unwrap_or(packed);
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_BLOCK.min(size)];
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (packed, rest) = rest.split_at_checked(length).ok_or_else(|| damaged("LZ4", "a block is cut"))?;
        let bytes = lz4_flex::block::decompress_into(packed, &mut block).map_err(|error| damaged("LZ4", error))?;
        kernel.extend_from_slice(block.get(..bytes).unwrap_or_default());
        if kernel.len() > size {
            return Err(damaged("LZ4", "more bytes than stated"));
        }
        blocks = rest;
    }
    Ok(kernel)
}
