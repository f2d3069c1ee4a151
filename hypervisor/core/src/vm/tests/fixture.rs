//! A small system for tests: two VMs and a channel, packed the way `xtask` packs.
#![expect(clippy::arithmetic_side_effects, reason = "test code: numbers are small and a wrong one fails the test")]

use protocol::flags::MapFlags;
use protocol::image::{FORMAT, ImageHeader, MAGIC, checksum};
use protocol::label::Label;
use protocol::layout::{KERNEL_IMAGE, PAGE_SIZE};
use protocol::manifest::{ChannelManifest, Manifest, Module, OnCrash, Personality, Segment, VmManifest};
use protocol::policy::Policy;
use protocol::processor::ProcessorPolicy;
use protocol::version::CURRENT;
use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, IntoBytes};

/// Where the payloads start: header and manifest fit before.
const PAYLOADS: u64 = PAGE_SIZE;
/// Bytes of the header.
const HEADER: usize = size_of::<ImageHeader>();
/// Bytes of the image.
const BYTES: usize = 5 * 4096 + 100;

pub(in crate::vm) fn demo_manifest() -> Manifest {
    let vm = |name: &str| VmManifest {
        name: name.into(),
        abi: CURRENT,
        entry: KERNEL_IMAGE.0 + 16,
        memory_frames: 1100,
        pool_frames: 40,
        vcpus: 2,
        weight: 100,
        cap_percent: 0,
        processor: ProcessorPolicy::default(),
        ports: Vec::new(),
        on_crash: OnCrash::Restart(3),
        command_line: "fast=1".into(),
        segments: vec![
            Segment {
                address: KERNEL_IMAGE.0,
                image_offset: PAYLOADS,
                file_bytes: PAGE_SIZE + 10,
                memory_bytes: PAGE_SIZE + 10,
                flags: MapFlags::EXECUTE,
            },
            Segment {
                address: KERNEL_IMAGE.0 + 2 * PAGE_SIZE,
                image_offset: PAYLOADS + 2 * PAGE_SIZE,
                file_bytes: 100,
                memory_bytes: 2 * PAGE_SIZE + 1,
                flags: MapFlags::WRITE,
            },
        ],
        modules: vec![Module { name: "data".into(), image_offset: PAYLOADS + 3 * PAGE_SIZE, bytes: PAGE_SIZE + 100 }],
        personality: Personality::Native,
    };
    Manifest {
        name: "demo".into(),
        vms: vec![vm("one"), vm("two")],
        channels: vec![ChannelManifest { name: "link".into(), ends: [0, 1], frames: 3 }],
    }
}

/// A policy for the VMs of a manifest: one label, nothing else.
pub(super) fn demo_policy(manifest: &Manifest) -> Policy {
    let names = manifest.vms.iter().map(|vm| vm.name.as_str());
    crate::policy::tests::policy(names.map(|name| (name, Label::default())))
}

/// The image of a manifest with its simplest policy.
pub(in crate::vm) fn pack(manifest: &Manifest) -> Vec<u8> {
    pack_with(manifest, &postcard::to_allocvec(&demo_policy(manifest)).unwrap())
}

/// The image of a manifest and the bytes of a policy; payload bytes are a pattern.
pub(super) fn pack_with(manifest: &Manifest, policy: &[u8]) -> Vec<u8> {
    let manifest = postcard::to_allocvec(manifest).unwrap();
    let encoded = [manifest.as_slice(), policy].concat();
    let mut bytes: Vec<u8> =
        (0..BYTES.max(HEADER + encoded.len())).map(|position| u8::try_from(position * 7 % 251).unwrap()).collect();
    bytes[HEADER..HEADER + encoded.len()].copy_from_slice(&encoded);
    let header = ImageHeader {
        magic: MAGIC,
        format: FORMAT.into(),
        reserved: 0.into(),
        header_checksum: 0.into(),
        image_bytes: u64::try_from(bytes.len()).unwrap().into(),
        manifest_bytes: u64::try_from(manifest.len()).unwrap().into(),
        policy_bytes: u64::try_from(policy.len()).unwrap().into(),
        policy_hash: Sha256::digest(policy).into(),
        body_checksum: checksum(&bytes[HEADER..]).into(),
    };
    bytes[..HEADER].copy_from_slice(header.as_bytes());
    sealed(&bytes, |_| {})
}

/// The image with a changed header that has a right checksum.
pub(super) fn sealed(bytes: &[u8], change: impl FnOnce(&mut ImageHeader)) -> Vec<u8> {
    let (mut header, body) = ImageHeader::read_from_prefix(bytes).unwrap();
    change(&mut header);
    header.header_checksum = header.own_checksum();
    [header.as_bytes(), body].concat()
}
