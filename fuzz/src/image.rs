//! System images: any bytes are refused in words or read back as they stand.

use hv_core::vm::SystemImage;
use protocol::VmId;
use protocol::flags::MapFlags;
use protocol::image::{FORMAT, ImageHeader, MAGIC, checksum};
use protocol::label::Label;
use protocol::layout::{KERNEL_IMAGE, PAGE_SIZE};
use protocol::manifest::{ChannelManifest, Manifest, Module, OnCrash, Personality, Segment, VmManifest};
use protocol::policy::{Decision, Hardware, OnFull, Operation, Policy, Profile, Subject, allows};
use protocol::processor::ProcessorPolicy;
use protocol::version::CURRENT;
use sha2::{Digest, Sha256};
use zerocopy::{FromBytes, IntoBytes};

const HEADER: usize = size_of::<ImageHeader>();
/// Bytes of the one payload, which lies in the second page.
const PAYLOAD: usize = 100;
/// Bytes of an image that has it.
const WITH_PAYLOAD: usize = PAGE_SIZE as usize + PAYLOAD;

/// A whole image whose checksums are mended, so that what is behind them is reached.
pub fn image(bytes: &[u8]) {
    read(bytes);
    let Ok((mut header, body)) = ImageHeader::read_from_prefix(bytes) else { return };
    header.image_bytes = (bytes.len() as u64).into();
    header.body_checksum = checksum(body).into();
    let manifest = usize::try_from(header.manifest_bytes.get()).unwrap_or(usize::MAX);
    let policy = usize::try_from(header.policy_bytes.get()).unwrap_or(usize::MAX);
    if let Some(policy) = manifest.checked_add(policy).and_then(|end| body.get(manifest..end)) {
        header.policy_hash = Sha256::digest(policy).into();
    }
    read(&sealed(header, body));
}

/// The bytes as the manifest of an image with a fitting policy.
pub fn manifest(bytes: &[u8]) {
    let Ok(decoded) = postcard::from_bytes::<Manifest>(bytes) else {
        read(&pack(bytes, &encode(&demo_policy(&bare_manifest())), 0));
        return;
    };
    let again = encode(&decoded);
    assert_eq!(postcard::from_bytes::<Manifest>(&again).as_ref(), Ok(&decoded));
    let mut segments = decoded.vms.iter().flat_map(|vm| &vm.segments);
    let has_payload = decoded.vms.iter().any(|vm| !vm.modules.is_empty()) || segments.any(|one| one.file_bytes > 0);
    read(&pack(&again, &encode(&demo_policy(&decoded)), if has_payload { WITH_PAYLOAD } else { 0 }));
}

/// The bytes as the policy of an image, whose decisions are those of the rules.
pub fn policy(bytes: &[u8]) {
    let packed = pack(&encode(&bare_manifest()), bytes, 0);
    let Some(image) = read(&packed) else { return };
    let monitor = image.monitor();
    let subjects = &monitor.policy().subjects;
    let numbered = || (0..).map(VmId).zip(subjects);
    for (one, subject) in numbered() {
        for (other, object) in numbered() {
            for operation in Operation::ALL {
                let wanted = allows(subject, *operation, object) != Decision::Refused;
                assert_eq!(monitor.decide(one, *operation, other).is_ok(), wanted);
            }
        }
        assert!(Operation::ALL.iter().all(|operation| monitor.decide(one, *operation, VmId(2)).is_err()));
    }
}

/// Reads an image; a refusal must be a sentence.
fn read(bytes: &[u8]) -> Option<SystemImage<'_>> {
    match SystemImage::parse(bytes) {
        Ok(image) => {
            assert_eq!(image.bytes(), bytes);
            Some(image)
        }
        Err(problem) => {
            let words = problem.to_string();
            assert!(words.len() > 20, "{words}");
            None
        }
    }
}

fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("the value is plain data")
}

fn sealed(mut header: ImageHeader, body: &[u8]) -> Vec<u8> {
    header.header_checksum = header.own_checksum();
    [header.as_bytes(), body].concat()
}

/// An image of a manifest and a policy, filled up to a length: no longer than is needed, since the
/// checksum over all bytes is most of what an execution costs.
fn pack(manifest: &[u8], policy: &[u8], length: usize) -> Vec<u8> {
    let mut body = [manifest, policy].concat();
    body.resize(body.len().max(length.saturating_sub(HEADER)), 0x90);
    let header = ImageHeader {
        magic: MAGIC,
        format: FORMAT.into(),
        reserved: 0.into(),
        header_checksum: 0.into(),
        image_bytes: ((HEADER + body.len()) as u64).into(),
        manifest_bytes: (manifest.len() as u64).into(),
        policy_bytes: (policy.len() as u64).into(),
        policy_hash: Sha256::digest(policy).into(),
        body_checksum: checksum(&body).into(),
    };
    sealed(header, &body)
}

fn demo_manifest() -> Manifest {
    let vm = |name: &str| VmManifest {
        name: name.into(),
        abi: CURRENT,
        entry: KERNEL_IMAGE.0,
        memory_frames: 200,
        pool_frames: 40,
        vcpus: 2,
        weight: 100,
        cap_percent: 0,
        processor: ProcessorPolicy::default(),
        ports: Vec::new(),
        on_crash: OnCrash::Restart(3),
        command_line: "fast=1".into(),
        segments: vec![Segment {
            address: KERNEL_IMAGE.0,
            image_offset: PAGE_SIZE,
            file_bytes: PAYLOAD as u64,
            memory_bytes: PAGE_SIZE,
            flags: MapFlags::EXECUTE,
        }],
        modules: vec![Module { name: "data".into(), image_offset: PAGE_SIZE, bytes: PAYLOAD as u64 }],
        personality: Personality::Native,
    };
    Manifest {
        name: "demo".into(),
        vms: vec![vm("one"), vm("two")],
        channels: vec![ChannelManifest { name: "link".into(), ends: [0, 1], frames: 3 }],
    }
}

/// A policy for the VMs of a manifest: one label, nothing else.
fn demo_policy(manifest: &Manifest) -> Policy {
    let subject = |vm: &VmManifest| Subject {
        name: vm.name.clone(),
        label: Label::default(),
        label_text: "any".into(),
        roles: Vec::new(),
        trust: None,
        audit_share: 100,
    };
    Policy {
        profile: Profile::Shared,
        hardware: Hardware::Strict,
        on_full: OnFull::DropCounted,
        subjects: manifest.vms.iter().map(subject).collect(),
        flows: Vec::new(),
    }
}

/// The same without a payload.
fn bare_manifest() -> Manifest {
    let mut manifest = demo_manifest();
    for vm in &mut manifest.vms {
        vm.modules.clear();
        vm.segments.iter_mut().for_each(|segment| segment.file_bytes = 0);
    }
    manifest
}

/// Sound images to begin with; in the short one most changes hit something that is parsed.
pub(crate) fn images() -> Vec<Vec<u8>> {
    let image = |manifest: Manifest, length| pack(&encode(&manifest), &encode(&demo_policy(&manifest)), length);
    vec![image(demo_manifest(), WITH_PAYLOAD), image(bare_manifest(), 0)]
}

/// Sound manifests to begin with.
pub(crate) fn manifests() -> Vec<Vec<u8>> {
    vec![encode(&demo_manifest()), encode(&bare_manifest())]
}

/// A sound policy to begin with.
pub(crate) fn policies() -> Vec<Vec<u8>> {
    vec![encode(&demo_policy(&bare_manifest()))]
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_the_fuzzer_begins_with_is_sound() {
        assert!(super::images().iter().all(|image| super::read(image).is_some()));
    }
}
