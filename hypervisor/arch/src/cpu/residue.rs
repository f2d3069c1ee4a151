//! What a guest leaves in a CPU beside its registers: translations, predictions, buffers, caches.
//!
//! [`forget`] drops what this CPU has a way to drop. Emulators without a model of predictors, buffers
//! and caches offer none of the three; then it is translations only.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use protocol::layout::STACK_SELECTOR;

use super::features::Features;
use super::write_msr;

/// `IA32_PRED_CMD`: its bit 0 is the barrier for indirect branches (Intel SDM volume 4).
const PREDICTOR_COMMAND: u32 = 0x49;
/// `IA32_FLUSH_CMD`: its bit 0 empties the first data cache.
const FLUSH_COMMAND: u32 = 0x10b;
/// CR4.PGE.
const GLOBAL_PAGES: u64 = 1 << 7;

static FORGOTTEN: AtomicU64 = AtomicU64::new(0);

/// How often CPUs forgot.
#[must_use]
pub fn forgotten() -> u64 {
    FORGOTTEN.load(Ordering::Relaxed)
}

/// Has this CPU forget what guests left in it, as far as its features allow.
pub fn forget(features: Features) {
    FORGOTTEN.fetch_add(1, Ordering::Relaxed);
    let settings = read_register!("cr4");
    for value in [settings & !GLOBAL_PAGES, settings] {
        // SAFETY: only PGE changes, and back; each change drops all translations, global ones too (Intel
        // SDM volume 3, 4.10.4.1), which are then read from the same tables.
        unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
    if features.contains(Features::IBPB) {
        // SAFETY: the command exists when the feature does, and only slows predictions down.
        unsafe { write_msr(PREDICTOR_COMMAND, 1) };
    }
    if features.contains(Features::L1D_FLUSH) {
        // SAFETY: the command exists when the feature does; what was written goes to memory.
        unsafe { write_msr(FLUSH_COMMAND, 1) };
    }
    if features.contains(Features::MD_CLEAR) {
        // SAFETY: reads the descriptor of a selector that the table has, and changes flags only.
        unsafe { asm!("verw word ptr [{}]", in(reg) &STACK_SELECTOR, options(readonly, nostack)) };
    }
}
