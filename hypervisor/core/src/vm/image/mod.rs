//! Reads a system image and refuses whatever is not wholly in order, before any of it is used.

use protocol::image::{FORMAT, ImageHeader, MAGIC, crc32};
use protocol::layout::PAGE_SIZE;
use protocol::manifest::Manifest;
use zerocopy::{FromBytes, IntoBytes};

use super::check::check_manifest;
use super::error::{ImageError, Problem};
use crate::addr::convert::{index, wide};

/// A system image that keeps every rule.
#[derive(Debug)]
pub struct SystemImage<'a> {
    bytes: &'a [u8],
    manifest: Manifest,
}

impl<'a> SystemImage<'a> {
    /// Checks a whole image: lengths, both checksums, the manifest and everything it names.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<SystemImage<'a>, ImageError> {
        let (header, body) =
            ImageHeader::read_from_prefix(bytes).map_err(|_| ImageError::NoHeader { bytes: wide(bytes.len()) })?;
        check_header(header, wide(bytes.len()))?;
        let stated = header.manifest_bytes.get();
        let manifest = body.get(..index(stated)).ok_or(ImageError::ManifestLength { stated })?;
        if crc32(0, body) != header.body_checksum.get() {
            return Err(ImageError::BodyChecksum);
        }
        let (manifest, rest) =
            postcard::take_from_bytes::<Manifest>(manifest).map_err(|_| ImageError::ManifestEncoding)?;
        if !rest.is_empty() {
            return Err(ImageError::ManifestEncoding);
        }
        let start = wide(size_of::<ImageHeader>()).saturating_add(stated);
        let payloads = Payloads { image: bytes, start };
        check_manifest(&manifest, payloads)?;
        Ok(SystemImage { bytes, manifest })
    }

    /// What is to be built.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The whole image, which segments and modules name by offset.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// The part of an image behind the manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payloads<'a> {
    image: &'a [u8],
    /// Offset of the first byte that is not manifest.
    start: u64,
}

impl Payloads<'_> {
    /// Whether bytes to load lie where they may.
    ///
    /// # Errors
    /// [`Problem::Payload`].
    pub(super) fn check(self, offset: u64, bytes: u64) -> Result<(), Problem> {
        let end = offset.checked_add(bytes);
        let inside = end.is_some_and(|end| end <= wide(self.image.len()));
        // A payload without bytes is nowhere, so its offset means nothing.
        if bytes == 0 || (offset.is_multiple_of(PAGE_SIZE) && offset >= self.start && inside) {
            Ok(())
        } else {
            Err(Problem::Payload { offset, bytes })
        }
    }
}

/// Checks what the header says of itself and of the image's length.
///
/// # Errors
/// The first thing that is wrong.
fn check_header(header: ImageHeader, bytes: u64) -> Result<(), ImageError> {
    if header.magic != MAGIC {
        return Err(ImageError::Magic);
    }
    if header.format.get() != FORMAT {
        return Err(ImageError::Format { found: header.format.get() });
    }
    let mut unsigned = header;
    unsigned.header_checksum = 0.into();
    if crc32(0, unsigned.as_bytes()) != header.header_checksum.get() {
        return Err(ImageError::HeaderChecksum);
    }
    if header.reserved.get() != 0 || header.reserved_end.get() != 0 {
        return Err(ImageError::HeaderReserved);
    }
    if header.image_bytes.get() != bytes {
        return Err(ImageError::Length { stated: header.image_bytes.get(), found: bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
