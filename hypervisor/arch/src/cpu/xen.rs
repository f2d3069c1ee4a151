//! What a CPU is set to while a vCPU of the Xen personality is loaded: the descriptor table in the vCPU's
//! window, whose last page is the hypervisor's own, gates that lead to ring 0 through it, and the
//! selectors of `syscall`.
//!
//! Ring 0 itself runs on selectors of the table that is in force, since a trap within it comes back by
//! them. So the table is never changed without code and stack selectors.
#![expect(unsafe_code, reason = "descriptor tables and control registers have no safe form")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::Mfn;
use hv_core::addr::Phys;
use hv_core::addr::convert::wide;
use protocol::xen::selector;
use x86::dtables::DescriptorTablePointer;

use super::{gdt, write_msr};
use crate::boot::IMAGE_BASE;
use crate::{local, trap};

/// Ring 0's code in the last page.
pub(crate) const RING0_CODE: u16 = FIRST.wrapping_add(8);
/// Ring 0's data there.
const RING0_DATA: u16 = FIRST.wrapping_add(0x10);
/// The first selector of the last page.
const FIRST: u16 = selector::GUEST_ENTRIES.wrapping_mul(8);
/// Where the entries for local tables begin: two for each CPU, which loads them and never looks again.
const LOCAL_TABLES: u16 = 16;

/// A page of descriptors or of nothing.
#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);

/// Flat segments: code and data of DPL 0, then 32-bit code, data and 64-bit code of DPL 3; all accessed, so
/// that the CPU never writes them.
const SEGMENTS: [u64; 7] = [
    0,
    0x0020_9b00_0000_0000,
    0x0000_9300_0000_0000,
    0,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];

/// The last page of every window.
static RESERVED: Page = Page([const { AtomicU64::new(0) }; 512]);
/// What stands where a guest has no frame: null descriptors. Never written, and mapped read-only.
static NOTHING: Page = Page([const { AtomicU64::new(0) }; 512]);

/// The machine frame of a page of the image.
fn frame(page: &'static Page) -> Mfn {
    Mfn::containing(Phys(wide(core::ptr::from_ref(page).addr()).wrapping_sub(IMAGE_BASE)))
}

/// The frames of the reserved page and of the empty one. Fills the first on the way.
pub(crate) fn pages() -> [Mfn; 2] {
    for (slot, entry) in RESERVED.0.iter().zip(SEGMENTS) {
        slot.store(entry, Ordering::Relaxed);
    }
    [frame(&RESERVED), frame(&NOTHING)]
}

/// Which vectors ring 3 may raise by `int`: breakpoint, overflow, and 0x80, which a guest's 32-bit programs
/// use.
pub(crate) const fn ring_of(vector: u8) -> u64 {
    if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 }
}

/// `syscall` loads ring 0's selectors; `sysret` loads the guest's flat ones.
#[expect(clippy::as_conversions, reason = "const code: u16 widens to u64")]
const STAR: u64 = ((selector::CODE_32 as u64) << 48) | ((RING0_CODE as u64) << 32);

/// Puts the tables of a window in force. The local table stays what it was: load another.
///
/// `window` is where the window of the vCPU lies: `mmu::window::address`.
pub fn load_tables(window: u64) {
    let limit = FIRST.wrapping_add(511);
    let pointer = DescriptorTablePointer::<u64> {
        limit,
        base: core::ptr::with_exposed_provenance(hv_core::addr::convert::index(window)),
    };
    // SAFETY: D1 (each window's last page is the reserved one): the selectors name ring 0's flat segments
    // there, and the gates lead to stubs (T1).
    unsafe { gdt::switch(&pointer, trap::xen_gates(), [RING0_CODE, RING0_DATA]) };
    // SAFETY: the selectors are those of the reserved page: D1.
    unsafe { write_msr(x86::msr::IA32_STAR, STAR) };
}

/// Puts the native tables in force, and no local table.
pub fn load_native_tables() {
    load_no_local_table();
    gdt::load_native();
}

/// Loads a local table with so many entries at an address, at most 8192, or none when there are no entries.
/// The tables of a window must be in force.
pub fn load_local_table(address: u64, entries: u64) {
    let Some(last) = (entries & 0x3fff).wrapping_mul(8).min(1 << 16).checked_sub(1) else {
        return load_no_local_table();
    };
    let own =
        usize::from(LOCAL_TABLES).wrapping_add(hv_core::addr::convert::index(u64::from(local::id().0)).wrapping_mul(2));
    let low = last | ((address & 0x00ff_ffff) << 16) | (0x82 << 40) | (((address >> 24) & 0xff) << 56);
    for (slot, entry) in RESERVED.0.iter().skip(own).zip([low, address >> 32]) {
        slot.store(entry, Ordering::Relaxed);
    }
    let name = u32::try_from(own.wrapping_mul(8)).unwrap_or(0).wrapping_add(u32::from(FIRST));
    // SAFETY: the entry describes a local table in a window, whose pages hold descriptors that were checked
    // (D1); it is this CPU's own.
    unsafe { asm!("lldt {:x}", in(reg) name, options(nostack, preserves_flags)) };
}

/// Loads the local table that has no entry.
fn load_no_local_table() {
    // SAFETY: the null table has no entry.
    unsafe { asm!("lldt {:x}", in(reg) 0_u32, options(nostack, preserves_flags)) };
}

/// Has the next floating-point instruction trap (CR0.TS). Before anything saves or loads that state,
/// [`allow_floating_point`].
pub fn trap_floating_point() {
    let cr0 = read_register!("cr0") | (1 << 3);
    // SAFETY: TS concerns floating-point instructions only, which ring 0 executes with TS clear.
    unsafe { asm!("mov cr0, {}", in(reg) cr0, options(nomem, nostack, preserves_flags)) };
}

/// Lets floating-point instructions execute.
pub fn allow_floating_point() {
    // SAFETY: TS concerns floating-point instructions only.
    unsafe { asm!("clts", options(nomem, nostack, preserves_flags)) };
}

/// Sets the CR4 bits that a guest chose: time-stamp reads trap, debug extensions, FSGSBASE instructions.
pub fn set_controls([no_tsc, debug_extensions, fsgsbase]: [bool; 3]) {
    let bits = [(no_tsc, 1_u64 << 2), (debug_extensions, 1 << 3), (fsgsbase, 1 << 16)];
    let old = read_register!("cr4");
    let new = bits.iter().fold(old, |all, (on, bit)| if *on { all | bit } else { all & !bit });
    if new != old {
        // SAFETY: TSD, DE and FSGSBASE concern ring 3 only; the caller offers FSGSBASE only where the CPU has
        // it.
        unsafe { asm!("mov cr4, {}", in(reg) new, options(nomem, nostack, preserves_flags)) };
    }
}

/// Sets the register that RDTSCP and RDPID read. It must exist.
pub fn set_tsc_aux(value: u32) {
    super::set_tsc_aux(value);
}

#[cfg(test)]
mod tests {
    use super::{FIRST, RING0_CODE, SEGMENTS, STAR, ring_of};
    use protocol::xen::selector;

    #[test]
    fn the_selectors_of_the_abi_name_the_right_segments() {
        for (selector, code, long) in
            [(selector::CODE_32, true, false), (selector::DATA, false, false), (selector::CODE_64, true, true)]
        {
            let entry = SEGMENTS[usize::from((selector - FIRST) / 8)];
            assert_eq!(entry >> 45 & 3, 3, "DPL");
            assert_eq!(entry >> 43 & 1 != 0, code);
            assert_eq!(entry >> 53 & 1 != 0, long);
        }
        assert_eq!(SEGMENTS[usize::from((RING0_CODE - FIRST) / 8)] >> 45 & 3, 0);
    }

    #[test]
    fn sysret_loads_the_selectors_of_the_abi() {
        assert_eq!((STAR >> 48) + 8, u64::from(selector::DATA));
        assert_eq!((STAR >> 48) + 16, u64::from(selector::CODE_64));
    }

    #[test]
    fn ring_3_raises_three_vectors() {
        let open: Vec<u8> = (0..=255).filter(|vector| ring_of(*vector) != 0).collect();
        assert_eq!(open, [3, 4, 0x80]);
    }
}
