//! Segment selectors and bases of the guest that is loaded. While ring 0 runs, the guest's GS base
//! waits in the `KERNEL_GS_BASE` register.
#![expect(unsafe_code, reason = "segment registers have no safe form")]

use core::arch::asm;

#[cfg(feature = "xen")]
use hv_core::addr::convert::wide;

#[cfg(feature = "xen")]
use super::Registers;
use crate::cpu::{read_msr, write_msr};

/// Data selectors of a guest, as they must be restored at a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Selectors {
    ds: u16,
    es: u16,
    fs: u16,
    gs: u16,
}

impl Selectors {
    /// All null, as a guest starts.
    pub const NULL: Selectors = Selectors { ds: 0, es: 0, fs: 0, gs: 0 };

    /// Reads the CPU's selectors.
    #[must_use]
    pub fn read() -> Selectors {
        let (ds, es, fs, gs): (u16, u16, u16, u16);
        // SAFETY: reading selectors changes nothing.
        unsafe {
            asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
                out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack, preserves_flags));
        }
        Selectors { ds, es, fs, gs }
    }

    /// The selectors `ds`, `es`, `fs` and `gs` of a vCPU that a guest describes.
    #[cfg(feature = "xen")]
    #[must_use]
    pub const fn of([ds, es, fs, gs]: [u16; 4]) -> Selectors {
        Selectors { ds, es, fs, gs }
    }

    /// The selectors, in the order `ds`, `es`, `fs`, `gs`.
    #[cfg(feature = "xen")]
    #[must_use]
    pub const fn all(self) -> [u16; 4] {
        [self.ds, self.es, self.fs, self.gs]
    }

    /// Loads selectors of a table that a guest writes; one that cannot be loaded becomes null. Whether all
    /// could. With them the bases of FS and GS are lost: set those afterwards.
    #[cfg(feature = "xen")]
    #[must_use]
    pub fn load_checked(self) -> bool {
        if self == Selectors::NULL && Selectors::read() == self {
            return true;
        }
        // SAFETY: S1 (a guest holds only selectors that ring 3 could load): what the table does not allow
        // faults, and the fault is recovered; GS of ring 0 is put back by the second swap.
        unsafe { load_selectors(self.ds, self.es, self.fs, self.gs) == 0 }
    }

    /// Loads the selectors, and with them loses the bases of FS and GS: set those afterwards. Does
    /// nothing when both these and the loaded ones are null, the case of every 64-bit guest.
    pub fn load(self) {
        if self == Selectors::NULL && Selectors::read() == self {
            return;
        }
        // SAFETY: S1 (a guest can hold only selectors that ring 3 could load): they are in the
        // descriptor table, the same on each CPU. GS of ring 0 is put back by its base below.
        unsafe {
            asm!("mov ds, {0:x}", "mov es, {1:x}", "mov fs, {2:x}",
                in(reg) self.ds, in(reg) self.es, in(reg) self.fs, options(nostack, preserves_flags));
        }
        // SAFETY: S1, and the swaps keep ring 0's base: the load hits the guest's half of the pair.
        unsafe {
            asm!("swapgs", "mov gs, {0:x}", "swapgs", in(reg) self.gs, options(nostack, preserves_flags));
        }
    }
}

#[cfg(all(feature = "xen", target_os = "none"))]
core::arch::global_asm!(
    // Loads di, si, dx, cx into ds, es, fs, gs (the guest's). A load that faults continues at `selector_fault`
    // of its own, which loads null instead; eax tells whether one did.
    r#"
    .global load_selectors
    load_selectors:
        xor eax, eax
    .global selector_ds
    selector_ds:
        mov ds, edi
    .global selector_es
    selector_es:
        mov es, esi
    .global selector_fs
    selector_fs:
        mov fs, edx
        swapgs
    .global selector_gs
    selector_gs:
        mov gs, ecx
        swapgs
        ret
    .global selector_faults
    selector_faults:
        mov eax, 1
        xor edi, edi
        jmp selector_ds
    .global selector_fault_es
    selector_fault_es:
        mov eax, 1
        xor esi, esi
        jmp selector_es
    .global selector_fault_fs
    selector_fault_fs:
        mov eax, 1
        xor edx, edx
        jmp selector_fs
    .global selector_fault_gs
    selector_fault_gs:
        mov eax, 1
        xor ecx, ecx
        jmp selector_gs
    "#
);

#[cfg(feature = "xen")]
unsafe extern "C" {
    fn load_selectors(ds: u16, es: u16, fs: u16, gs: u16) -> u32;
    static selector_ds: u8;
    static selector_es: u8;
    static selector_fs: u8;
    static selector_gs: u8;
    static selector_faults: u8;
    static selector_fault_es: u8;
    static selector_fault_fs: u8;
    static selector_fault_gs: u8;
}

/// Continues behind a load of a selector that faulted, if that is what did.
#[cfg(feature = "xen")]
pub(crate) fn recover(registers: &mut Registers) -> bool {
    let loads = [
        (&raw const selector_ds, &raw const selector_faults),
        (&raw const selector_es, &raw const selector_fault_es),
        (&raw const selector_fs, &raw const selector_fault_fs),
        (&raw const selector_gs, &raw const selector_fault_gs),
    ];
    let found = loads.iter().find(|(load, _)| registers.rip == wide(load.addr()));
    if let Some((_, behind)) = found {
        registers.rip = wide(behind.addr());
    }
    found.is_some()
}

/// Whether a selector names 64-bit code in the table that is in force. One of the local table, where looking
/// could fault, is taken for 32-bit code, for which guests have such tables.
#[cfg(feature = "xen")]
#[must_use]
pub fn is_long(selector: u16) -> bool {
    if selector & 4 != 0 {
        return false;
    }
    let rights: u32;
    // SAFETY: reads a descriptor and changes flags only; for a selector without one the register keeps 0.
    unsafe {
        asm!("lar {rights:e}, {selector:e}", rights = inout(reg) 0_u32 => rights, selector = in(reg) u32::from(selector), options(nostack, readonly));
    }
    rights & 1 << 21 != 0
}

/// The FS base.
#[must_use]
#[inline(always)]
pub fn fs_base() -> u64 {
    // SAFETY: an architectural register without read effects.
    unsafe { read_msr(x86::msr::IA32_FS_BASE) }
}

/// Sets the FS base, made canonical, since the register faults otherwise.
#[inline(always)]
pub fn set_fs_base(base: u64) {
    // SAFETY: a canonical base, which ring 0 does not use.
    unsafe { write_msr(x86::msr::IA32_FS_BASE, canonical(base)) }
}

/// The guest's GS base.
#[must_use]
#[inline(always)]
pub fn guest_gs_base() -> u64 {
    // SAFETY: an architectural register without read effects.
    unsafe { read_msr(x86::msr::IA32_KERNEL_GSBASE) }
}

/// Sets the guest's GS base, made canonical, since the register faults otherwise.
#[inline(always)]
pub fn set_guest_gs_base(base: u64) {
    // SAFETY: a canonical base, which ring 0 does not use.
    unsafe { write_msr(x86::msr::IA32_KERNEL_GSBASE, canonical(base)) }
}

/// The address with bits 48 to 63 like bit 47.
#[must_use]
#[inline(always)]
pub const fn canonical(address: u64) -> u64 {
    ((address << 16).cast_signed() >> 16).cast_unsigned()
}
