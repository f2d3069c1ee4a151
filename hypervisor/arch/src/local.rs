//! What belongs to one CPU: the block that GS points to in ring 0, its stacks, and its descriptor
//! tables.
//!
//! All fields are atomics, so that the table of blocks is shared without `unsafe`; each is written
//! by its own CPU only, after [`bring_up`].
#![expect(unsafe_code, reason = "GS-relative loads and descriptor tables have no safe form")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_core::addr::convert::wide;
use hv_core::addr::{CpuId, MAX_CPUS, Mfn};

use crate::boot::BootInfo;
#[cfg(target_os = "none")]
use crate::boot::ap;

use crate::cpu::control::{self, Plan};
use crate::cpu::features::Features;
use crate::cpu::gdt::{Segments, Stacks};
use crate::cpu::write_msr;
use crate::trap;

/// One CPU's block. The assembly of [`crate::trap`] and [`crate::guest`] uses it through GS.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Local {
    /// Top of the stack on which ring 0 runs, 16-byte aligned.
    pub(crate) stack_top: AtomicU64,
    /// The guest's stack pointer during the first instructions of a system call.
    pub(crate) guest_stack: AtomicU64,
    /// Not 0 when the CPU has SMAP, and so the instructions `stac` and `clac`.
    pub(crate) has_smap: AtomicU32,
    id: AtomicU32,
    apic_id: AtomicU32,
}

/// Offsets for assembly.
pub(crate) mod offset {
    use super::{Local, offset_of};
    pub(crate) const STACK_TOP: usize = offset_of!(Local, stack_top);
    pub(crate) const GUEST_STACK: usize = offset_of!(Local, guest_stack);
    pub(crate) const HAS_SMAP: usize = offset_of!(Local, has_smap);
}

static LOCALS: [Local; MAX_CPUS] = [const {
    Local {
        stack_top: AtomicU64::new(0),
        guest_stack: AtomicU64::new(0),
        has_smap: AtomicU32::new(0),
        id: AtomicU32::new(0),
        apic_id: AtomicU32::new(0),
    }
}; MAX_CPUS];

/// Bytes of a ring-0 stack. The lowest page is left out of the final tables, as a guard.
pub const STACK_BYTES: u64 = 32 * 1024;
/// Bytes of an interrupt stack; each is aligned to its size. Its top word holds the CPU's block, for
/// entries that cannot trust GS.
pub const INTERRUPT_STACK_BYTES: u64 = 8192;

/// Stacks of one CPU.
#[repr(C, align(32768))]
struct StackMemory {
    ring0: UnsafeCell<[u8; 32 * 1024]>,
    interrupt: [UnsafeCell<[u8; 8192]>; 4],
}

// SAFETY: L2 (a CPU's stacks are touched by that CPU only, through its stack pointer): no reference
// to the contents is ever made, but for the top word that `bring_up` writes before they are in use.
unsafe impl Sync for StackMemory {}

static STACKS: [StackMemory; MAX_CPUS] = [const {
    StackMemory { ring0: UnsafeCell::new([0; 32 * 1024]), interrupt: [const { UnsafeCell::new([0; 8192]) }; 4] }
}; MAX_CPUS];

static SEGMENTS: [Segments; MAX_CPUS] = [const { Segments::new() }; MAX_CPUS];

fn number(cpu: CpuId) -> usize {
    usize::try_from(cpu.0).unwrap_or(usize::MAX)
}

/// Where the ring-0 stack of a CPU ends; it starts there empty.
#[must_use]
pub fn stack_top(cpu: CpuId) -> u64 {
    STACKS.get(number(cpu)).map_or(0, |stacks| wide(stacks.ring0.get().addr()).wrapping_add(STACK_BYTES))
}

/// The lowest byte of each CPU's ring-0 stack: pages to leave unmapped.
pub(crate) fn stack_guards() -> impl Iterator<Item = u64> {
    STACKS.iter().map(|stacks| wide(stacks.ring0.get().addr()))
}

/// Loads everything that ring 0 needs on the CPU that executes this: control registers, descriptor
/// tables, its block behind GS. Returns the interrupt table for the start-up assertions.
///
/// Must be the first call of the CPU into this crate, once, with a number of its own.
pub fn bring_up(cpu: CpuId, features: Features) -> &'static [trap::descriptors::Gate; 256] {
    let (Some(local), Some(stacks), Some(segments)) = (block(cpu), STACKS.get(number(cpu)), SEGMENTS.get(number(cpu)))
    else {
        crate::cpu::halt();
    };
    local.stack_top.store(stack_top(cpu), Ordering::Relaxed);
    local.has_smap.store(u32::from(features.contains(Features::SMAP)), Ordering::Relaxed);
    local.id.store(cpu.0, Ordering::Relaxed);
    let tops = stacks.interrupt.each_ref().map(|stack| {
        let end = stack.get().cast::<u64>().wrapping_add(1023);
        // SAFETY: L2: the CPU does not use the stack yet, and its last word is inside it.
        unsafe { end.write(wide(core::ptr::from_ref(local).addr())) };
        // One word below the block's address, rounded for alignment.
        wide(end.addr()).wrapping_sub(8)
    });
    // SAFETY: each CPU has tables and stacks of its own (L2), in static memory; GS is set below.
    unsafe { segments.load(&Stacks { ring0: stack_top(cpu), interrupt: tops }) };
    let table = trap::load();
    // SAFETY: the features were detected on this machine, whose CPUs are alike, and the entry is the
    // system-call entry of `trap`.
    unsafe { control::apply(&Plan::for_features(features), trap::system_call_entry(), u64::from(cpu.0)) };
    // SAFETY: the block is static; from here on GS points to it in ring 0 (L1).
    unsafe { write_msr(x86::msr::IA32_GS_BASE, wide(core::ptr::from_ref(local).addr())) };
    table
}

/// Starts another processor as CPU `cpu` and waits until it runs `entry` with its number, in ring 0 on
/// its own stack with the given root. False when it does not answer. To be called by the first CPU
/// only, once for each number; `root` must have the hypervisor's slots.
#[cfg(target_os = "none")]
pub fn start_processor(boot: &BootInfo, apic: u32, cpu: CpuId, root: Mfn, entry: extern "C" fn(u32) -> !) -> bool {
    let (Some(trampoline), Some(clock)) = (boot.trampoline(), crate::time::known()) else {
        return false;
    };
    let stack_top = stack_top(cpu);
    let start = ap::Start { apic_id: apic, cpu, stack_top, root: root.start(), trampoline, entry };
    // SAFETY: L2 (a CPU's stacks are touched by that CPU only) and M2 (every root has the
    // hypervisor's slots); `BootInfo` names a page that nobody uses, low memory being set aside; and
    // `entry` begins with `bring_up`, as this function demands.
    unsafe { ap::start(&start, clock) }
}

/// Notes the APIC id of a CPU, by which others interrupt it.
pub fn set_apic_id(cpu: CpuId, apic_id: u32) {
    if let Some(local) = block(cpu) {
        local.apic_id.store(apic_id, Ordering::Release);
    }
}

/// The block of a CPU.
#[must_use]
fn block(cpu: CpuId) -> Option<&'static Local> {
    LOCALS.get(usize::try_from(cpu.0).unwrap_or(usize::MAX))
}

/// The APIC id of a CPU.
#[must_use]
pub fn apic_id(cpu: CpuId) -> u32 {
    block(cpu).map_or(0, |local| local.apic_id.load(Ordering::Acquire))
}

/// The CPU that executes this.
#[must_use]
#[inline(always)]
pub fn id() -> CpuId {
    let number: u32;
    // SAFETY: L1 (in ring 0, GS points to this CPU's block): reads one aligned field of it.
    unsafe {
        asm!("mov {0:e}, gs:[{1}]", out(reg) number, const offset_of!(Local, id), options(nostack, readonly, preserves_flags, pure));
    }
    CpuId(number)
}
