//! Registers and ports that a VM of Xen's ABI believes to be the machine's.
//!
//! What can be answered from a vCPU's own state is answered here. What needs the machine is named: the
//! caller does it. `None` stands for a general protection fault, which the guest gets.

use protocol::VcpuId;
use protocol::xen::Errno;

use super::cpuid::{Vendor, XenProcessor};
use crate::abi::native::cpuid::Controls;
use crate::abi::native::debug::{DR6_ALLOWED, DR6_FIXED, DR7_ALLOWED, DebugRegisters};
use crate::abi::native::entry::{BASE_FLAGS, Mode};

/// Flags by their bit.
mod flag {
    pub(super) const TRAP: u64 = 1 << 8;
    pub(super) const INTERRUPT: u64 = 1 << 9;
    pub(super) const DIRECTION: u64 = 1 << 10;
    pub(super) const IOPL: u64 = 3 << 12;
    pub(super) const IOPL_SHIFT: u32 = 12;
    pub(super) const NESTED: u64 = 1 << 14;
    pub(super) const RESUME: u64 = 1 << 16;
    pub(super) const VIRTUAL_8086: u64 = 1 << 17;
    pub(super) const ALIGNMENT: u64 = 1 << 18;
    /// What an `iret` sets: CF PF AF ZF SF TF DF OF NT RF AC ID.
    pub(super) const RETURNED: u64 = 0x25_4dd5;
}

/// Model-specific registers by their number.
mod msr {
    pub(super) const APIC_BASE: u32 = 0x1b;
    pub(super) const FEATURE_CONTROL: u32 = 0x3a;
    pub(super) const MICROCODE: u32 = 0x8b;
    pub(super) const PLATFORM_INFO: u32 = 0xce;
    pub(super) const MISC_FEATURES: u32 = 0x140;
    pub(super) const MISC_ENABLE: u32 = 0x1a0;
    pub(super) const PAT: u32 = 0x277;
    pub(super) const EFER: u32 = 0xc000_0080;
    pub(super) const FS_BASE: u32 = 0xc000_0100;
    pub(super) const GS_BASE: u32 = 0xc000_0101;
    pub(super) const USER_GS_BASE: u32 = 0xc000_0102;
    pub(super) const TSC_AUX: u32 = 0xc000_0103;
    pub(super) const HWCR: u32 = 0xc001_0015;
    pub(super) const DE_CFG: u32 = 0xc001_1029;
}

/// A model-specific register that a vCPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// The base of FS.
    FsBase,
    /// The base of GS, as it is now: the kernel's.
    GsBase,
    /// The base of GS that user mode will have.
    UserGsBase,
    /// The number that `rdtscp` and `rdpid` read.
    TscAux,
}

/// What is read from a model-specific register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrValue {
    /// This.
    Constant(u64),
    /// What the vCPU has there.
    Kept(Kept),
}

/// What a write to a model-specific register does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrWrite {
    /// Nothing.
    Ignored,
    /// The register gets the value.
    Keep(Kept, u64),
}

/// The registers that each read finds the same in.
fn constant(processor: &XenProcessor, vcpu: VcpuId, number: u32) -> Option<u64> {
    Some(match (number, processor.vendor()) {
        // Where it is in the machine, switched on; and which vCPU starts.
        (msr::APIC_BASE, _) => 0xfee0_0000 | 1 << 11 | if vcpu == VcpuId(0) { 1 << 8 } else { 0 },
        (msr::MICROCODE, _) => 0,
        // WB WT UC- UC WC WP UC UC: the layout that tables may use.
        (msr::PAT, _) => 0x0000_0501_0007_0406,
        // SCE LME LMA NX.
        (msr::EFER, _) => 0xd01,
        // Locked, without VMX.
        (msr::FEATURE_CONTROL, Vendor::Intel) => 1,
        (msr::PLATFORM_INFO | msr::MISC_FEATURES, Vendor::Intel) => 0,
        // Fast strings; neither branch records nor sampling.
        (msr::MISC_ENABLE, Vendor::Intel) => 1 | 1 << 11 | 1 << 12,
        (msr::HWCR, Vendor::Amd) => 0,
        // `lfence` serialises.
        (msr::DE_CFG, Vendor::Amd) => 1 << 1,
        _ => return None,
    })
}

/// The registers that a vCPU has.
fn kept(processor: &XenProcessor, number: u32) -> Option<Kept> {
    Some(match number {
        msr::FS_BASE => Kept::FsBase,
        msr::GS_BASE => Kept::GsBase,
        msr::USER_GS_BASE => Kept::UserGsBase,
        msr::TSC_AUX if processor.has_tsc_aux() => Kept::TscAux,
        _ => return None,
    })
}

/// What `rdmsr` in kernel mode gives. `handler` is where the guest takes general protection faults: before
/// it has such a handler, it reads without care, and finds 0.
#[must_use]
pub fn read_msr(processor: &XenProcessor, vcpu: VcpuId, number: u32, handler: u64) -> Option<MsrValue> {
    let constant = || constant(processor, vcpu, number).map(MsrValue::Constant);
    let early = || (handler == 0).then_some(MsrValue::Constant(0));
    kept(processor, number).map(MsrValue::Kept).or_else(constant).or_else(early)
}

/// What `wrmsr` in kernel mode does.
#[must_use]
pub fn write_msr(processor: &XenProcessor, vcpu: VcpuId, number: u32, value: u64) -> Option<MsrWrite> {
    if let Some(register) = kept(processor, number) {
        let is_good = match register {
            Kept::FsBase | Kept::GsBase | Kept::UserGsBase => is_canonical(value),
            Kept::TscAux => value >> 32 == 0,
        };
        return is_good.then_some(MsrWrite::Keep(register, value));
    }
    let is_ignored = match number {
        msr::MICROCODE => true,
        msr::HWCR => processor.vendor() == Vendor::Amd,
        // What it has already.
        msr::EFER | msr::MISC_ENABLE | msr::MISC_FEATURES => constant(processor, vcpu, number) == Some(value),
        _ => false,
    };
    is_ignored.then_some(MsrWrite::Ignored)
}

/// Whether an address is one of 48 bits, extended.
const fn is_canonical(address: u64) -> bool {
    matches!(address >> 47, 0 | 0x1_ffff)
}

/// CR0 but for TS: PE MP ET NE WP PG.
const CR0: u64 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
const TASK_SWITCHED: u64 = 1 << 3;
/// Bits of CR4 that a guest chooses.
const TSD: u64 = 1 << 2;
const DE: u64 = 1 << 3;
const FSGSBASE: u64 = 1 << 16;
const OSXSAVE: u64 = 1 << 18;
/// Bits of CR4 that are always set and seen: PAE OSFXSR OSXMMEXCPT.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// The frame number in CR3, and what must be clear.
const ROOT: u64 = 0x000f_ffff_ffff_f000;
const ROOT_RESERVED: u64 = 0xfff0_0000_0000_0000;

/// Access to the debug registers themselves raises an exception, in DR7.
const DR7_GENERAL_DETECT: u64 = 1 << 13;

/// What is read from a control register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlValue {
    /// This.
    Known(u64),
    /// CR2: the address that the vCPU's page has.
    FaultAddress,
    /// CR3: the address of the kernel's root.
    Root,
}

/// What a write to a control register asks for, beyond what [`Controlled`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlWrite {
    /// Nothing.
    Done,
    /// CR0: the machine's TS becomes the vCPU's.
    TaskSwitched,
    /// CR2: the address in the vCPU's page.
    FaultAddress(u64),
    /// CR3: the frame of a new kernel root.
    Root(u64),
    /// CR4: what is switched on becomes the vCPU's [`Controlled::controls`].
    Controls,
}

/// Control registers of one vCPU, as far as it chooses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Controlled {
    /// CR0.TS: the next use of the FPU raises an exception.
    pub task_switched: bool,
    cr4: u64,
    xcr0: u64,
}

impl Controlled {
    /// What a vCPU starts with.
    pub const INITIAL: Controlled = Controlled { task_switched: false, cr4: 0, xcr0: 1 };

    /// XCR0.
    #[must_use]
    pub const fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Whether only kernel mode reads the time-stamp counter.
    #[must_use]
    pub const fn hides_time(&self) -> bool {
        self.cr4 & TSD != 0
    }

    /// What is switched on while the vCPU runs.
    #[must_use]
    pub fn controls(&self, processor: &XenProcessor) -> Controls {
        let always = processor.controls();
        let chosen = if self.cr4 & FSGSBASE == 0 { always.difference(Controls::FSGSBASE) } else { always };
        if self.hides_time() { chosen | Controls::NO_TSC } else { chosen }
    }

    /// Reads one.
    #[must_use]
    pub const fn read(&self, number: u8) -> Option<ControlValue> {
        Some(match number {
            0 => ControlValue::Known(CR0 | if self.task_switched { TASK_SWITCHED } else { 0 }),
            2 => ControlValue::FaultAddress,
            3 => ControlValue::Root,
            4 => ControlValue::Known(CR4 | self.cr4),
            _ => return None,
        })
    }

    /// Writes one.
    pub fn write(&mut self, processor: &XenProcessor, number: u8, value: u64) -> Option<ControlWrite> {
        Some(match number {
            0 if value & !TASK_SWITCHED == CR0 => {
                self.task_switched = value & TASK_SWITCHED != 0;
                ControlWrite::TaskSwitched
            }
            2 => ControlWrite::FaultAddress(value),
            3 if value & ROOT_RESERVED == 0 => ControlWrite::Root((value & ROOT) >> 12),
            4 => self.choose(processor, value),
            _ => return None,
        })
    }

    /// Keeps of a value for CR4 what there is to choose. The rest is dropped without a word: kernels set
    /// what they think that they need, and never read it again.
    fn choose(&mut self, processor: &XenProcessor, value: u64) -> ControlWrite {
        let before = self.controls(processor);
        let fsgsbase = if processor.controls().contains(Controls::FSGSBASE) { FSGSBASE } else { 0 };
        let osxsave = if processor.xcr0() == 0 { 0 } else { OSXSAVE };
        self.cr4 = value & (TSD | DE | fsgsbase | osxsave);
        if self.controls(processor) == before { ControlWrite::Done } else { ControlWrite::Controls }
    }

    /// `xsetbv`: sets the extended control register with a number, of which there is one. The machine's keeps
    /// all that the VM has: what it left out would be neither saved nor loaded with the vCPU, and the guest
    /// could switch it on again to read another VM's registers.
    pub fn set_extended(&mut self, processor: &XenProcessor, number: u32, value: u64) -> Option<()> {
        let is_good = number == 0 && processor.allows_xcr0(value);
        is_good.then(|| self.xcr0 = value)
    }

    /// Which debug register a number names: 4 and 5 are 6 and 7, unless debugging extensions are on.
    fn debug(&self, number: u64) -> Option<u64> {
        match number {
            4 | 5 if self.cr4 & DE == 0 => Some(number.wrapping_add(2)),
            0..=3 | 6 | 7 => Some(number),
            _ => None,
        }
    }

    /// Sets a debug register. Breakpoints on ports are not offered.
    ///
    /// # Errors
    /// `NoDevice` for a register that does not exist, `NotPermitted` for an address that is not the
    /// guest's, general detection and breakpoints on ports, `Invalid` for bits above the lowest 32.
    pub fn set_debug(&self, registers: &mut DebugRegisters, number: u64, value: u64) -> Result<(), Errno> {
        let number = self.debug(number).ok_or(Errno::NoDevice)?;
        let value = match number {
            6 | 7 if value >> 32 != 0 => return Err(Errno::Invalid),
            7 if value & DR7_GENERAL_DETECT != 0 => return Err(Errno::NotPermitted),
            6 => value & (DR6_ALLOWED | DR6_FIXED),
            7 => value & DR7_ALLOWED,
            _ => value,
        };
        registers.set(number, value).map_err(|_| Errno::NotPermitted)
    }

    /// Reads a debug register.
    ///
    /// # Errors
    /// `NoDevice` for one that does not exist.
    pub fn get_debug(&self, registers: &DebugRegisters, number: u64) -> Result<u64, Errno> {
        self.debug(number).and_then(|number| registers.get(number).ok()).ok_or(Errno::NoDevice)
    }
}

/// Which instructions for interrupts and ports a vCPU may execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoPrivilege {
    /// The level that the guest set: 0 to 3.
    pub level: u8,
    /// Whether the level also stands in flags, as the architecture has it (`vm_assist`).
    pub is_architectural: bool,
}

impl IoPrivilege {
    /// Whether `cli` and `sti` do nothing, rather than raise an exception.
    #[must_use]
    pub const fn allows(&self, mode: Mode) -> bool {
        let needed = match (mode, self.is_architectural) {
            (Mode::Kernel, true) => 0,
            (Mode::Kernel, false) => 1,
            (Mode::User, _) => 3,
        };
        self.level >= needed
    }

    /// Whether ports can be used, of which `is_open` says which ones the guest's map opens.
    pub fn allows_ports(&self, mode: Mode, port: u16, bytes: u8, mut is_open: impl FnMut(u16) -> bool) -> bool {
        let ports = || (0..u16::from(bytes)).map(|at| port.checked_add(at));
        self.allows(mode) || ports().all(|port| port.is_some_and(&mut is_open))
    }

    /// The flags that a frame shows for code that was interrupted: the guest's own notion of whether it
    /// takes interrupts, where `mask` was its mask of upcalls.
    #[must_use]
    #[inline]
    pub fn bounce_flags(&self, rflags: u64, mask: u8) -> u64 {
        let level = if self.is_architectural { u64::from(self.level) << flag::IOPL_SHIFT } else { 0 };
        let interrupts = if mask == 0 { flag::INTERRUPT } else { 0 };
        (rflags & !(flag::INTERRUPT | flag::IOPL)) | interrupts | level
    }

    /// What `iret` makes of the flags that a guest gives it.
    #[inline]
    pub fn iret_flags(&mut self, rflags: u64) -> Returned {
        if self.is_architectural {
            self.level = u8::try_from((rflags & flag::IOPL) >> flag::IOPL_SHIFT).unwrap_or(0);
        }
        let mask = u8::from(rflags & flag::INTERRUPT == 0);
        Returned { rflags: (rflags & flag::RETURNED) | BASE_FLAGS, mask }
    }
}

/// Flags behind an `iret`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returned {
    /// The machine's.
    pub rflags: u64,
    /// The vCPU's mask of upcalls.
    pub mask: u8,
}

/// The flags that a handler starts with, where code with `rflags` was interrupted.
#[must_use]
#[inline]
pub const fn handler_flags(rflags: u64, entry: Entry) -> u64 {
    let cleared = flag::ALIGNMENT | flag::VIRTUAL_8086 | flag::RESUME | flag::NESTED | flag::TRAP | flag::IOPL;
    let cleared = match entry {
        Entry::SystemCall => cleared | flag::DIRECTION,
        Entry::Other => cleared,
    };
    (rflags & !cleared) | BASE_FLAGS
}

/// Why a handler starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A system call.
    SystemCall,
    /// An exception, an interrupt by software, or an event.
    Other,
}

/// The ports of a machine without devices. Reads give ones, but for two: the address register of PCI,
/// which tells that there is such a bus, and the timer, whose counter must not seem to be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ports {
    address: u32,
}

/// The address register of PCI.
const PCI_ADDRESS: (u16, u8) = (0xcf8, 4);
/// The counter of channel 2 of the interval timer.
const TIMER: u16 = 0x42;

impl Ports {
    /// As they are before the guest wrote any.
    pub const NEW: Ports = Ports { address: 0 };

    /// Reads 1, 2 or 4 bytes.
    #[must_use]
    pub fn read(&self, port: u16, bytes: u8) -> u32 {
        match (port, bytes) {
            PCI_ADDRESS => self.address,
            (TIMER, 1) => 0,
            (_, 1) => 0xff,
            (_, 2) => 0xffff,
            _ => u32::MAX,
        }
    }

    /// Writes 1, 2 or 4 bytes.
    pub fn write(&mut self, port: u16, bytes: u8, value: u32) {
        if (port, bytes) == PCI_ADDRESS {
            self.address = value;
        }
    }
}

#[cfg(test)]
mod tests;
