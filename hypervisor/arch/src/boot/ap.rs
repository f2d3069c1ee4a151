//! Starting the other processors, one at a time.
//!
//! A processor starts in real mode in the trampoline page, enters long mode with the first page
//! tables, takes the stack that was prepared for it and calls Rust. The code in the page reads its
//! own page by offsets only, so any page below 640 KiB does.
#![expect(unsafe_code, reason = "the trampoline is assembly in a page that nobody owns")]

use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_core::addr::{CpuId, Mfn};

use super::BootInfo;
use crate::cpu::{pause, read_tsc};
use crate::irq::local_apic;
use crate::{local, mmu, time};

/// Command: start in real mode in the page whose number is in the lower byte.
const START_UP: u32 = 0b110 << 8;
/// Waits of the start-up sequence (Intel SDM volume 3, 9.4.4), and for the answer: long, because an
/// emulator on a busy host may stand still, and because it is only waited for in vain when the
/// processor is broken.
const AFTER_INIT_US: u64 = 10_000;
const AFTER_START_UP_US: u64 = 200;
const ANSWER_US: u64 = 1_000_000;

/// Looks at the clock between two hints to the CPU that it waits.
const TURNS_PER_PAUSE: u32 = 1024;

global_asm!(
    r#"
    .section .rodata.ap_trampoline, "a"
    .balign 16
    .global ap_trampoline
    ap_trampoline:
    .code16
        cli
        cld
        mov ax, cs
        mov ds, ax
        # Straight from real mode to long mode: PAE, tables, LME and NXE, then PE and PG at once.
        mov eax, 1 << 5
        mov cr4, eax
        mov eax, offset boot_tables_low
        mov cr3, eax
        mov ecx, 0xc0000080
        mov eax, (1 << 8) | (1 << 11)
        xor edx, edx
        wrmsr
        # With a 32-bit operand: all of the table's address.
        .set AP_GDT, ap_gdt_pointer - ap_trampoline
        mov bx, offset AP_GDT
        .byte 0x66
        lgdt [bx]
        mov eax, 0x80010033
        mov cr0, eax
        # A far jump with a 32-bit offset, to 64-bit code.
        .byte 0x66, 0xea
        .long boot_ap
        .short 0x08
    ap_gdt_pointer:
        .short 23
        .long boot_gdt
    .global ap_trampoline_end
    ap_trampoline_end:

    .section .boot.text, "ax"
    .code64
    boot_ap:
        movabs rax, offset {stack_top}
        mov rsp, [rax]
        xor ebp, ebp
        movabs rax, offset {arrive}
        call rax
        ud2
    .text
    "#,
    stack_top = sym STACK_TOP,
    arrive = sym arrive,
);

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
}

unsafe extern "Rust" {
    /// What [`crate::entry_point`] exports, with this type.
    safe fn cloister_processor(cpu: CpuId) -> !;
}

/// What the processor that is started takes: its number, stack and root table.
static NUMBER: AtomicU32 = AtomicU32::new(0);
static STACK_TOP: AtomicU64 = AtomicU64::new(0);
static ROOT: AtomicU64 = AtomicU64::new(0);
/// The number of the processor that arrived last.
static ARRIVED: AtomicU32 = AtomicU32::new(0);

/// The first Rust function of a started processor, still on the first page tables.
extern "C" fn arrive() -> ! {
    mmu::load_root(Mfn(ROOT.load(Ordering::Acquire)));
    let cpu = NUMBER.load(Ordering::Acquire);
    ARRIVED.store(cpu, Ordering::Release);
    cloister_processor(CpuId(cpu))
}

/// Starts another processor as CPU `cpu` and waits until it runs, in ring 0 on its own stack with the
/// given root. False when it does not answer; it is then held in reset, and nothing of it runs. To be
/// called by the first CPU only, once for each number but 0; `root` must have the hypervisor's slots.
pub fn start_processor(boot: &BootInfo, apic_id: u32, cpu: CpuId, root: Mfn) -> bool {
    let (Some(page), Some(clock)) = (boot.data.free_low_page(), time::known()) else {
        return false;
    };
    let first = &raw const ap_trampoline;
    let length = (&raw const ap_trampoline_end).addr().wrapping_sub(first.addr());
    // SAFETY: M1 (the direct map covers every frame of RAM): the code above is much shorter than a
    // page, and this page is nobody's, low memory being set aside; no processor is on it.
    unsafe { core::ptr::copy_nonoverlapping(first, mmu::direct::pointer(page), length) };
    NUMBER.store(cpu.0, Ordering::SeqCst);
    STACK_TOP.store(local::stack_top(cpu), Ordering::SeqCst);
    ROOT.store(root.0, Ordering::SeqCst);
    let has_arrived = || ARRIVED.load(Ordering::Acquire) == cpu.0;
    local_apic::command(apic_id, local_apic::INIT);
    wait_until(clock.tsc_hz, AFTER_INIT_US, || false);
    // A processor that has started already ignores the second command.
    for patience in [AFTER_START_UP_US, ANSWER_US] {
        local_apic::command(apic_id, START_UP | u32::try_from(page.0 >> 12).unwrap_or(0));
        if wait_until(clock.tsc_hz, patience, has_arrived) {
            return true;
        }
    }
    local_apic::command(apic_id, local_apic::INIT);
    false
}

/// Waits for a time, or until the condition holds; tells whether it held.
fn wait_until(tsc_hz: u64, microseconds: u64, condition: impl Fn() -> bool) -> bool {
    let ticks = microseconds.saturating_mul(tsc_hz) / 1_000_000;
    let start = read_tsc();
    let mut turns = 0_u32;
    while !condition() && read_tsc().wrapping_sub(start) < ticks {
        turns = turns.wrapping_add(1);
        // An emulator that runs all processors by turns gives the turn away here, which is needed
        // but costs it far more than the loop.
        if turns.is_multiple_of(TURNS_PER_PAUSE) {
            pause();
        }
    }
    condition()
}
