#![expect(
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    reason = "test code: numbers are small and a wrong one fails the test"
)]

use super::SystemImage;
use crate::vm::error::{ImageError, Problem};
use crate::vm::fixture::{demo_manifest, pack, sealed};
use proptest::prelude::*;
use protocol::image::ImageHeader;
use protocol::label::Label;
use protocol::layout::{self, KERNEL_IMAGE, PAGE_SIZE};
use protocol::manifest::{Manifest, Module, VmManifest};
use protocol::version::WireVersion;

fn refused(bytes: &[u8]) -> ImageError {
    let error = SystemImage::parse(bytes).expect_err("refused");
    assert!(error.to_string().len() > 20, "{error}");
    error
}

/// What is said of a manifest of which one thing was changed.
fn changed(change: impl FnOnce(&mut Manifest)) -> ImageError {
    let mut manifest = demo_manifest();
    change(&mut manifest);
    refused(&pack(&manifest))
}

fn first(change: impl FnOnce(&mut VmManifest)) -> Problem {
    match changed(|manifest| change(&mut manifest.vms[0])) {
        ImageError::Vm { vm: 0, problem } => problem,
        other => panic!("{other:?}"),
    }
}

fn number(problem: Problem) -> (&'static str, u64) {
    match problem {
        Problem::Number { what, found, .. } => (what, found),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sound_image_is_read_as_it_was_packed() {
    let manifest = demo_manifest();
    let bytes = pack(&manifest);
    let image = SystemImage::parse(&bytes).unwrap();
    assert_eq!(image.manifest(), &manifest);
    assert_eq!(image.bytes(), bytes);
}

#[test]
fn every_truncation_and_every_addition_is_refused() {
    let bytes = pack(&demo_manifest());
    for length in (0..bytes.len()).step_by(512).chain(0..100).chain([bytes.len() - 1]) {
        let error = refused(&bytes[..length]);
        if length < size_of::<ImageHeader>() {
            assert!(matches!(error, ImageError::NoHeader { .. }));
        } else {
            assert!(matches!(error, ImageError::Length { .. }), "{error:?}");
        }
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(refused(&longer), ImageError::Length { .. }));
}

#[test]
fn every_flipped_bit_of_header_and_manifest_is_refused_and_of_the_rest_each_byte() {
    let mut bytes = pack(&demo_manifest());
    for position in 0..bytes.len() {
        let bits = if position < 400 { 0..8 } else { 3..4 };
        for bit in bits.filter(|_| position < 400 || position % 13 == 0) {
            bytes[position] ^= 1 << bit;
            refused(&bytes);
            bytes[position] ^= 1 << bit;
        }
    }
}

#[test]
fn each_field_of_the_header_is_checked() {
    let bytes = pack(&demo_manifest());
    let with = |change: fn(&mut ImageHeader)| refused(&sealed(&bytes, change));
    assert_eq!(with(|header| header.magic[0] = b'X'), ImageError::Magic);
    let format = with(|header| header.format = 2.into());
    assert_eq!(format, ImageError::Format { found: 2 });
    let reserved = with(|header| header.reserved = 1.into());
    assert_eq!(reserved, ImageError::HeaderReserved);
    let reserved = with(|header| header.reserved_end = 1.into());
    assert_eq!(reserved, ImageError::HeaderReserved);
    let manifest = with(|header| header.manifest_bytes = u64::MAX.into());
    assert_eq!(manifest, ImageError::ManifestLength { stated: u64::MAX });
    let body = with(|header| header.body_checksum = 7.into());
    assert_eq!(body, ImageError::BodyChecksum);
    let longer = with(|header| header.manifest_bytes = (header.manifest_bytes.get() + 1).into());
    assert_eq!(longer, ImageError::ManifestEncoding);
    let shorter = with(|header| header.manifest_bytes = (header.manifest_bytes.get() - 1).into());
    assert_eq!(shorter, ImageError::ManifestEncoding);
    let mut unsealed = bytes;
    unsealed[9] ^= 0;
    unsealed[12] ^= 1;
    assert_eq!(refused(&unsealed), ImageError::HeaderChecksum);
}

#[test]
fn a_system_has_at_least_one_vm_and_not_too_many() {
    let none = changed(|manifest| {
        manifest.vms.clear();
        manifest.channels.clear();
    });
    assert_eq!(none, ImageError::VmCount { found: 0 });
    let many = changed(|manifest| {
        let vm = manifest.vms[0].clone();
        manifest.vms = (0..65).map(|number| VmManifest { name: format!("vm{number}"), ..vm.clone() }).collect();
    });
    assert_eq!(many, ImageError::VmCount { found: 65 });
}

#[test]
fn names_are_short_visible_and_unique() {
    assert_eq!(first(|vm| vm.name.clear()), Problem::NameLength { bytes: 0 });
    assert_eq!(first(|vm| vm.name = "n".repeat(32)), Problem::NameLength { bytes: 32 });
    for name in ["a b", "a\0", "a\x1b[2J", "h\u{e9}"] {
        assert_eq!(first(|vm| vm.name = name.into()), Problem::NameCharacter);
    }
    let twice = changed(|manifest| manifest.vms[1].name = manifest.vms[0].name.clone());
    assert_eq!(twice, ImageError::Vm { vm: 1, problem: Problem::NameTaken });
    let channel = changed(|manifest| {
        let copy = manifest.channels[0].clone();
        manifest.channels.push(copy);
    });
    assert_eq!(channel, ImageError::Channel { channel: 1, problem: Problem::NameTaken });
    assert_eq!(first(|vm| vm.modules[0].name.clear()), Problem::NameLength { bytes: 0 });
    let module = first(|vm| vm.modules.push(vm.modules[0].clone()));
    assert_eq!(module, Problem::NameTaken);
}

#[test]
fn numbers_outside_their_limits_are_named() {
    assert_eq!(number(first(|vm| vm.memory_frames = 0)), ("its memory_frames", 0));
    let huge = number(first(|vm| vm.memory_frames = u64::MAX));
    assert_eq!(huge, ("its memory_frames", u64::MAX));
    assert_eq!(number(first(|vm| vm.pool_frames = 0)), ("its pool_frames", 0));
    let huge = number(first(|vm| vm.pool_frames = u64::MAX));
    assert_eq!(huge, ("its pool_frames", u64::MAX));
    assert_eq!(number(first(|vm| vm.vcpus = 0)).1, 0);
    assert_eq!(number(first(|vm| vm.vcpus = 17)).1, 17);
    assert_eq!(number(first(|vm| vm.weight = 0)), ("its weight", 0));
    assert_eq!(number(first(|vm| vm.cap_percent = 1601)), ("its cap_percent", 1601));
    assert_eq!(number(first(|vm| vm.command_line = "x".repeat(257))).1, 257);
    assert_eq!(first(|vm| vm.command_line = "a\0b".into()), Problem::CommandLine);
    let modules = number(first(|vm| {
        let module = |number| Module { name: format!("m{number}"), ..vm.modules[0].clone() };
        vm.modules = (0..9).map(module).collect();
    }));
    assert_eq!(modules, ("its number of modules", 9));
}

#[test]
fn a_kernel_for_another_version_is_refused_with_both_versions() {
    let wanted = WireVersion { major: 2, minor: 0 };
    assert_eq!(first(|vm| vm.abi = wanted), Problem::Version { wanted });
    let wanted = WireVersion { major: 1, minor: 9 };
    let problem = first(|vm| vm.abi = wanted);
    assert!(problem.to_string().contains("1.9") && problem.to_string().contains("1.0"));
}

#[test]
fn segments_have_a_shape_a_place_an_order_and_flags() {
    let text = KERNEL_IMAGE.0;
    let shape = |address| Problem::SegmentShape { address };
    assert_eq!(first(|vm| vm.segments[0].address += 1), shape(text + 1));
    assert_eq!(first(|vm| vm.segments[0].memory_bytes = 0), shape(text));
    assert_eq!(first(|vm| vm.segments[0].memory_bytes = 10), shape(text));
    let physmap_end = layout::PHYSMAP.0 + demo_manifest().vms[0].memory_frames * PAGE_SIZE;
    for address in [
        0,
        PAGE_SIZE,
        layout::HYPERVISOR_START,
        layout::KERNEL_START,
        layout::PHYSMAP.0,
        physmap_end - PAGE_SIZE,
        layout::KERNEL_END,
        layout::KERNEL_END - PAGE_SIZE,
    ] {
        let problem = first(|vm| vm.segments[0].address = address);
        assert_eq!(problem, Problem::SegmentPlace { address });
    }
    let problem = first(|vm| vm.segments[0].memory_bytes = u64::MAX);
    assert_eq!(problem, Problem::SegmentPlace { address: text });
    let overlap = first(|vm| vm.segments[0].memory_bytes = 2 * PAGE_SIZE + 1);
    let second = demo_manifest().vms[0].segments[1].address;
    assert_eq!(overlap, Problem::SegmentOrder { address: second });
    assert_eq!(first(|vm| vm.segments.swap(0, 1)), Problem::SegmentOrder { address: text });
    let flags = first(|vm| vm.segments[0].flags |= protocol::flags::MapFlags::LARGE);
    assert_eq!(flags, Problem::SegmentFlags { address: text });
}

#[test]
fn payloads_lie_page_aligned_behind_the_manifest_and_within_the_image() {
    for offset in [0, 1, PAGE_SIZE + 1, 1 << 40, u64::MAX - PAGE_SIZE + 1] {
        let problem = first(|vm| vm.segments[0].image_offset = offset);
        assert!(matches!(problem, Problem::Payload { .. }), "{problem:?}");
        let problem = first(|vm| vm.modules[0].image_offset = offset);
        assert!(matches!(problem, Problem::Payload { .. }), "{problem:?}");
    }
    let problem = first(|vm| vm.modules[0].bytes = u64::MAX);
    assert!(matches!(problem, Problem::Payload { bytes: u64::MAX, .. }));
}

#[test]
fn the_entry_is_in_an_executable_segment() {
    let data = demo_manifest().vms[0].segments[1].address;
    for address in [0, KERNEL_IMAGE.0 - 1, KERNEL_IMAGE.0 + 2 * PAGE_SIZE, data, u64::MAX] {
        assert_eq!(first(|vm| vm.entry = address), Problem::Entry { address });
    }
    assert_eq!(first(|vm| vm.segments.clear()), Problem::Entry { address: KERNEL_IMAGE.0 + 16 });
}

#[test]
fn what_a_vm_starts_with_must_fit_into_its_memory() {
    let needed = 2 + 3 + 2 + 1 + 2 + 16;
    let problem = first(|vm| vm.memory_frames = needed - 1);
    let found = needed - 1;
    assert_eq!(problem, Problem::MemoryTooSmall { needed, found });
    let mut manifest = demo_manifest();
    manifest.vms[0].memory_frames = needed;
    assert!(SystemImage::parse(&pack(&manifest)).is_ok());
}

#[test]
fn channels_join_two_vms_whose_labels_allow_both_ways() {
    let bad = |change: fn(&mut Manifest)| match changed(change) {
        ImageError::Channel { channel: 0, problem } => problem,
        other => panic!("{other:?}"),
    };
    let ends = |ends| Problem::Ends { ends };
    assert_eq!(bad(|manifest| manifest.channels[0].ends = [0, 2]), ends([0, 2]));
    assert_eq!(bad(|manifest| manifest.channels[0].ends = [u32::MAX, 0]), ends([u32::MAX, 0]));
    assert_eq!(bad(|manifest| manifest.channels[0].ends = [1, 1]), ends([1, 1]));
    assert_eq!(number(bad(|manifest| manifest.channels[0].frames = 0)).1, 0);
    assert_eq!(number(bad(|manifest| manifest.channels[0].frames = 4097)).1, 4097);
    let secret = bad(|manifest| {
        manifest.vms[1].label = Label { secrecy_level: 1, ..Label::default() };
    });
    assert_eq!(secret, Problem::Labels { ends: [0, 1] });
    let many = changed(|manifest| {
        let channel = manifest.channels[0].clone();
        let named = |number| protocol::manifest::ChannelManifest { name: format!("c{number}"), ..channel.clone() };
        manifest.channels = (0..9).map(named).collect();
    });
    let ImageError::Vm { vm: 0, problem } = many else {
        panic!("{many:?}");
    };
    assert_eq!(number(problem), ("its number of channels", 9));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        refused(&bytes);
    }

    #[test]
    fn arbitrary_bytes_as_a_manifest_never_panic(body in prop::collection::vec(any::<u8>(), 0..300), manifest in 0..400_u64) {
        let header = ImageHeader {
            magic: protocol::image::MAGIC,
            format: protocol::image::FORMAT.into(),
            reserved: 0.into(),
            header_checksum: 0.into(),
            image_bytes: 0.into(),
            manifest_bytes: manifest.into(),
            body_checksum: protocol::image::crc32(0, &body).into(),
            reserved_end: 0.into(),
        };
        let bytes = [zerocopy::IntoBytes::as_bytes(&header), &body].concat();
        let length = u64::try_from(bytes.len()).unwrap();
        let bytes = sealed(&bytes, |header| header.image_bytes = length.into());
        let _ = SystemImage::parse(&bytes);
    }

    #[test]
    fn a_sealed_image_with_changed_manifest_bytes_never_panics(position in 0..300_usize, byte in any::<u8>()) {
        let mut bytes = pack(&demo_manifest());
        let start = size_of::<ImageHeader>();
        bytes[start + position] = byte;
        let body = protocol::image::crc32(0, &bytes[start..]);
        let bytes = sealed(&bytes, |header| header.body_checksum = body.into());
        let _ = SystemImage::parse(&bytes);
    }
}
