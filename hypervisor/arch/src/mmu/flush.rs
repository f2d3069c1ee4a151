//! CR3 and the TLB: loading a root, forgetting translations here, and having other CPUs forget them.
//!
//! A shoot-down waits for the hypervisor of the other CPU, never for its guest: a CPU in a guest or
//! at rest is interrupted, one in ring 0 answers while it waits for anything ([`service`]), and ring
//! 0 never runs long.
#![expect(unsafe_code, reason = "CR3 and INVLPG have no safe form")]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use hv_core::addr::{CpuId, MAX_CPUS, Mfn, Phys};
use protocol::GuestVirt;
use protocol::layout::PAGE_SIZE;

use crate::{cpu, irq, local};

/// Pages up to which single flushes are cheaper than a whole one.
const SINGLE_LIMIT: u64 = 32;

/// Loads a root table. The only place that does.
#[inline(always)]
pub fn load_root(root: Mfn) {
    // SAFETY: M2 (every root has the hypervisor's slots): hv-core built the root from the master
    // root, so code, stacks and the direct map stay where they are.
    unsafe {
        asm!("mov cr3, {}", in(reg) root.start().0, options(nostack, preserves_flags));
    }
}

/// The root that is loaded.
#[must_use]
pub fn root() -> Mfn {
    Mfn::containing(Phys(cpu::read_register!("cr3")))
}

/// Forgets the translation of one page on this CPU.
#[inline(always)]
pub fn flush_page(address: GuestVirt) {
    // SAFETY: forgetting a translation is always allowed; the operand is not accessed.
    unsafe {
        asm!("invlpg [{}]", in(reg) address.0, options(nostack, preserves_flags));
    }
}

/// Forgets the translations of a range on this CPU.
pub fn flush_range(first: GuestVirt, pages: u64) {
    if pages > SINGLE_LIMIT {
        load_root(root());
        return;
    }
    for page in 0..pages {
        flush_page(GuestVirt(first.0.wrapping_add(page.wrapping_mul(PAGE_SIZE))));
    }
}

/// One flag a CPU: another CPU waits for it to flush.
static REQUESTED: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

fn flag(cpu: CpuId) -> Option<&'static AtomicBool> {
    REQUESTED.get(usize::try_from(cpu.0).unwrap_or(usize::MAX))
}

/// Makes every CPU in the mask but this one forget all guest translations, and returns when they
/// have.
pub fn shoot_down(cpus: u64) {
    let own = local::id();
    let others = (0..64_u32).filter(|number| cpus & (1 << number) != 0 && *number != own.0);
    for number in others.clone() {
        if let Some(flag) = flag(CpuId(number)) {
            flag.store(true, Ordering::SeqCst);
            irq::send(local::apic_id(CpuId(number)), irq::vector::FLUSH);
        }
    }
    for number in others {
        while flag(CpuId(number)).is_some_and(|flag| flag.load(Ordering::SeqCst)) {
            service();
            cpu::pause();
        }
    }
}

/// Answers a request to flush, if there is one for this CPU. Whoever waits in ring 0 calls it.
pub fn service() {
    if let Some(flag) = flag(local::id())
        && flag.load(Ordering::SeqCst)
    {
        load_root(root());
        flag.store(false, Ordering::SeqCst);
    }
}
