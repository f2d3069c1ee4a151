//! What a kernel is packed with, by its first bytes, and its unpacking. Little more than the
//! stated number of bytes ever comes out.

use std::io::Read;

use super::Fault;

/// First bytes of packings that are known but not read.
const OTHERS: [(&[u8], &str); 5] = [
    (&[0x1f, 0x8b], "gzip"),
    (b"BZh", "bzip2"),
    (&[0x5d, 0x00, 0x00], "LZMA"),
    (&[0x89, b'L', b'Z', b'O'], "LZO"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
];
/// First bytes of an xz stream.
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0x00];
/// First bytes of LZ4's legacy frame.
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// The most that a block of a legacy frame unpacks to.
const LZ4_BLOCK: usize = 8 << 20;

/// Unpacks `size` bytes, or some other number if the image is damaged.
pub fn decompress(packed: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    if packed.starts_with(XZ) {
        return xz(packed, size);
    }
    if let Some(blocks) = packed.strip_prefix(LZ4_LEGACY) {
        return lz4_legacy(blocks, size);
    }
    if packed.starts_with(b"\x7fELF") {
        return Ok(packed.to_vec());
    }
    let known = OTHERS.iter().find(|(magic, _)| packed.starts_with(magic));
    Err(Fault::Packing(known.map_or("something unknown", |(_, name)| name)))
}

/// An xz stream, with the x86 filter if it has one.
fn xz(packed: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    let mut kernel = Vec::new();
    // One byte more, so that a longer stream shows, and a whole one is read to its checksum.
    let mut reader = lzma_rust2::XzReader::new(packed, false).take(size as u64 + 1);
    reader.read_to_end(&mut kernel).map_err(|error| Fault::Damaged(format!("xz: {error}")))?;
    Ok(kernel)
}

/// Blocks of LZ4, each behind its length.
fn lz4_legacy(mut blocks: &[u8], size: usize) -> Result<Vec<u8>, Fault> {
    let damaged = |what: &str| Fault::Damaged(format!("LZ4: {what}"));
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_BLOCK.min(size)];
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (packed, rest) = rest.split_at_checked(length).ok_or_else(|| damaged("a block is cut"))?;
        let bytes =
            lz4_flex::block::decompress_into(packed, &mut block).map_err(|error| damaged(&error.to_string()))?;
        kernel.extend_from_slice(block.get(..bytes).unwrap_or_default());
        if kernel.len() > size {
            return Err(damaged("more bytes than stated"));
        }
        blocks = rest;
    }
    Ok(kernel)
}
