//! Makes a manifest and payloads of a system: kernels and modules are built and read, their
//! segments checked, memory counted.

use std::path::{Path, PathBuf};

use protocol::layout::{FIRST_STACK_PAGES, PAGE_SIZE};
use protocol::manifest::{ChannelManifest, Manifest, Module, Personality, Segment, VmManifest};
use protocol::policy::Policy;
use protocol::version::WireVersion;

use super::document::{ConfigError, Place};
use super::xen::{Initrd, XenSpec};
use super::{Artifact, DEFAULT_MEMORY_MIB, ModuleSpec, System, VmSpec};
use crate::error::codes::{self, Code};
use crate::{elf, initramfs, kernel};

/// Where built programs come from.
pub trait Artifacts {
    /// The file of an artifact, built first where it has to be.
    fn obtain(&mut self, artifact: &Artifact) -> Result<PathBuf, Missing>;
}

/// Why an artifact cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// There is no such package or file.
    Absent(String),
    /// The compiler refused it.
    Broken(String),
    /// Its package cannot be had.
    Package(String),
}

/// A system ready to be packed.
#[derive(Debug, PartialEq, Eq)]
pub struct Assembly {
    /// What its VMs may do.
    pub policy: Policy,
    /// The manifest; its image offsets are indices of `payloads` until it is packed.
    pub manifest: Manifest,
    /// What the image holds.
    pub payloads: Vec<Vec<u8>>,
    /// The ELF files of each VM: the kernel first, then modules that are ELF files.
    pub programs: Vec<Vec<PathBuf>>,
    /// MiB of the machine.
    pub memory_mib: u64,
}

/// Frames that the machine keeps for firmware and hypervisor, whatever its size.
const HYPERVISOR_FRAMES: u64 = (24 << 20) / PAGE_SIZE;

/// What machines have a multiple of, in MiB, when their memory follows from the system.
const STEP_MIB: u64 = 64;

/// Makes an assembly for a machine of `memory_mib`, or for one with as much memory as it takes.
pub fn assemble(
    system: &System,
    artifacts: &mut dyn Artifacts,
    memory_mib: Option<u64>,
) -> Result<Assembly, Vec<ConfigError>> {
    let mut work = Work { system, artifacts, payloads: Vec::new(), programs: Vec::new(), errors: Vec::new() };
    let vms: Vec<VmManifest> = system.vms.iter().filter_map(|vm| work.vm(vm)).collect();
    let memory_mib = memory_mib.unwrap_or_else(|| work.sufficient(&vms));
    if work.errors.is_empty() {
        work.check_machine(&vms, memory_mib);
    }
    if !work.errors.is_empty() {
        return Err(work.errors);
    }
    Ok(Assembly {
        policy: system.policy.policy.clone(),
        manifest: Manifest { name: system.name.clone(), vms, channels: channels(system) },
        payloads: work.payloads,
        programs: work.programs,
        memory_mib,
    })
}

/// The channels with the numbers of their VMs. The ends were checked to exist.
fn channels(system: &System) -> Vec<ChannelManifest> {
    let index = |name: &str| {
        let position = system.vms.iter().position(|vm| vm.name == name);
        position.and_then(|i| u32::try_from(i).ok()).unwrap_or(u32::MAX)
    };
    system
        .channels
        .iter()
        .map(|channel| ChannelManifest {
            name: channel.name.value.clone(),
            ends: channel.between.each_ref().map(|end| index(&end.value)),
            frames: channel.frames,
        })
        .collect()
}

/// The assembly while it is made.
struct Work<'a> {
    system: &'a System,
    artifacts: &'a mut dyn Artifacts,
    payloads: Vec<Vec<u8>>,
    programs: Vec<Vec<PathBuf>>,
    errors: Vec<ConfigError>,
}

impl Work<'_> {
    /// Records an error.
    fn refuse(&mut self, code: &'static Code, place: &Place, what: String) {
        self.errors.push(ConfigError {
            code,
            what,
            file: self.system.file.clone(),
            line: place.line,
            key: place.key.clone(),
            remedy: None,
        });
    }

    /// The index of a payload; equal ones are stored once.
    fn payload(&mut self, bytes: Vec<u8>) -> u64 {
        let index = self.payloads.iter().position(|other| *other == bytes);
        let index = index.unwrap_or_else(|| {
            self.payloads.push(bytes);
            self.payloads.len() - 1
        });
        index as u64
    }

    /// Builds (where needed) and reads an artifact.
    fn fetch(&mut self, artifact: &Artifact, place: &Place, absent: &'static Code) -> Option<(PathBuf, Vec<u8>)> {
        let path = match self.artifacts.obtain(artifact) {
            Ok(path) => path,
            Err(Missing::Absent(what)) => {
                self.refuse(absent, place, what);
                return None;
            }
            Err(Missing::Broken(what)) => {
                self.refuse(codes::KERNEL_BUILD, place, what);
                return None;
            }
            Err(Missing::Package(what)) => {
                self.refuse(codes::PACKAGE, place, what);
                return None;
            }
        };
        match std::fs::read(&path) {
            Ok(bytes) => Some((path, bytes)),
            Err(error) => {
                self.refuse(absent, place, format!("`{}`: {error}", path.display()));
                None
            }
        }
    }

    /// One VM.
    fn vm(&mut self, vm: &VmSpec) -> Option<VmManifest> {
        let kernel = self.fetch(&vm.kernel.value, &vm.kernel.place, codes::KERNEL_MISSING);
        let modules = match &vm.xen {
            Some(xen) => self.initrd(xen).map(|module| module.into_iter().collect()),
            None => Some(vm.modules.iter().filter_map(|module| self.module(module)).collect()),
        };
        let (path, bytes) = kernel?;
        let modules: Vec<Module> = modules?;
        let loaded = match &vm.xen {
            Some(_) => xen_kernel(bytes, vm, &modules),
            None => native_kernel(&bytes, vm, &modules),
        };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(fault) => {
                let what = format!("`{}`: {}", file_name(&path), fault.what);
                self.refuse(fault.code, &vm.kernel.place, what);
                return None;
            }
        };
        self.programs.push(vec![path]);
        if loaded.needed > vm.memory.value {
            let what = format!(
                "`{}` needs {} for kernel, modules and stack, and has {}",
                vm.name,
                shown_frames(loaded.needed),
                shown_frames(vm.memory.value)
            );
            self.refuse(codes::VM_TOO_SMALL, &vm.memory.place, what);
        }
        Some(VmManifest {
            name: vm.name.clone(),
            abi: loaded.abi,
            entry: loaded.entry,
            memory_frames: vm.memory.value,
            pool_frames: vm.pool_frames.unwrap_or_else(|| default_pool(vm)),
            vcpus: vm.vcpus,
            weight: vm.weight,
            cap_percent: vm.cap_percent,
            processor: vm.processor,
            ports: vm.ports.iter().map(|range| range.value).collect(),
            on_crash: vm.on_crash,
            command_line: vm.command_line.clone(),
            segments: loaded.segments.into_iter().map(|segment| self.segment(segment)).collect(),
            modules,
            personality: loaded.personality,
        })
    }

    /// One segment of a kernel.
    fn segment(&mut self, segment: elf::Segment) -> Segment {
        Segment {
            address: segment.address,
            file_bytes: segment.bytes.len() as u64,
            memory_bytes: segment.memory_bytes,
            flags: segment.flags,
            image_offset: self.payload(segment.bytes),
        }
    }

    /// One module.
    fn module(&mut self, module: &ModuleSpec) -> Option<Module> {
        let (_, bytes) = self.fetch(&module.source.value, &module.source.place, codes::MODULE)?;
        Some(Module { name: module.name.clone(), bytes: bytes.len() as u64, image_offset: self.payload(bytes) })
    }

    /// The initial RAM disk of a Xen VM, if it has one. None if it cannot be had.
    fn initrd(&mut self, xen: &XenSpec) -> Option<Option<Module>> {
        let bytes = match &xen.initrd {
            None => return Some(None),
            Some(Initrd::File(file)) => self.fetch(&file.value, &file.place, codes::MODULE)?.1,
            Some(Initrd::Busybox(programs)) => {
                let busybox = self.fetch(&Artifact::Busybox, &programs.place, codes::MODULE)?.1;
                let files = programs.value.iter().map(|program| {
                    let (_, bytes) = self.fetch(&program.source.value, &program.source.place, codes::MODULE)?;
                    Some((program.name.clone(), bytes))
                });
                initramfs::build(&busybox, &files.collect::<Option<Vec<_>>>()?)
            }
        };
        Some(Some(Module { name: "initrd".into(), bytes: bytes.len() as u64, image_offset: self.payload(bytes) }))
    }

    /// Frames that a machine needs for the system, apart from what grows with the machine.
    fn needed(&self, vms: &[VmManifest]) -> [u64; 3] {
        let of_vms: u64 = vms.iter().map(|vm| vm.memory_frames + vm.pool_frames).sum();
        let of_channels: u64 = self.system.channels.iter().map(|channel| channel.frames).sum();
        let of_image: u64 = self.payloads.iter().map(|payload| (payload.len() as u64).div_ceil(PAGE_SIZE)).sum();
        [of_vms, of_channels, of_image]
    }

    /// MiB of a machine on which the system finds room; at least what machines usually have.
    fn sufficient(&self, vms: &[VmManifest]) -> u64 {
        let frames = self.needed(vms).into_iter().sum::<u64>() + HYPERVISOR_FRAMES;
        // What grows with the machine is a 256th of it.
        let bytes = (frames + frames / 255 + 1) * PAGE_SIZE;
        bytes.div_ceil(1 << 20).next_multiple_of(STEP_MIB).max(DEFAULT_MEMORY_MIB)
    }

    /// Compares what all VMs need with what the machine has.
    fn check_machine(&mut self, vms: &[VmManifest], memory_mib: u64) {
        let [of_vms, of_channels, of_image] = self.needed(vms);
        let machine = memory_mib.saturating_mul((1 << 20) / PAGE_SIZE);
        // The frame table and the direct map grow with the machine.
        let own = HYPERVISOR_FRAMES + machine / 256;
        let needed = of_vms + of_channels + of_image + own;
        if needed > machine {
            let mut what = format!("the system needs {} and the machine has {memory_mib} MiB:", shown_frames(needed));
            for vm in vms {
                what += &format!(" {} {},", vm.name, shown_frames(vm.memory_frames + vm.pool_frames));
            }
            what += &format!(
                " channels {}, image {}, hypervisor {}",
                shown_frames(of_channels),
                shown_frames(of_image),
                shown_frames(own)
            );
            self.refuse(codes::TOO_MUCH_MEMORY, &Place::default(), what);
        }
    }
}

/// What a VM starts with, as its kernel's file says.
struct Loaded {
    abi: WireVersion,
    entry: u64,
    segments: Vec<elf::Segment>,
    personality: Personality,
    /// Frames that the VM needs to start.
    needed: u64,
}

/// A kernel of the native ABI.
fn native_kernel(bytes: &[u8], vm: &VmSpec, modules: &[Module]) -> Result<Loaded, elf::Fault> {
    let kernel = elf::read(bytes)?;
    let pages: u64 = kernel.segments.iter().map(elf::Segment::pages).sum();
    // The start info page, a page per vCPU and the first stack.
    let needed = pages + module_pages(modules) + FIRST_STACK_PAGES + 1 + u64::from(vm.vcpus);
    Ok(Loaded {
        abi: kernel.abi,
        entry: kernel.entry,
        segments: kernel.segments,
        personality: Personality::Native,
        needed,
    })
}

/// A kernel of Xen's ABI.
fn xen_kernel(bytes: Vec<u8>, vm: &VmSpec, modules: &[Module]) -> Result<Loaded, elf::Fault> {
    let kernel = kernel::xen::read(bytes)?;
    // About what the hypervisor needs, which counts again. From the first mapping's begin: a hole, the kernel,
    // the disk, the list of frames with its tables, some single pages, a table for each 2 MiB, 512 KiB free.
    let end = (kernel.range().end - kernel.wishes.virt_base) / PAGE_SIZE;
    let mapped = end + module_pages(modules) + vm.memory.value / (PAGE_SIZE / 8) + 16;
    Ok(Loaded {
        abi: protocol::version::CURRENT,
        entry: kernel.entry,
        segments: kernel.segments,
        personality: Personality::Xen(kernel.wishes),
        needed: mapped + mapped / 512 + (512 << 10) / PAGE_SIZE,
    })
}

/// Pages of modules.
fn module_pages(modules: &[Module]) -> u64 {
    modules.iter().map(|module| module.bytes.div_ceil(PAGE_SIZE)).sum()
}

/// Pool of a VM that does not ask for one. Native: tables for its memory in two views, and room for
/// address spaces. Xen: lists of its frames in both directions and their tables; it has its own page tables.
fn default_pool(vm: &VmSpec) -> u64 {
    match vm.xen {
        Some(_) => 128 + vm.memory.value / 128,
        None => 256 + vm.memory.value / 128 + 16 * u64::from(vm.vcpus),
    }
}

/// Frames as KiB or MiB.
fn shown_frames(frames: u64) -> String {
    let kib = frames * PAGE_SIZE / 1024;
    if kib < 4096 { format!("{kib} KiB") } else { format!("{:.1} MiB", kib as f64 / 1024.0) }
}

/// The last part of a path.
fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
