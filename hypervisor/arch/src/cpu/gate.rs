//! Keeping the `cpuid` instruction from ring 3, where the CPU can.
#![expect(unsafe_code, reason = "model-specific registers have no safe form")]

use hv_core::abi::native::cpuid::Gate;
use hv_core::addr::convert::wide;

use super::{ask_cpuid, read_msr, write_msr};
use crate::guest::Registers;

/// `MSR_PLATFORM_INFO`: bit 31 tells of CPUID faulting (Intel SDM volume 4, table 2-2).
const PLATFORM_INFO: u32 = 0xce;
/// `MSR_MISC_FEATURES_ENABLES`: bit 0 turns it on.
const MISC_FEATURES_ENABLES: u32 = 0x140;
/// `HWCR`: bit 35 is `CpuidUserDis` (AMD manual volume 2, 3.2.10).
const HWCR: u32 = 0xc001_0015;
const CPUID_USER_DISABLE: u64 = 1 << 35;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    // Reads the register in edi; all ones when it does not exist: the fault at `probe_read` continues
    // at `probe_fault`.
    r#"
    .global probe_register
    probe_register:
        mov ecx, edi
    .global probe_read
    probe_read:
        rdmsr
        shl rdx, 32
        or rax, rdx
        ret
    .global probe_fault
    probe_fault:
        mov rax, -1
        ret
    "#
);

unsafe extern "C" {
    fn probe_register(number: u32) -> u64;
    static probe_read: u8;
    static probe_fault: u8;
}

/// Continues behind a probe that faulted, if that is what did.
pub(crate) fn recover(registers: &mut Registers) -> bool {
    let is_probe = registers.rip == wide((&raw const probe_read).addr());
    if is_probe {
        registers.rip = wide((&raw const probe_fault).addr());
    }
    is_probe
}

/// Makes `cpuid` fault in ring 3 on this CPU, where it can. Traps must be set up.
pub fn close() -> Gate {
    let platform = || {
        // SAFETY: reading the register has no effect; where it does not exist, the fault is recovered.
        let info = unsafe { probe_register(PLATFORM_INFO) };
        (info != u64::MAX).then_some(info)
    };
    let gate = Gate::find(ask_cpuid, platform);
    match gate {
        Gate::Open => {}
        // SAFETY: the register exists where the platform states the ability; ring 0's own use of the
        // instruction is not concerned. The other features in it are off.
        Gate::Intel => unsafe { write_msr(MISC_FEATURES_ENABLES, 1) },
        Gate::Amd => {
            // SAFETY: every AMD CPU in long mode has the register, and reading it has no effect.
            let firmware = unsafe { read_msr(HWCR) };
            // SAFETY: the bit exists where CPUID states it; the others stay as firmware chose them.
            unsafe { write_msr(HWCR, firmware | CPUID_USER_DISABLE) };
        }
    }
    gate
}
