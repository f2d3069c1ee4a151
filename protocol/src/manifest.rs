//! The manifest of a system: what the hypervisor is to build, parsed once at start-up.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::flags::MapFlags;
use crate::processor::{PortRange, ProcessorPolicy};
use crate::version::WireVersion;

/// A whole system, as `xtask` packs it and the hypervisor builds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the system.
    pub name: String,
    /// The VMs, in the order of the system file; [`crate::VmId`] is the index.
    pub vms: Vec<VmManifest>,
    /// The channels between them.
    pub channels: Vec<ChannelManifest>,
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmManifest {
    /// Unique name, shown in front of the VM's console lines.
    pub name: String,
    /// The version that the kernel's note states.
    pub abi: WireVersion,
    /// Where vCPU 0 starts.
    pub entry: u64,
    /// Guest frames.
    pub memory_frames: u64,
    /// Frames of the VM's pool beyond its memory: page tables come from it.
    pub pool_frames: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Share of CPU time against other VMs.
    pub weight: u32,
    /// Most CPU time in percent of one CPU; 0 for no cap.
    pub cap_percent: u32,
    /// What it learns of the processor and may use of it.
    pub processor: ProcessorPolicy,
    /// I/O ports that it may use.
    pub ports: Vec<PortRange>,
    /// What to do when the VM dies.
    pub on_crash: OnCrash,
    /// Text for the kernel.
    pub command_line: String,
    /// What is loaded, by ascending address, not overlapping.
    pub segments: Vec<Segment>,
    /// Files that the kernel finds through its start info.
    pub modules: Vec<Module>,
    /// Which ABI it speaks.
    pub personality: Personality,
}

/// The ABI that a VM's kernel speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Personality {
    /// The one of this crate.
    Native,
    /// Xen's for 64-bit paravirtual guests: [`crate::xen`].
    Xen(XenKernel),
}

/// What the notes of a Xen PV kernel ask for. Its segments' addresses are those of the first mapping, which
/// shows guest frame n at `virt_base` + n pages; its first module, if any, is the initial RAM disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct XenKernel {
    /// Where guest frame 0 appears, a multiple of 4 MiB.
    pub virt_base: u64,
    /// Where the list of machine frames is to be mapped, if not within the first mapping.
    pub p2m_address: Option<u64>,
    /// The page of call stubs that it wants filled.
    pub hypercall_page: Option<u64>,
    /// Whether the first module can be left unmapped and named by its frame number.
    pub module_by_frame: bool,
}

/// What happens to a system when one of its VMs dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnCrash {
    /// The VM stays dead.
    Stop,
    /// The VM is built again from the image, at most the given number of times.
    Restart(u32),
    /// All VMs are halted.
    HaltAll,
}

/// A piece of a kernel, page-aligned in memory and in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Guest virtual address, page-aligned, in the kernel half.
    pub address: u64,
    /// Where its bytes lie in the image, page-aligned.
    pub image_offset: u64,
    /// Bytes in the image.
    pub file_bytes: u64,
    /// Bytes in memory; what the image does not fill is zero.
    pub memory_bytes: u64,
    /// How its pages are mapped.
    pub flags: MapFlags,
}

/// A file given to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Name.
    pub name: String,
    /// Where its bytes lie in the image, page-aligned.
    pub image_offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A shared region and a port pair between two VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelManifest {
    /// Name, the same for both ends.
    pub name: String,
    /// Indices of the two VMs; side 0 and side 1.
    pub ends: [u32; 2],
    /// Frames of the region; 0 for a one-way channel, over which side 0 sends events and nothing else.
    pub frames: u64,
}
