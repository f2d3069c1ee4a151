//! The settings of a CPU, computed from scratch: what firmware left behind never survives.
//!
//! `Settings::planned` decides and is tested on the host; `apply` writes. The `x86` crate's own CR
//! and XCR0 accessors are not used: they drop bits that the crate does not know.
#![expect(unsafe_code, reason = "control registers have no safe form")]

use core::arch::asm;

use hv_core::abi::native::cpuid::Controls;
use hv_core::addr::convert::wide;
use x86::controlregs::Cr4;
use x86::msr::{
    IA32_CSTAR, IA32_DEBUGCTL, IA32_EFER, IA32_FMASK, IA32_LSTAR, IA32_PAT, IA32_STAR, IA32_SYSENTER_CS, IA32_TSC_AUX,
};

use super::features::Features;
use super::{read_msr, write_msr};

/// CR0: protected mode, FPU present and reporting its own errors, write protection in ring 0,
/// paging. Not AM: no guest is offered alignment checks. Not TS: FPU state is switched eagerly.
const CR0: u64 = (1 << 0) | (1 << 1) | (1 << 4) | (1 << 5) | (1 << 16) | (1 << 31);

/// Bits of CR4 that are always set: long mode, `fxsave` and SSE, whose errors raise their own
/// exception.
const CR4_ALWAYS: Cr4 = Cr4::CR4_ENABLE_PAE.union(Cr4::CR4_ENABLE_SSE).union(Cr4::CR4_UNMASKED_SSE);
/// Bits of CR4 that are set when the CPU has the feature.
const CR4_OPTIONAL: [(Features, Cr4); 6] = [
    (Features::PGE, Cr4::CR4_ENABLE_GLOBAL_PAGES),
    (Features::UMIP, Cr4::CR4_ENABLE_UMIP),
    (Features::FSGSBASE, Cr4::CR4_ENABLE_FSGSBASE),
    (Features::XSAVE, Cr4::CR4_ENABLE_OS_XSAVE),
    (Features::SMEP, Cr4::CR4_ENABLE_SMEP),
    (Features::SMAP, Cr4::CR4_ENABLE_SMAP),
];

/// EFER: `syscall`, long mode enabled and active, no-execute pages.
const EFER: u64 = (1 << 0) | (1 << 8) | (1 << 10) | (1 << 11);

/// Page attributes by index: write-back, write-through, uncached-minus, uncached, twice. It is the
/// reset value, so tables made before it is written mean the same.
const PAT: u64 = 0x0007_0406_0007_0406;

/// Flags that `syscall` clears: TF, IF, DF, IOPL, NT, RF, AC and the rest that ring 0 has no use for.
const FMASK: u64 = (1 << 8) | (1 << 9) | (1 << 10) | (0b11 << 12) | (1 << 14) | (1 << 16) | (1 << 18) | (1 << 21);

/// `syscall` loads CS 0x08 and SS 0x10; `sysret` loads SS 0x23 and CS 0x2b.
pub(super) const STAR: u64 = (0x1b << 48) | (0x08 << 32);

/// The model-specific registers whose values are the same on all CPUs, with what they are for.
pub(super) const REGISTERS: [(u32, u64, &str); 6] = [
    (IA32_EFER, EFER, "EFER is as planned: SYSCALL and no-execute on"),
    (IA32_PAT, PAT, "the page-attribute table is the fixed one"),
    (IA32_STAR, STAR, "SYSCALL and SYSRET load the flat selectors"),
    (IA32_FMASK, FMASK, "SYSCALL clears TF, IF, DF, IOPL, NT and AC"),
    (IA32_SYSENTER_CS, 0, "SYSENTER is disabled"),
    (IA32_DEBUGCTL, 0, "no debug facility is on (DEBUGCTL)"),
];

/// DR7 and CR8 aside, every register that says what a CPU may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) cr0: u64,
    pub(super) cr4: u64,
    /// Values of [`REGISTERS`].
    pub(super) registers: [u64; REGISTERS.len()],
}

impl Settings {
    /// The settings for a CPU with these features.
    pub(super) fn planned(features: Features) -> Settings {
        let present = CR4_OPTIONAL.into_iter().filter(|(feature, _)| features.contains(*feature));
        let cr4 = present.fold(CR4_ALWAYS, |bits, (_, bit)| bits | bit);
        Settings { cr0: CR0, cr4: wide(cr4.bits()), registers: REGISTERS.map(|(_, value, _)| value) }
    }

    /// This CPU's settings.
    pub(super) fn read() -> Settings {
        Settings {
            cr0: read_register!("cr0"),
            cr4: read_register!("cr4"),
            // SAFETY: all are architectural, and reading them has no effect.
            registers: REGISTERS.map(|(number, ..)| unsafe { read_msr(number) }),
        }
    }
}

/// XCR0, on a CPU that has it: x87 and SSE always, AVX where it is there.
fn xcr0(features: Features) -> Option<u64> {
    let value = if features.contains(Features::AVX) { 0b111 } else { 0b011 };
    features.contains(Features::XSAVE).then_some(value)
}

/// Sets this CPU up. It must run in ring 0 of long mode, with paging on.
///
/// # Safety
/// 1. `features` are those of this CPU, and `check_required` passed.
/// 2. `system_call` are the addresses of code that is right for the state after `syscall` (or no ring-3
///    code runs before that is so).
/// 3. The current stack, code and data lie in supervisor pages of the current page tables, writable
///    where the program writes.
pub(crate) unsafe fn apply(features: Features, system_call: [u64; 2]) {
    let Settings { cr0, cr4, .. } = Settings::planned(features);
    // SAFETY: long mode needs PE, PG, PAE and all stay set; the bits of CR4 exist by (1); WP, SMEP
    // and SMAP concern user pages and read-only pages, which ring 0 does not use now by (3).
    unsafe {
        asm!("mov cr0, {}", "mov cr4, {}", in(reg) cr0, in(reg) cr4, options(nostack, preserves_flags));
    }
    if let Some(xcr0) = xcr0(features) {
        // SAFETY: CR4.OSXSAVE was set just now; x87 is in the value, and AVX only together with SSE.
        // Ring 0 keeps nothing in the registers concerned (soft-float).
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("rax") xcr0, in("rdx") 0, options(nomem, nostack, preserves_flags));
        }
    }
    let [from_64, from_32] = system_call;
    let entries = [(IA32_LSTAR, from_64, ""), (IA32_CSTAR, from_32, "")];
    for (number, value, _) in REGISTERS.into_iter().chain(entries) {
        // SAFETY: all are architectural on CPUs with the required features; EFER keeps LME and LMA;
        // PAT keeps the meaning of all entries in use; LSTAR and CSTAR are right by (2).
        unsafe { write_msr(number, value) };
    }
    if features.intersects(Features::RDTSCP | Features::RDPID) {
        // Ring 3 reads it by RDTSCP and RDPID: it must not tell which CPU this is.
        // SAFETY: the register exists when RDTSCP or RDPID does; the hypervisor does not read it.
        unsafe { write_msr(IA32_TSC_AUX, 0) };
    }
}

/// CR4 with what one VM has of it.
fn cr4_for(cr4: u64, controls: Controls) -> u64 {
    let bits = [(Cr4::CR4_TIME_STAMP_DISABLE, Controls::NO_TSC), (Cr4::CR4_ENABLE_FSGSBASE, Controls::FSGSBASE)];
    bits.into_iter().fold(cr4, |cr4, (bit, control)| {
        if controls.contains(control) { cr4 | wide(bit.bits()) } else { cr4 & !wide(bit.bits()) }
    })
}

/// Sets what RDTSCP and RDPID tell the guest. The register must exist ([`Controls::TSC_AUX`]).
#[inline]
pub fn set_tsc_aux(vcpu: u32) {
    // SAFETY: it exists by the caller's word; the hypervisor does not read it.
    unsafe { write_msr(IA32_TSC_AUX, u64::from(vcpu)) };
}

/// Switches on what the VM has whose vCPU is loaded next.
///
/// What was saved under other controls must have been: XCR0 says what XSAVE saves and XRSTOR loads. AVX
/// registers stay as they are under an XCR0 without AVX, where nothing can read them.
pub fn load_controls(controls: Controls) {
    let old = read_register!("cr4");
    let new = cr4_for(old, controls);
    if new != old {
        // SAFETY: TSD and FSGSBASE concern ring 3 only, and ring 0 has no use for FSGSBASE's
        // instructions; the bit is asked for only where the CPU has it (`Processor::new`).
        unsafe { asm!("mov cr4, {}", in(reg) new, options(nomem, nostack, preserves_flags)) };
    }
    if old & wide(Cr4::CR4_ENABLE_OS_XSAVE.bits()) != 0 {
        let xcr0: u64 = if controls.contains(Controls::AVX) { 0b111 } else { 0b011 };
        // SAFETY: CR4.OSXSAVE is set; AVX is asked for only where the CPU has it (`Processor::new`).
        // Ring 0 keeps nothing in the registers concerned (soft-float).
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("rax") xcr0, in("rdx") 0, options(nomem, nostack, preserves_flags));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CR4_ALWAYS, CR4_OPTIONAL, Controls, FMASK, Features, STAR, Settings, cr4_for, wide, xcr0};

    #[test]
    fn a_bit_of_cr4_is_set_exactly_when_its_feature_is_there() {
        let all = Settings::planned(Features::all()).cr4;
        for (feature, bit) in CR4_OPTIONAL {
            assert_eq!(Settings::planned(Features::all().difference(feature)).cr4, all & !wide(bit.bits()));
        }
        assert_eq!(Settings::planned(Features::empty()).cr4, wide(CR4_ALWAYS.bits()));
        assert_eq!(wide(CR4_ALWAYS.bits()), (1 << 5) | (1 << 9) | (1 << 10));
    }

    #[test]
    fn a_vm_changes_two_bits_of_cr4_only() {
        for cr4 in [0, u64::MAX, Settings::planned(Features::all()).cr4] {
            for bits in 0..16 {
                let controls = Controls::from_bits_truncate(bits);
                let new = cr4_for(cr4, controls);
                assert_eq!((new ^ cr4) & !(1 << 2 | 1 << 16), 0);
                assert_eq!(new & 1 << 2 != 0, controls.contains(Controls::NO_TSC));
                assert_eq!(new & 1 << 16 != 0, controls.contains(Controls::FSGSBASE));
            }
        }
    }

    #[test]
    fn extended_state_follows_the_features() {
        assert_eq!(xcr0(Features::empty()), None);
        assert_eq!(xcr0(Features::XSAVE), Some(3));
        assert_eq!(xcr0(Features::XSAVE | Features::AVX), Some(7));
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
