//! Reads a system image and refuses whatever is not wholly in order, before any of it is used.

use protocol::image::{FORMAT, ImageHeader, MAGIC, checksum};
use protocol::layout::PAGE_SIZE;
use protocol::manifest::Manifest;
use sha2::{Digest, Sha256};
use zerocopy::FromBytes;

use super::check::{check_manifest, check_permitted};
use super::error::{Problem, ensure};
use super::policy::check_policy;
use crate::addr::convert::{index, wide};
use crate::policy::Monitor;

/// A system image that keeps every rule.
#[derive(Debug)]
pub struct SystemImage<'a> {
    bytes: &'a [u8],
    manifest: Manifest,
    monitor: Monitor,
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
        let lengths @ [manifest, policy] = [header.manifest_bytes.get(), header.policy_bytes.get()];
        let parts = body.split_at_checked(index(manifest)).and_then(|(manifest, rest)| {
            let policy = rest.get(..index(policy))?;
            Some((manifest, policy))
        });
        let (manifest, policy) = parts.ok_or_else(|| {
            Problem::new("manifest and policy of # and # bytes reach beyond the system image", &lengths)
        })?;
        let is_whole = checksum(body) == header.body_checksum.get();
        ensure(is_whole, "the system image is damaged: its checksum differs", &[])?;
        let decoded = decode(manifest, "the manifest of the system image cannot be decoded");
        let start = lengths.into_iter().fold(wide(size_of::<ImageHeader>()), u64::saturating_add);
        let payloads = Payloads { image: bytes, start };
        let manifest: Manifest = decoded?;
        check_manifest(&manifest, payloads)?;
        let monitor = load_policy(policy, header.policy_hash, &manifest)?;
        check_permitted(&manifest, &monitor)?;
        Ok(SystemImage { bytes, manifest, monitor })
    }

    /// Who may do what.
    #[must_use]
    pub const fn monitor(&self) -> &Monitor {
        &self.monitor
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

/// Decodes a message that fills its bytes wholly.
///
/// # Errors
/// The sentence, if it does not.
fn decode<'b, T: serde::Deserialize<'b>>(bytes: &'b [u8], sentence: &'static str) -> Result<T, Problem> {
    match postcard::take_from_bytes(bytes) {
        Ok((decoded, [])) => Ok(decoded),
        _ => Err(Problem::new(sentence, &[])),
    }
}

/// Loads the policy of a manifest that was checked.
///
/// # Errors
/// The first thing that is wrong.
fn load_policy(bytes: &[u8], hash: [u8; 32], manifest: &Manifest) -> Result<Monitor, Problem> {
    ensure(!bytes.is_empty(), "the system image has no policy", &[])?;
    let found: [u8; 32] = Sha256::digest(bytes).into();
    ensure(found == hash, "the policy of the system image is not the one that was packed: its SHA-256 differs", &[])?;
    let policy = decode(bytes, "the policy of the system image cannot be decoded")?;
    check_policy(&policy, manifest)?;
    Ok(Monitor::new(policy, hash))
}

/// The part of an image behind manifest and policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payloads<'a> {
    image: &'a [u8],
    /// Offset of the first byte that is neither.
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
    let is_whole = header.own_checksum() == header.header_checksum;
    ensure(is_whole, "the header of the system image is damaged: its checksum differs", &[])?;
    let is_known = header.reserved.get() == 0;
    ensure(is_known, "the header of the system image uses fields that have no meaning yet", &[])?;
    let sentence = "the system image is incomplete: # bytes were packed, # are here";
    ensure(stated == bytes, sentence, &[stated, bytes])
}
