//! Reads a system image and refuses whatever is not wholly in order, before any of it is used.

use protocol::image::{FORMAT, ImageHeader, MAGIC, crc32};
use protocol::layout::PAGE_SIZE;
use protocol::manifest::Manifest;
use zerocopy::{FromBytes, IntoBytes};

use super::check::check_manifest;
use super::error::{Problem, ensure};
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
    pub fn parse(bytes: &'a [u8]) -> Result<SystemImage<'a>, Problem> {
        let length = wide(bytes.len());
        let (header, body) = ImageHeader::read_from_prefix(bytes)
            .map_err(|_| Problem::new("the system image has only # bytes; pack it again", &[length]))?;
        check_header(header, length)?;
        let stated = header.manifest_bytes.get();
        let manifest = body
            .get(..index(stated))
            .ok_or_else(|| Problem::new("the manifest of # bytes reaches beyond the system image", &[stated]))?;
        let is_whole = crc32(0, body) == header.body_checksum.get();
        ensure(is_whole, "the system image is damaged: its checksum differs", &[])?;
        let manifest = match postcard::take_from_bytes::<Manifest>(manifest) {
            Ok((manifest, [])) => manifest,
            _ => return Err(Problem::new("the manifest of the system image cannot be decoded", &[])),
        };
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
    /// Where they lie, if not.
    pub(super) fn check(self, offset: u64, bytes: u64) -> Result<(), Problem> {
        let end = offset.checked_add(bytes);
        let inside = end.is_some_and(|end| end <= wide(self.image.len()));
        // A payload without bytes is nowhere, so its offset means nothing.
        let holds = bytes == 0 || (offset.is_multiple_of(PAGE_SIZE) && offset >= self.start && inside);
        ensure(holds, "# bytes at @ do not lie page-aligned within the system image", &[bytes, offset])
    }
}

/// Checks what the header says of itself and of the image's length.
///
/// # Errors
/// The first thing that is wrong.
fn check_header(header: ImageHeader, bytes: u64) -> Result<(), Problem> {
    let (format, stated) = (header.format.get(), header.image_bytes.get());
    ensure(header.magic == MAGIC, "the boot module is not a Cloister system image", &[])?;
    let formats = [format, FORMAT].map(u64::from);
    ensure(format == FORMAT, "the system image has format #, but this hypervisor takes format #", &formats)?;
    let mut unsigned = header;
    unsigned.header_checksum = 0.into();
    let is_whole = crc32(0, unsigned.as_bytes()) == header.header_checksum.get();
    ensure(is_whole, "the header of the system image is damaged: its checksum differs", &[])?;
    let is_known = header.reserved.get() == 0 && header.reserved_end.get() == 0;
    ensure(is_known, "the header of the system image uses fields that have no meaning yet", &[])?;
    let sentence = "the system image is incomplete: # bytes were packed, # are here";
    ensure(stated == bytes, sentence, &[stated, bytes])
}
