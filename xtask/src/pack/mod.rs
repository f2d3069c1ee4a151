//! Writes a system image as `protocol::image` lays it out: header, manifest, policy, page-aligned
//! payloads.

use protocol::image::{FORMAT, ImageHeader, MAGIC, checksum};
use protocol::layout::PAGE_SIZE;
use protocol::manifest::Manifest;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use crate::error::{Context, Failure};
use crate::policy;
use crate::system::assemble::Assembly;

/// The image of an assembly.
pub fn pack(assembly: &Assembly) -> Result<Vec<u8>, Failure> {
    let header_bytes = size_of::<ImageHeader>() as u64;
    // Offsets are stored in as many bytes as they need, so the manifest's length depends on where
    // the payloads begin: leave room for the longest form of each.
    let longest = encode(&placed(&assembly.manifest, |_| u64::MAX))?.len() as u64;
    let (policy, policy_hash) = policy::encode(&assembly.policy)?;
    let mut offsets = Vec::new();
    let mut end = (header_bytes + longest + policy.len() as u64).next_multiple_of(PAGE_SIZE);
    for payload in &assembly.payloads {
        offsets.push(end);
        end = (end + payload.len() as u64).next_multiple_of(PAGE_SIZE);
    }
    let manifest = encode(&placed(&assembly.manifest, |index| {
        let offset = usize::try_from(index).ok().and_then(|i| offsets.get(i));
        offset.copied().unwrap_or(u64::MAX)
    }))?;
    let mut body = [manifest.as_slice(), &policy].concat();
    for (payload, offset) in assembly.payloads.iter().zip(&offsets) {
        body.resize(body_index(*offset - header_bytes), 0);
        body.extend_from_slice(payload);
    }
    body.resize(body_index(end - header_bytes), 0);
    let lengths = [manifest.len() as u64, policy.len() as u64];
    let mut image = header(&body, lengths, policy_hash).as_bytes().to_vec();
    image.extend(body);
    Ok(image)
}

/// The header of a body, of which manifest and policy have the given lengths.
pub fn header(body: &[u8], [manifest_bytes, policy_bytes]: [u64; 2], policy_hash: [u8; 32]) -> ImageHeader {
    let mut header = ImageHeader {
        magic: MAGIC,
        format: U16::new(FORMAT),
        reserved: U16::new(0),
        header_checksum: U32::new(0),
        image_bytes: U64::new((size_of::<ImageHeader>() + body.len()) as u64),
        manifest_bytes: U64::new(manifest_bytes),
        policy_bytes: U64::new(policy_bytes),
        policy_hash,
        body_checksum: U64::new(checksum(body)),
    };
    header.header_checksum = header.own_checksum();
    header
}

/// An index of a vector. This host's memory holds it, so it fits.
fn body_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// The manifest with every image offset replaced.
fn placed(manifest: &Manifest, offset: impl Fn(u64) -> u64) -> Manifest {
    let mut placed = manifest.clone();
    for vm in &mut placed.vms {
        for segment in &mut vm.segments {
            segment.image_offset = offset(segment.image_offset);
        }
        for module in &mut vm.modules {
            module.image_offset = offset(module.image_offset);
        }
    }
    placed
}

/// The manifest's bytes.
fn encode(manifest: &Manifest) -> Result<Vec<u8>, Failure> {
    postcard::to_allocvec(manifest).context("packing the manifest")
}

#[cfg(test)]
mod tests {
    use protocol::flags::MapFlags;
    use protocol::image::{ImageHeader, checksum};
    use protocol::manifest::{Manifest, OnCrash, Personality, Segment, VmManifest};
    use protocol::policy::Policy;
    use protocol::processor::ProcessorPolicy;
    use sha2::{Digest, Sha256};
    use zerocopy::FromBytes;

    use super::pack;
    use crate::system::assemble::Assembly;

    fn assembly() -> Assembly {
        let segment = |index: u64| Segment {
            address: 0xffff_ffff_8000_0000 + (index << 16),
            image_offset: index,
            file_bytes: 5000,
            memory_bytes: 9000,
            flags: MapFlags::WRITE,
        };
        Assembly {
            policy: crate::policy::Compiled::default().policy,
            manifest: Manifest {
                name: "one".into(),
                vms: vec![VmManifest {
                    name: "a".into(),
                    abi: protocol::version::CURRENT,
                    entry: 0,
                    memory_frames: 100,
                    pool_frames: 10,
                    vcpus: 1,
                    weight: 1,
                    cap_percent: 0,
                    processor: ProcessorPolicy::default(),
                    ports: Vec::new(),
                    on_crash: OnCrash::Stop,
                    command_line: String::new(),
                    segments: vec![segment(0), segment(1)],
                    modules: Vec::new(),
                    personality: Personality::Native,
                }],
                channels: Vec::new(),
            },
            payloads: vec![vec![1; 5000], vec![2; 5000]],
            programs: Vec::new(),
            memory_mib: 512,
        }
    }

    #[test]
    fn the_image_reads_back_with_page_aligned_payloads_and_right_checksums() {
        let image = pack(&assembly()).unwrap();
        let (header, body) = ImageHeader::read_from_prefix(&image).unwrap();
        assert_eq!(header.image_bytes.get(), image.len() as u64);
        assert_eq!(header.body_checksum.get(), checksum(body));
        assert_eq!(header.header_checksum, header.own_checksum());
        let length = header.manifest_bytes.get() as usize;
        let manifest: Manifest = postcard::from_bytes(&body[..length]).unwrap();
        let policy = &body[length..][..header.policy_bytes.get() as usize];
        assert_eq!(postcard::from_bytes::<Policy>(policy).unwrap(), assembly().policy);
        assert_eq!(header.policy_hash, <[u8; 32]>::from(Sha256::digest(policy)));
        for (segment, fill) in manifest.vms[0].segments.iter().zip([1, 2]) {
            let start = segment.image_offset as usize;
            assert_eq!(start % 4096, 0);
            assert!(image[start..start + 5000].iter().all(|byte| *byte == fill));
        }
    }
}
