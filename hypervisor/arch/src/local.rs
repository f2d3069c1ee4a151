//! What belongs to one CPU: the block that GS points to in ring 0, its stacks, and its task state.
//!
//! All fields are atomics, so that the table of blocks is shared without `unsafe`; each is written
//! by its own CPU only, after [`bring_up`].
#![expect(unsafe_code, reason = "GS-relative loads and descriptor tables have no safe form")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_core::addr::convert::wide;
use hv_core::addr::{CpuId, MAX_CPUS};

use crate::cpu::features::Features;
use crate::cpu::gdt::TaskState;
use crate::cpu::{assertions, control, write_msr};
use crate::irq::local_apic;
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
#[cfg(target_os = "none")]
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
const STACK_BYTES: usize = 32 * 1024;
/// Bytes of an interrupt stack; each is aligned to its size. Its top word holds the CPU's block, for
/// entries that cannot trust GS.
pub(crate) const INTERRUPT_STACK_BYTES: usize = 8192;

/// What else a CPU has.
#[repr(C, align(32768))]
struct Memory {
    stack: UnsafeCell<[u8; STACK_BYTES]>,
    interrupt: [UnsafeCell<[u8; INTERRUPT_STACK_BYTES]>; 4],
    task_state: TaskState,
}

// SAFETY: L2 (a CPU's stacks are touched by that CPU only, through its stack pointer): no reference
// to the contents is ever made, but for the top word that `bring_up` writes before they are in use.
unsafe impl Sync for Memory {}

static MEMORY: [Memory; MAX_CPUS] = [const {
    Memory {
        stack: UnsafeCell::new([0; STACK_BYTES]),
        interrupt: [const { UnsafeCell::new([0; INTERRUPT_STACK_BYTES]) }; 4],
        task_state: TaskState::new(),
    }
}; MAX_CPUS];

/// Held while a CPU loads its task state through the table that all share, until what it loaded is
/// checked.
static LOADING: spin::Mutex<()> = spin::Mutex::new(());

fn of<T>(table: &'static [T; MAX_CPUS], cpu: CpuId) -> Option<&'static T> {
    table.get(usize::try_from(cpu.0).unwrap_or(usize::MAX))
}

/// Where the ring-0 stack of a CPU ends; it starts there empty.
#[must_use]
pub fn stack_top(cpu: CpuId) -> u64 {
    of(&MEMORY, cpu).map_or(0, |memory| wide(memory.stack.get().addr().wrapping_add(STACK_BYTES)))
}

/// The lowest byte of each CPU's ring-0 stack: pages to leave unmapped.
pub(crate) fn stack_guards() -> impl Iterator<Item = u64> {
    MEMORY.iter().map(|memory| wide(memory.stack.get().addr()))
}

/// Loads everything that ring 0 needs on the CPU that executes this: control registers, descriptor
/// tables, its block behind GS; and checks it as the machine reports it.
///
/// Must be the first call of the CPU into this crate, once, with a number of its own.
///
/// # Errors
/// What does not hold, in words. The CPU must not run a guest.
pub fn bring_up(cpu: CpuId, features: Features) -> Result<(), &'static str> {
    let (Some(local), Some(memory)) = (of(&LOCALS, cpu), of(&MEMORY, cpu)) else {
        return Err("the CPU has a number that it can have");
    };
    let block = wide(core::ptr::from_ref(local).addr());
    local.stack_top.store(stack_top(cpu), Ordering::Relaxed);
    local.has_smap.store(u32::from(features.contains(Features::SMAP)), Ordering::Relaxed);
    local.id.store(cpu.0, Ordering::Relaxed);
    let tops = memory.interrupt.each_ref().map(|stack| {
        let end = stack.get().wrapping_add(1).cast::<u64>().wrapping_sub(1);
        // SAFETY: L2: the CPU does not use the stack yet, and its last word is inside it.
        unsafe { end.write(block) };
        // One word below the block's address, rounded for alignment.
        wide(end.addr()).wrapping_sub(8)
    });
    let _alone = LOADING.lock();
    // SAFETY: each CPU has a task state and stacks of its own (L2), in static memory; the lock lets
    // one CPU at a time load; GS is set below.
    unsafe { memory.task_state.load(stack_top(cpu), tops) };
    let gates = trap::load();
    // SAFETY: the features were detected on this machine, whose CPUs are alike, and the entry is the
    // system-call entry of `trap`.
    unsafe { control::apply(features, trap::system_call_entries()) };
    // SAFETY: the block is static; from here on GS points to it in ring 0 (L1).
    unsafe { write_msr(x86::msr::IA32_GS_BASE, block) };
    assertions::check(features, gates)
}

/// Fills what only the hypervisor has, in builds for tests: unused stack, heap and frames that nobody has.
/// No guest must ever read it.
#[cfg(feature = "recount")]
pub const PATTERN: u32 = 0xc105_7e12;
/// The pattern twice.
#[cfg(feature = "recount")]
pub(crate) const CANARY: u64 = 0xc105_7e12_c105_7e12;

/// The words of the ring-0 stack of the CPU that executes this, from the lowest page that is mapped to
/// its top.
#[cfg(feature = "recount")]
fn stack_words() -> impl Iterator<Item = *mut u64> {
    let top = core::ptr::with_exposed_provenance_mut::<u64>(hv_core::addr::convert::index(stack_top(id())));
    (1..=(STACK_BYTES - 4096) / 8).rev().map(move |below| top.wrapping_sub(below))
}

/// Fills the stack of this CPU below what is in use with a pattern, at most so many bytes of it.
#[cfg(feature = "recount")]
#[inline(never)]
pub fn paint_stack(most: usize) {
    let here: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) here, options(nomem, nostack, preserves_flags)) };
    let top = hv_core::addr::convert::index(stack_top(id()));
    let lowest = top.wrapping_sub(STACK_BYTES - 4096);
    // The first CPU is still on the stack of the start-up code, elsewhere.
    let end = if (lowest..top).contains(&here) { here } else { top };
    let start = lowest.max(end.saturating_sub(most));
    // SAFETY: L2: this CPU's own stack below its stack pointer, where nothing lies: ring 0 has no red zone, and takes
    // no interrupt here. A loop, since an emulator is slow at `rep stosq`.
    unsafe {
        asm!(
            "2:",
            "sub {end}, 8",
            "mov [{end}], {word}",
            "cmp {end}, {start}",
            "ja 2b",
            end = inout(reg) end => _, start = in(reg) start, word = in(reg) CANARY, options(nostack),
        );
    }
}

/// Bytes of this CPU's stack that were used so far, and bytes that it has.
#[cfg(feature = "recount")]
#[must_use]
pub fn stack_use() -> (usize, usize) {
    // SAFETY: L2: words of this CPU's own stack, which is mapped from there to its top.
    let unused = stack_words().take_while(|word| unsafe { word.read_volatile() } == CANARY).count();
    let bytes = STACK_BYTES - 4096;
    (bytes.saturating_sub(unused.saturating_mul(8)), bytes)
}

/// Notes the APIC id of a CPU, by which others interrupt it.
pub fn set_apic_id(cpu: CpuId, apic_id: u32) {
    if let Some(local) = of(&LOCALS, cpu) {
        local.apic_id.store(apic_id, Ordering::Release);
    }
}

/// Holds all other CPUs in reset, for the end of the machine: nothing of them runs any more.
pub fn stop_others() {
    for (local, number) in LOCALS.iter().zip(0..) {
        if local.stack_top.load(Ordering::Relaxed) != 0 && number != id().0 {
            local_apic::command(local.apic_id.load(Ordering::Acquire), local_apic::INIT);
        }
    }
}

/// The APIC id of a CPU.
#[must_use]
pub fn apic_id(cpu: CpuId) -> u32 {
    of(&LOCALS, cpu).map_or(0, |local| local.apic_id.load(Ordering::Acquire))
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
