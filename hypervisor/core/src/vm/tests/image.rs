#![expect(clippy::arithmetic_side_effects, reason = "test code: numbers are small and a wrong one fails the test")]

use super::fixture::{demo_manifest, pack, sealed};
use crate::vm::SystemImage;
use proptest::prelude::*;
use protocol::image::ImageHeader;
use protocol::layout::{self, KERNEL_IMAGE, PAGE_SIZE};
use protocol::manifest::{Manifest, Module, VmManifest};
use protocol::processor::{PortRange, ProcessorFeatures, RESERVED_PORTS};
use protocol::version::WireVersion;

/// The sentence that refuses an image.
fn refused(bytes: &[u8]) -> String {
    let problem = SystemImage::parse(bytes).expect_err("refused").to_string();
    assert!(problem.len() > 20 && !problem.contains(['#', '@']), "{problem}");
    problem
}

/// What is said of a manifest of which one thing was changed.
fn changed(change: impl FnOnce(&mut Manifest)) -> String {
    let mut manifest = demo_manifest();
    change(&mut manifest);
    refused(&pack(&manifest))
}

/// The same, of the first VM.
fn first(change: impl FnOnce(&mut VmManifest)) -> String {
    let problem = changed(|manifest| change(&mut manifest.vms[0]));
    problem.strip_prefix("VM 0: ").expect(&problem).to_string()
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
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn every_truncation_and_every_addition_is_refused() {
    let bytes = pack(&demo_manifest());
    for length in (0..bytes.len()).step_by(512).chain(0..100).chain([bytes.len() - 1]) {
        let error = refused(&bytes[..length]);
        let expected = if length < size_of::<ImageHeader>() {
            format!("the system image has only {length} bytes; pack it again")
        } else {
            format!("the system image is incomplete: {} bytes were packed, {length} are here", bytes.len())
        };
        assert_eq!(error, expected);
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(refused(&longer).contains("incomplete"));
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
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
    assert!(with(|header| header.magic[0] = b'X').contains("not a Cloister system image"));
    assert!(with(|header| header.format = 1.into()).contains("format 1, but this hypervisor takes format 4"));
    assert!(with(|header| header.reserved = 1.into()).contains("no meaning yet"));
    let manifest = with(|header| header.manifest_bytes = u64::MAX.into());
    assert!(manifest.contains("manifest and policy of 18446744073709551615 and"));
    let policy = with(|header| header.policy_bytes = u64::MAX.into());
    assert!(policy.contains("18446744073709551615 bytes reach beyond the system image"));
    assert!(with(|header| header.body_checksum = 7.into()).contains("image is damaged"));
    let longer = with(|header| header.manifest_bytes = (header.manifest_bytes.get() + 1).into());
    assert!(longer.contains("cannot be decoded"));
    let shorter = with(|header| header.manifest_bytes = (header.manifest_bytes.get() - 1).into());
    assert!(shorter.contains("cannot be decoded"));
    let mut unsealed = bytes;
    unsealed[12] ^= 1;
    assert!(refused(&unsealed).contains("header of the system image is damaged"));
}

#[test]
fn a_system_has_at_least_one_vm_and_not_too_many() {
    let none = changed(|manifest| {
        manifest.vms.clear();
        manifest.channels.clear();
    });
    assert_eq!(none, "the system has 0 VMs; 1 to 64 are possible");
    let many = changed(|manifest| {
        let vm = manifest.vms[0].clone();
        manifest.vms = (0..65).map(|number| VmManifest { name: format!("vm{number}"), ..vm.clone() }).collect();
    });
    assert_eq!(many, "the system has 65 VMs; 1 to 64 are possible");
}

#[test]
fn each_port_has_one_owner_at_most_and_never_the_hypervisors() {
    let range = |first, last| PortRange { first, last };
    let with = |ports: Vec<PortRange>| first(|vm| vm.ports = ports);
    assert_eq!(with(vec![range(0x71, 0x70)]), "its ports 0x71 to 0x70 are no range, or are not for VMs");
    for (reserved, _) in RESERVED_PORTS {
        assert!(with(vec![*reserved]).contains("are not for VMs"), "{reserved:x?}");
        assert!(with(vec![range(0, 0xffff)]).contains("are not for VMs"));
    }
    assert_eq!(with(vec![range(0x70, 0x71), range(0x71, 0x72)]), "its ports 0x71 to 0x72 are given twice");
    let many = (0..17).map(|number| range(0x1000 + number, 0x1000 + number)).collect();
    assert_eq!(with(many), "it has 17 ranges of ports; 0 to 16 are possible");
    let twice = changed(|manifest| manifest.vms.iter_mut().for_each(|vm| vm.ports = vec![range(0x70, 0x71)]));
    assert_eq!(twice, "VM 1: its ports 0x70 to 0x71 are given twice");
}

#[test]
fn a_processor_policy_that_contradicts_itself_is_refused() {
    let sentence = first(|vm| {
        vm.processor.added = ProcessorFeatures::AVX.with_needs();
        vm.processor.removed = ProcessorFeatures::XSAVE;
    });
    assert!(sentence.contains("adds a feature and hides it"), "{sentence}");
    let sentence = first(|vm| vm.processor.added = ProcessorFeatures::AVX);
    assert!(sentence.contains("or one that it needs"), "{sentence}");
}

#[test]
fn names_are_short_visible_and_unique() {
    assert_eq!(first(|vm| vm.name.clear()), "a name has 0 bytes; 1 to 31 are possible");
    assert_eq!(first(|vm| vm.name = "n".repeat(32)), "a name has 32 bytes; 1 to 31 are possible");
    for name in ["a b", "a\0", "a\x1b[2J", "h\u{e9}"] {
        assert_eq!(first(|vm| vm.name = name.into()), "a name holds a character that is not visible ASCII");
    }
    let twice = changed(|manifest| manifest.vms[1].name = manifest.vms[0].name.clone());
    assert_eq!(twice, "VM 1: its name is taken already");
    let channel = changed(|manifest| {
        let copy = manifest.channels[0].clone();
        manifest.channels.push(copy);
    });
    assert_eq!(channel, "channel 1: its name is taken already");
    assert_eq!(first(|vm| vm.modules[0].name.clear()), "a name has 0 bytes; 1 to 31 are possible");
    let module = first(|vm| vm.modules.push(vm.modules[0].clone()));
    assert_eq!(module, "its name is taken already");
}

#[test]
fn numbers_outside_their_limits_are_named() {
    let huge = "18446744073709551615; 1 to 536870912 are possible";
    assert_eq!(first(|vm| vm.memory_frames = 0), "its memory_frames is 0; 1 to 536870912 are possible");
    assert_eq!(first(|vm| vm.memory_frames = u64::MAX), format!("its memory_frames is {huge}"));
    assert_eq!(first(|vm| vm.pool_frames = 0), "its pool_frames is 0; 1 to 536870912 are possible");
    assert_eq!(first(|vm| vm.pool_frames = u64::MAX), format!("its pool_frames is {huge}"));
    assert_eq!(first(|vm| vm.vcpus = 0), "it has 0 vCPUs; 1 to 16 are possible");
    assert_eq!(first(|vm| vm.vcpus = 17), "it has 17 vCPUs; 1 to 16 are possible");
    assert_eq!(first(|vm| vm.weight = 0), "its weight is 0; 1 to 4294967295 are possible");
    assert_eq!(first(|vm| vm.cap_percent = 1601), "its cap_percent is 1601; 0 to 1600 are possible");
    let long = first(|vm| vm.command_line = "x".repeat(257));
    assert_eq!(long, "its command line has 257 bytes; 0 to 256 are possible");
    assert_eq!(first(|vm| vm.command_line = "a\0b".into()), "its command line holds a zero byte");
    let modules = first(|vm| {
        let module = |number| Module { name: format!("m{number}"), ..vm.modules[0].clone() };
        vm.modules = (0..9).map(module).collect();
    });
    assert_eq!(modules, "it has 9 modules; 0 to 8 are possible");
}

#[test]
fn a_kernel_for_another_version_is_refused_with_both_versions() {
    let version = |major, minor| first(|vm| vm.abi = WireVersion { major, minor });
    assert_eq!(version(2, 0), "its kernel was built for ABI 2.0, but this hypervisor serves 1.0");
    assert_eq!(version(1, 9), "its kernel was built for ABI 1.9, but this hypervisor serves 1.0");
}

#[test]
fn segments_have_a_shape_a_place_an_order_and_flags() {
    let text = KERNEL_IMAGE.0;
    let said = |address: u64, what: &str| format!("the segment at {address:#x} {what}");
    let shape = |address| said(address, "is empty, not page-aligned, or larger in the image than in memory");
    let place = |address| said(address, "lies where no guest kernel may lie");
    let order = |address| said(address, "does not lie behind the one before it");
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
        assert_eq!(problem, place(address));
    }
    let problem = first(|vm| vm.segments[0].memory_bytes = u64::MAX);
    assert_eq!(problem, place(text));
    let overlap = first(|vm| vm.segments[0].memory_bytes = 2 * PAGE_SIZE + 1);
    let second = demo_manifest().vms[0].segments[1].address;
    assert_eq!(overlap, order(second));
    assert_eq!(first(|vm| vm.segments.swap(0, 1)), order(text));
    let flags = first(|vm| vm.segments[0].flags |= protocol::flags::MapFlags::LARGE);
    assert_eq!(flags, said(text, "asks for large pages"));
}

#[test]
fn payloads_lie_page_aligned_behind_the_manifest_and_within_the_image() {
    for offset in [0, 1, PAGE_SIZE + 1, 1 << 40, u64::MAX - PAGE_SIZE + 1] {
        let problem = first(|vm| vm.segments[0].image_offset = offset);
        assert!(problem.ends_with("do not lie page-aligned within the system image"), "{problem}");
        let problem = first(|vm| vm.modules[0].image_offset = offset);
        assert!(problem.ends_with("do not lie page-aligned within the system image"), "{problem}");
    }
    let problem = first(|vm| vm.modules[0].bytes = u64::MAX);
    assert!(problem.starts_with("18446744073709551615 bytes at 0x4000"), "{problem}");
}

#[test]
fn the_entry_is_in_an_executable_segment() {
    let data = demo_manifest().vms[0].segments[1].address;
    for address in [0, KERNEL_IMAGE.0 - 1, KERNEL_IMAGE.0 + 2 * PAGE_SIZE, data, u64::MAX] {
        let problem = first(|vm| vm.entry = address);
        assert_eq!(problem, format!("its entry {address:#x} is in no executable segment"));
    }
    assert!(first(|vm| vm.segments.clear()).starts_with("its entry 0xffffffff80000010"));
}

#[test]
fn what_a_vm_starts_with_must_fit_into_its_memory() {
    let needed = 2 + 3 + 2 + 1 + 2 + 16;
    let problem = first(|vm| vm.memory_frames = needed - 1);
    assert_eq!(problem, "it has 25 frames of memory, but its kernel, modules and start need 26");
    let mut manifest = demo_manifest();
    manifest.vms[0].memory_frames = needed;
    assert!(SystemImage::parse(&pack(&manifest)).is_ok());
}

#[test]
fn channels_join_two_vms() {
    let bad = |change: fn(&mut Manifest)| {
        let problem = changed(change);
        problem.strip_prefix("channel 0: ").expect(&problem).to_string()
    };
    let ends = |one, two| format!("its ends {one} and {two} are not two VMs of the system");
    assert_eq!(bad(|manifest| manifest.channels[0].ends = [0, 2]), ends(0, 2));
    assert_eq!(bad(|manifest| manifest.channels[0].ends = [u32::MAX, 0]), ends(u32::MAX, 0));
    assert_eq!(bad(|manifest| manifest.channels[0].ends = [1, 1]), ends(1, 1));
    assert_eq!(bad(|manifest| manifest.channels[0].frames = 4097), "it has 4097 frames; 0 to 4096 are possible");
    let many = changed(|manifest| {
        let channel = manifest.channels[0].clone();
        let named = |number| protocol::manifest::ChannelManifest { name: format!("c{number}"), ..channel.clone() };
        manifest.channels = (0..9).map(named).collect();
    });
    assert_eq!(many, "VM 0: it has 9 channels; 0 to 8 are possible");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        refused(&bytes);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn arbitrary_bytes_as_a_manifest_never_panic(body in prop::collection::vec(any::<u8>(), 0..300), manifest in 0..400_u64) {
        let header = ImageHeader {
            magic: protocol::image::MAGIC,
            format: protocol::image::FORMAT.into(),
            reserved: 0.into(),
            header_checksum: 0.into(),
            image_bytes: 0.into(),
            manifest_bytes: manifest.into(),
            policy_bytes: 0.into(),
            policy_hash: [0; 32],
            body_checksum: protocol::image::checksum(&body).into(),
        };
        let bytes = [zerocopy::IntoBytes::as_bytes(&header), &body].concat();
        let length = u64::try_from(bytes.len()).unwrap();
        let bytes = sealed(&bytes, |header| header.image_bytes = length.into());
        let _ = SystemImage::parse(&bytes);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn a_sealed_image_with_changed_manifest_bytes_never_panics(position in 0..300_usize, byte in any::<u8>()) {
        let mut bytes = pack(&demo_manifest());
        let start = size_of::<ImageHeader>();
        bytes[start + position] = byte;
        let body = protocol::image::checksum(&bytes[start..]);
        let bytes = sealed(&bytes, |header| header.body_checksum = body.into());
        let _ = SystemImage::parse(&bytes);
    }
}
