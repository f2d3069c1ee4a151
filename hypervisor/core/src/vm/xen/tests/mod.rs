//! Tests of Xen VMs, over small systems and the measured one.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::missing_errors_doc,
    reason = "test code: numbers are small, a wrong one fails the test, and helpers pass results on"
)]

mod build;
mod check;
mod plan;

use protocol::flags::MapFlags;
use protocol::layout::PAGE_SIZE;
use protocol::manifest::{Manifest, Module, Personality, Segment, VmManifest, XenKernel};

use crate::vm::tests::fixture::demo_manifest;

/// Where Linux has its first mapping.
pub(super) const LINUX_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where Linux wants its list of frames.
pub(super) const LINUX_P2M: u64 = 0x80_0000_0000;

/// Asks for what Linux does.
pub(super) const LINUX: XenKernel =
    XenKernel { virt_base: LINUX_BASE, p2m_address: Some(LINUX_P2M), hypercall_page: None, module_by_frame: true };

/// Asks for what the smallest kernels do.
pub(super) const SMALL: XenKernel =
    XenKernel { virt_base: 0, p2m_address: None, hypercall_page: Some(0x10_2000), module_by_frame: false };

/// The demo system without its channel, its first VM a Xen VM with a kernel of two segments 1 MiB behind the base.
pub(super) fn xen_manifest(kernel: XenKernel) -> Manifest {
    let mut manifest = demo_manifest();
    manifest.channels.clear();
    let vm = &mut manifest.vms[0];
    vm.memory_frames = 2048;
    for (segment, offset) in vm.segments.iter_mut().zip([0x10_0000, 0x10_2000]) {
        segment.address = kernel.virt_base + offset;
    }
    vm.entry = kernel.virt_base + 0x10_0010;
    vm.personality = Personality::Xen(kernel);
    manifest
}

/// A VM with one segment of so many frames at a frame, and a module of so many, 0 for none.
pub(super) fn vm(kernel: XenKernel, memory: u64, (first, frames): (u64, u64), module: u64) -> VmManifest {
    let mut vm = xen_manifest(kernel).vms.swap_remove(0);
    vm.memory_frames = memory;
    let address = kernel.virt_base + first * PAGE_SIZE;
    let memory_bytes = frames * PAGE_SIZE;
    vm.segments = vec![Segment { address, image_offset: 0, file_bytes: 0, memory_bytes, flags: MapFlags::EXECUTE }];
    vm.modules = vec![Module { name: "initrd".into(), image_offset: 0, bytes: module * PAGE_SIZE }];
    if module == 0 {
        vm.modules.clear();
    }
    vm
}
