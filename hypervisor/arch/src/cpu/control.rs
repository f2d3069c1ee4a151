//! The settings of a CPU, computed from scratch: what firmware left behind never survives.
//!
//! `plan` decides and is tested on the host; `apply` writes. The `x86` crate's own CR and XCR0
//! accessors are not used: they drop bits that the crate does not know.
#![expect(unsafe_code, reason = "control registers have no safe form")]

use core::arch::asm;

use x86::msr;

use super::features::Features;
use super::{read_msr, write_msr};

/// CR0: protected mode, FPU present and reporting its own errors, write protection in ring 0,
/// paging. Not AM: no guest is offered alignment checks. Not TS: FPU state is switched eagerly.
const CR0: u64 = (1 << 0) | (1 << 1) | (1 << 4) | (1 << 5) | (1 << 16) | (1 << 31);

/// Bits of CR4 that the hypervisor may set.
pub mod cr4 {
    /// Physical addresses of more than 32 bits; part of long mode.
    pub const PAE: u64 = 1 << 5;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// `fxsave` and SSE.
    pub const OSFXSR: u64 = 1 << 9;
    /// SSE errors raise their own exception.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// Ring 3 cannot read descriptor-table registers.
    pub const UMIP: u64 = 1 << 11;
    /// Ring 3 can set the FS and GS bases.
    pub const FSGSBASE: u64 = 1 << 16;
    /// `xsave`.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Ring 0 cannot execute user pages.
    pub const SMEP: u64 = 1 << 20;
    /// Ring 0 cannot touch user pages unless EFLAGS.AC is set.
    pub const SMAP: u64 = 1 << 21;
}

/// EFER: `syscall`, long mode enabled and active, no-execute pages.
pub const EFER: u64 = (1 << 0) | (1 << 8) | (1 << 10) | (1 << 11);

/// Page attributes by index: write-back, write-through, uncached-minus, uncached, twice. It is the
/// reset value, so tables made before it is written mean the same.
pub const PAT: u64 = 0x0007_0406_0007_0406;

/// Flags that `syscall` clears: TF, IF, DF, IOPL, NT, RF, AC and the rest that ring 0 has no use for.
pub const FMASK: u64 = (1 << 8) | (1 << 9) | (1 << 10) | (0b11 << 12) | (1 << 14) | (1 << 16) | (1 << 18) | (1 << 21);

/// `syscall` loads CS 0x08 and SS 0x10; `sysret` loads SS 0x23 and CS 0x2b.
pub const STAR: u64 = (0x1b << 48) | (0x08 << 32);

/// XCR0 of a CPU with AVX, and of one without: x87 and SSE always.
const XCR0_BASE: u64 = 0b011;
const XCR0_AVX: u64 = 0b111;

/// DR7 and CR8 aside, every register that says what a CPU may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub(super) cr0: u64,
    pub(super) cr4: u64,
    pub(super) efer: u64,
    xcr0: Option<u64>,
    has_cpu_number: bool,
}

impl Plan {
    /// The settings for a CPU with these features.
    #[must_use]
    pub fn for_features(features: Features) -> Plan {
        let optional = [
            (Features::UMIP, cr4::UMIP),
            (Features::FSGSBASE, cr4::FSGSBASE),
            (Features::XSAVE, cr4::OSXSAVE),
            (Features::SMEP, cr4::SMEP),
            (Features::SMAP, cr4::SMAP),
            (Features::PGE, cr4::PGE),
        ];
        let always = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
        let present = optional.into_iter().filter(|(feature, _)| features.contains(*feature));
        let xcr0 = if features.contains(Features::AVX) { XCR0_AVX } else { XCR0_BASE };
        Plan {
            cr0: CR0,
            cr4: present.fold(always, |bits, (_, bit)| bits | bit),
            efer: EFER,
            xcr0: features.contains(Features::XSAVE).then_some(xcr0),
            has_cpu_number: features.intersects(Features::RDTSCP | Features::RDPID),
        }
    }
}

/// Sets this CPU up. It must run in ring 0 of long mode, with paging on.
///
/// # Safety
/// 1. `plan` was made for the features of this CPU, and `check_required` passed.
/// 2. `system_call` is the address of code that is right for the state after `syscall` (or no ring-3
///    code runs before that is so).
/// 3. The current stack, code and data lie in supervisor pages of the current page tables, writable
///    where the program writes.
pub unsafe fn apply(plan: &Plan, system_call: u64, cpu_number: u64) {
    // SAFETY: long mode needs PE, PG, PAE and all stay set; the bits of CR4 exist by (1); WP, SMEP
    // and SMAP concern user pages and read-only pages, which ring 0 does not use now by (3).
    unsafe {
        asm!("mov cr0, {}", "mov cr4, {}", in(reg) plan.cr0, in(reg) plan.cr4, options(nostack, preserves_flags));
    }
    if let Some(xcr0) = plan.xcr0 {
        // SAFETY: CR4.OSXSAVE was set just now; x87 is in the value, and AVX only together with SSE.
        unsafe { write_xcr0(xcr0) };
    }
    let registers = [
        (msr::IA32_EFER, plan.efer),
        (msr::IA32_PAT, PAT),
        (msr::IA32_STAR, STAR),
        (msr::IA32_LSTAR, system_call),
        (msr::IA32_FMASK, FMASK),
        (msr::IA32_SYSENTER_CS, 0),
        (msr::IA32_DEBUGCTL, 0),
    ];
    for (number, value) in registers {
        // SAFETY: all are architectural on CPUs with the required features; EFER keeps LME and LMA;
        // PAT keeps the meaning of all entries in use; LSTAR is right by (2).
        unsafe { write_msr(number, value) };
    }
    if plan.has_cpu_number {
        // SAFETY: the register exists when RDTSCP or RDPID does; the hypervisor does not read it.
        unsafe { write_msr(msr::IA32_TSC_AUX, cpu_number) };
    }
}

/// # Safety
/// CR4.OSXSAVE is set, and the value is one that XCR0 takes on this CPU.
unsafe fn write_xcr0(value: u64) {
    let low = value & 0xffff_ffff;
    let high = value >> 32;
    // SAFETY: the caller's promise. Ring 0 keeps nothing in the registers concerned (soft-float).
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("rax") low, in("rdx") high, options(nomem, nostack, preserves_flags));
    }
}

/// The control registers as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// CR0.
    pub cr0: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// FMASK.
    pub fmask: u64,
    /// STAR.
    pub star: u64,
    /// PAT.
    pub pat: u64,
    /// `SYSENTER_CS`.
    pub sysenter_cs: u64,
    /// DEBUGCTL.
    pub debugctl: u64,
    /// The flags register.
    pub flags: u64,
}

impl Current {
    /// Reads this CPU's registers.
    #[must_use]
    pub fn read() -> Current {
        let (cr0, cr4, flags): (u64, u64, u64);
        // SAFETY: reading has no effect; the flags go over the stack below its pointer.
        unsafe {
            asm!("mov {}, cr0", "mov {}, cr4", "pushfq", "pop {}", out(reg) cr0, out(reg) cr4, out(reg) flags, options(preserves_flags));
        }
        // SAFETY: the callers below name only architectural registers without read effects.
        let register = |number| unsafe { read_msr(number) };
        Current {
            cr0,
            cr4,
            efer: register(msr::IA32_EFER),
            fmask: register(msr::IA32_FMASK),
            star: register(msr::IA32_STAR),
            pat: register(msr::IA32_PAT),
            sysenter_cs: register(msr::IA32_SYSENTER_CS),
            debugctl: register(msr::IA32_DEBUGCTL),
            flags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FMASK, Features, Plan, STAR, cr4};

    #[test]
    fn a_bit_of_cr4_is_set_exactly_when_its_feature_is_there() {
        let pairs = [
            (Features::UMIP, cr4::UMIP),
            (Features::FSGSBASE, cr4::FSGSBASE),
            (Features::XSAVE, cr4::OSXSAVE),
            (Features::SMEP, cr4::SMEP),
            (Features::SMAP, cr4::SMAP),
            (Features::PGE, cr4::PGE),
        ];
        let all = Plan::for_features(Features::all()).cr4;
        for (feature, bit) in pairs {
            assert_eq!(Plan::for_features(Features::all().difference(feature)).cr4, all & !bit);
        }
        let none = Plan::for_features(Features::empty()).cr4;
        assert_eq!(none, cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT);
    }

    #[test]
    fn extended_state_follows_the_features() {
        assert_eq!(Plan::for_features(Features::empty()).xcr0, None);
        assert_eq!(Plan::for_features(Features::XSAVE).xcr0, Some(3));
        assert_eq!(Plan::for_features(Features::XSAVE | Features::AVX).xcr0, Some(7));
    }

    #[test]
    fn the_selectors_of_sysret_are_those_of_the_abi() {
        assert_eq!((STAR >> 48) + 8, u64::from(protocol::layout::STACK_SELECTOR));
        assert_eq!((STAR >> 48) + 16, u64::from(protocol::layout::CODE_SELECTOR));
    }

    #[test]
    fn syscall_clears_what_a_guest_could_use_against_ring_0() {
        for bit in [8, 9, 10, 12, 13, 14, 18] {
            assert_ne!(FMASK & (1 << bit), 0, "flag bit {bit}");
        }
    }
}
