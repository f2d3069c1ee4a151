//! Kernels as distributions ship them: the ELF file in a `bzImage`, which is what they name `vmlinuz`.
//!
//! Source: the x86 boot protocol (Documentation/arch/x86/boot.rst of Linux), for the header's fields.

mod decompress;
#[cfg(test)]
mod tests;
pub mod xen;

use std::fmt;

/// Why an image cannot be unpacked.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is older than boot protocol 2.08, which says where the kernel lies.
    Old,
    /// It is packed in a way that cannot be read here.
    Packing(&'static str),
    /// It contradicts itself; what is wrong.
    Damaged(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Old => f.write_str("the kernel image is older than boot protocol 2.08"),
            Fault::Packing(how) => {
                write!(f, "the kernel is packed with {how}; unpack it first (scripts/extract-vmlinux of Linux)")
            }
            Fault::Damaged(what) => write!(f, "the kernel image is damaged: {what}"),
        }
    }
}

/// Offsets of the header's fields.
mod field {
    pub(super) const SETUP_SECTORS: usize = 0x1f1;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
}

/// Bytes of a sector.
const SECTOR: usize = 512;
/// The first version of the boot protocol with the fields of the payload.
const VERSION_2_08: u16 = 0x0208;
/// More than any kernel has; a damaged image must not ask for all memory.
const MOST_BYTES: usize = 1 << 30;

/// The ELF file in a kernel's file: in a `bzImage`, packed with gzip, or as it is.
pub fn extract(data: Vec<u8>) -> Result<Vec<u8>, Fault> {
    if is_image(&data) {
        return unpack(&data);
    }
    if !decompress::is_gzip(&data) {
        return Ok(data);
    }
    let kernel = decompress::gzip(&data, MOST_BYTES)?;
    if kernel.len() > MOST_BYTES { Err(too_large(kernel.len())) } else { Ok(kernel) }
}

/// The fault of a kernel that would take all memory.
fn too_large(bytes: usize) -> Fault {
    Fault::Damaged(format!("a kernel of {bytes} bytes"))
}

/// Whether the bytes are a `bzImage`.
fn is_image(data: &[u8]) -> bool {
    u16_at(data, field::BOOT_FLAG) == Some(0xaa55) && data.get(field::MAGIC..field::MAGIC + 4) == Some(b"HdrS")
}

/// The kernel in a `bzImage`.
fn unpack(data: &[u8]) -> Result<Vec<u8>, Fault> {
    if u16_at(data, field::VERSION).is_none_or(|version| version < VERSION_2_08) {
        return Err(Fault::Old);
    }
    let cut = || Fault::Damaged("it is shorter than its header says".to_owned());
    let sectors = match data.get(field::SETUP_SECTORS) {
        // For the sake of old loaders, the protocol says.
        Some(0) => 4,
        Some(sectors) => usize::from(*sectors),
        None => return Err(cut()),
    };
    let offset = u32_at(data, field::PAYLOAD_OFFSET).ok_or_else(cut)?;
    let length = u32_at(data, field::PAYLOAD_LENGTH).ok_or_else(cut)?;
    let start = (sectors + 1) * SECTOR + offset;
    let payload = data.get(start..start + length).ok_or_else(cut)?;
    // The build appends the length of what was packed.
    let (packed, size) = payload.split_last_chunk::<4>().ok_or_else(cut)?;
    let size = u32::from_le_bytes(*size) as usize;
    if size > MOST_BYTES {
        return Err(too_large(size));
    }
    let kernel = decompress::decompress(packed, payload, size)?;
    if kernel.len() != size {
        return Err(Fault::Damaged(format!("{} bytes came out, not {size}", kernel.len())));
    }
    Ok(kernel)
}

/// A field of two bytes.
fn u16_at(data: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*data.get(offset..)?.first_chunk()?))
}

/// A field of four bytes.
fn u32_at(data: &[u8], offset: usize) -> Option<usize> {
    Some(u32::from_le_bytes(*data.get(offset..)?.first_chunk()?) as usize)
}
