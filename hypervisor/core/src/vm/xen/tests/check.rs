use protocol::layout::{HYPERVISOR_START, KERNEL_START, PAGE_SIZE};
use protocol::manifest::{ChannelManifest, Manifest, Module, Personality, VmManifest, XenKernel};
use protocol::processor::{PortRange, TimeSource};
use protocol::version::WireVersion;

use super::{LINUX, LINUX_BASE, SMALL, xen_manifest};
use crate::vm::SystemImage;
use crate::vm::tests::fixture::pack;

/// What is said of a system.
fn said(manifest: &Manifest) -> String {
    let problem = SystemImage::parse(&pack(manifest)).expect_err("refused").to_string();
    assert!(problem.len() > 20 && !problem.contains(['#', '@']), "{problem}");
    problem
}

/// What is said of a Xen VM of which one thing was changed.
fn changed(kernel: XenKernel, change: impl FnOnce(&mut VmManifest)) -> String {
    let mut manifest = xen_manifest(kernel);
    change(&mut manifest.vms[0]);
    said(&manifest).strip_prefix("VM 0: ").unwrap().to_string()
}

/// What is said of a VM whose notes ask for something else.
fn asked(kernel: XenKernel) -> String {
    changed(LINUX, |vm| vm.personality = Personality::Xen(kernel))
}

#[test]
fn the_vms_of_both_kinds_of_kernel_are_sound() {
    for kernel in [LINUX, SMALL] {
        let manifest = xen_manifest(kernel);
        let bytes = pack(&manifest);
        assert_eq!(SystemImage::parse(&bytes).unwrap().manifest(), &manifest);
    }
}

#[test]
fn the_version_of_the_native_abi_and_its_limit_of_a_command_line_mean_nothing() {
    let mut manifest = xen_manifest(LINUX);
    manifest.vms[0].abi = WireVersion { major: 77, minor: 0 };
    manifest.vms[0].command_line = "x".repeat(1023);
    SystemImage::parse(&pack(&manifest)).unwrap();
    let long = changed(LINUX, |vm| vm.command_line = "x".repeat(1024));
    assert_eq!(long, "its command line has 1024 bytes; 0 to 1023 are possible");
    let zero = changed(LINUX, |vm| vm.command_line = "a\0b".into());
    assert_eq!(zero, "its command line holds a zero byte");
}

#[test]
fn it_has_no_ports_no_coarse_time_no_channels_and_one_module() {
    let ports = changed(LINUX, |vm| vm.ports = vec![PortRange { first: 0x70, last: 0x71 }]);
    assert_eq!(ports, "it speaks Xen's ABI, so it can have no I/O ports");
    let coarse = changed(LINUX, |vm| vm.processor.time = TimeSource::Coarse);
    assert_eq!(coarse, "it speaks Xen's ABI, whose clock is exact, so its time cannot be coarse");
    for ends in [[0, 1], [1, 0]] {
        let mut manifest = xen_manifest(LINUX);
        manifest.channels = vec![ChannelManifest { name: "link".into(), ends, frames: 3 }];
        let sentence = "channel 0: its end 0 is a VM that speaks Xen's ABI and can have no channel";
        assert_eq!(said(&manifest), sentence);
    }
    let module = |name: &str| Module { name: name.into(), image_offset: PAGE_SIZE, bytes: 1 };
    let modules = changed(LINUX, |vm| vm.modules = vec![module("one"), module("two")]);
    assert_eq!(modules, "it has 2 modules; 0 to 1 are possible");
}

#[test]
fn the_first_mapping_begins_at_4_mib_of_the_guests_and_stays_in_them() {
    for virt_base in [LINUX_BASE + 0x20_0000, HYPERVISOR_START, KERNEL_START - 0x40_0000, 0x8000_0000_0000, u64::MAX] {
        let sentence = format!("its first mapping begins at {virt_base:#x}: no multiple of 4 MiB, or not the guest's");
        assert_eq!(asked(XenKernel { virt_base, ..LINUX }), sentence);
    }
    for virt_base in [0xffff_ffff_ffc0_0000, 0x7fff_ffc0_0000] {
        let mut manifest = xen_manifest(XenKernel { virt_base, p2m_address: None, ..LINUX });
        let sentence =
            format!("VM 0: its first mapping of 1024 pages at {virt_base:#x} reaches where no guest may map anything");
        // The segments' addresses do not wrap even if the memory reaches beyond the end.
        for memory_frames in [1027, 2048] {
            manifest.vms[0].memory_frames = memory_frames;
            assert_eq!(said(&manifest), sentence);
        }
    }
}

#[test]
fn segments_lie_in_the_memory_that_the_first_mapping_shows() {
    let place =
        |address| format!("the segment at {address:#x} lies outside the VM's memory as the first mapping shows it");
    let memory = xen_manifest(LINUX).vms[0].memory_frames * PAGE_SIZE;
    for address in [LINUX_BASE - PAGE_SIZE, 0, LINUX_BASE + memory, LINUX_BASE + memory - PAGE_SIZE] {
        assert_eq!(changed(LINUX, |vm| vm.segments[0].address = address), place(address));
    }
    let huge = changed(LINUX, |vm| vm.segments[0].memory_bytes = u64::MAX);
    assert_eq!(huge, place(LINUX_BASE + 0x10_0000));
    let shape = changed(LINUX, |vm| vm.segments[0].address += 1);
    assert!(shape.ends_with("is empty, not page-aligned, or larger in the image than in memory"), "{shape}");
    let order = changed(LINUX, |vm| vm.segments.swap(0, 1));
    assert!(order.ends_with("does not lie behind the one before it"), "{order}");
    let payload = changed(LINUX, |vm| vm.segments[0].image_offset = 0);
    assert!(payload.ends_with("do not lie page-aligned within the system image"), "{payload}");
}

#[test]
fn entry_and_hypercall_page_are_in_a_segment() {
    let end = LINUX_BASE + 0x10_2000 + 2 * PAGE_SIZE + 1;
    for entry in [0, LINUX_BASE + 0xf_ffff, end] {
        assert_eq!(changed(LINUX, |vm| vm.entry = entry), format!("its entry {entry:#x} is in no segment"));
    }
    for page in [0x10_2001, 0x10_5000, 0xf_f000] {
        let sentence = format!("its hypercall page {page:#x} is not page-aligned or in no segment");
        let kernel = XenKernel { hypercall_page: Some(page), ..SMALL };
        assert_eq!(changed(SMALL, |vm| vm.personality = Personality::Xen(kernel)), sentence);
    }
}

#[test]
fn the_list_of_frames_has_a_place_of_its_own() {
    for address in [0x80_0000_0001, HYPERVISOR_START, 0x7fff_ffff_f000, KERNEL_START - PAGE_SIZE, u64::MAX - 0xfff] {
        let sentence =
            format!("its list of frames is to be mapped at {address:#x}: not page-aligned, or not the guest's");
        assert_eq!(asked(XenKernel { p2m_address: Some(address), ..LINUX }), sentence);
    }
    for address in [0xffff_ff80_0000_0000, LINUX_BASE, 0xffff_ff7f_ffff_f000] {
        let sentence = format!(
            "its list of frames at {address:#x} is within 512 GiB of the first mapping, and would share a table with it"
        );
        assert_eq!(asked(XenKernel { p2m_address: Some(address), ..LINUX }), sentence);
    }
}

#[test]
fn too_little_memory_is_said_with_what_is_needed() {
    // The first mapping, the module's two frames, the list and its three tables.
    let needed = 1024 + 2 + 3 + 3;
    let sentence = |memory| format!("it has {memory} frames of memory, but its kernel, module and start need {needed}");
    let mut manifest = xen_manifest(LINUX);
    manifest.vms[0].memory_frames = needed;
    SystemImage::parse(&pack(&manifest)).unwrap();
    assert_eq!(changed(LINUX, |vm| vm.memory_frames = needed - 1), sentence(needed - 1));
    let needed = "it has 270 frames of memory, but its kernel, module and start need 1030";
    assert_eq!(changed(LINUX, |vm| vm.memory_frames = 270), needed);
}
