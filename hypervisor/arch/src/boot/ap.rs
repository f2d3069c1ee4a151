//! Starting the other processors, one at a time.
//!
//! A processor starts in real mode in the trampoline page, enters long mode with the first page
//! tables, jumps to the upper half, loads the root and the stack it was given and calls Rust. The
//! code in the page uses offsets only, so any page below 640 KiB does.
#![expect(unsafe_code, reason = "the trampoline is assembly in a page that nobody owns")]

use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use hv_core::addr::convert::wide;
use hv_core::addr::{CpuId, Phys};

use super::entry;
use crate::cpu::{pause, read_tsc};
use crate::irq::local_apic;
use crate::mmu::direct;
use crate::time::Clock;

/// Commands: reset, after which the processor waits; and start in real mode in the page whose number
/// is in the lower byte.
const INIT: u32 = 0b101 << 8;
const START_UP: u32 = 0b110 << 8;
/// Waits of the start-up sequence (Intel SDM volume 3, 9.4.4), and for the answer: long, because an
/// emulator on a busy host may stand still, and because it is only waited for in vain when the
/// processor is broken.
const AFTER_INIT_US: u64 = 10_000;
const AFTER_START_UP_US: u64 = 200;
const ANSWER_US: u64 = 1_000_000;

/// Looks at the clock between two hints to the CPU that it waits.
const TURNS_PER_PAUSE: u32 = 1024;

/// Code and data segments of ring 0, as in the final table.
const SEGMENTS: [u64; 3] = [0, 0x0020_9b00_0000_0000, 0x0000_9300_0000_0000];

/// What a processor is started with.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Which processor.
    pub apic_id: u32,
    /// The number it gets.
    pub cpu: CpuId,
    /// Top of its stack, 16-byte aligned.
    pub stack_top: u64,
    /// Its page tables.
    pub root: Phys,
    /// Where it takes its first steps: [`super::BootInfo::trampoline`].
    pub trampoline: Phys,
    /// What it runs, with its number.
    pub entry: extern "C" fn(u32) -> !,
}

/// What the trampoline reads. Behind its code.
#[repr(C)]
struct Parameters {
    first_root: u64,
    upper: u64,
    root: u64,
    stack_top: u64,
    arrive: u64,
    cpu: u64,
    entry: u64,
    segments: [u64; 3],
    /// Limit and address of `segments`, as `lgdt` takes them.
    table_limit: u16,
    table_base: [u16; 2],
    /// Address and selector of the 64-bit code, as a far jump takes them.
    long_offset: [u16; 2],
    long_selector: u16,
}

global_asm!(
    r#"
    .set AP_PARAMETERS, ap_parameters - ap_trampoline_start

    .section .rodata.ap_trampoline, "a"
    .balign 16
    .global ap_trampoline_start
    ap_trampoline_start:
    .code16
        cli
        cld
        mov ax, cs
        mov ds, ax
        # Straight from real mode to long mode: PAE, tables, LME and NXE, then PE and PG at once.
        mov eax, 1 << 5
        mov cr4, eax
        mov bx, offset AP_PARAMETERS
        mov eax, dword ptr [bx + {first_root}]
        mov cr3, eax
        mov ecx, 0xc0000080
        mov eax, (1 << 8) | (1 << 11)
        xor edx, edx
        wrmsr
        # With a 32-bit operand: all of the table's address.
        .byte 0x66
        lgdt [bx + {table_limit}]
        mov eax, 0x80010033
        mov cr0, eax
        # A far jump with a 32-bit offset, to 64-bit code.
        jmp fword ptr [bx + {long_offset}]

    .code64
    .global ap_long
    ap_long:
        mov eax, 0x10
        mov ss, eax
        xor eax, eax
        mov ds, eax
        mov es, eax
        mov fs, eax
        mov gs, eax
        lea rbx, [rip + ap_parameters]
        mov rdi, [rbx + {cpu}]
        mov rsi, [rbx + {entry}]
        mov rax, [rbx + {arrive}]
        mov rcx, [rbx + {stack_top}]
        mov rdx, [rbx + {root}]
        jmp qword ptr [rbx + {upper}]

    .balign 8
    .global ap_parameters
    ap_parameters:
        .skip {parameters}
    .text
    "#,
    first_root = const offset_of!(Parameters, first_root),
    upper = const offset_of!(Parameters, upper),
    root = const offset_of!(Parameters, root),
    stack_top = const offset_of!(Parameters, stack_top),
    arrive = const offset_of!(Parameters, arrive),
    cpu = const offset_of!(Parameters, cpu),
    entry = const offset_of!(Parameters, entry),
    table_limit = const offset_of!(Parameters, table_limit),
    long_offset = const offset_of!(Parameters, long_offset),
    parameters = const size_of::<Parameters>(),
);

unsafe extern "C" {
    static ap_trampoline_start: u8;
    static ap_long: u8;
    static ap_parameters: u8;
}

/// In the upper half: rdx = root, rcx = stack, rax = [`arrive`], rdi and rsi = its arguments.
#[unsafe(naked)]
extern "C" fn upper() -> ! {
    naked_asm!("mov cr3, rdx", "mov rsp, rcx", "xor ebp, ebp", "call rax", "ud2")
}

/// The number of the processor that arrived last, plus 1.
static ARRIVED: AtomicU32 = AtomicU32::new(0);

/// The first Rust function of a started processor.
extern "C" fn arrive(cpu: u32, entry: extern "C" fn(u32) -> !) -> ! {
    ARRIVED.store(cpu.wrapping_add(1), Ordering::Release);
    entry(cpu)
}

/// Starts a processor and waits until it runs `entry`'s caller on its own stack. False when it does
/// not answer; it is then held in reset, and nothing of it runs.
///
/// # Safety
/// 1. The processor does not run, and no other CPU is in this function.
/// 2. `stack_top` is the top of a stack, mapped in `root`, that is used for nothing else, ever.
/// 3. `root` maps the hypervisor's half as the current root does.
/// 4. `trampoline` is a page below 640 KiB that is nobody's, and the direct map holds it.
/// 5. `entry` can run with no descriptor table and no GS of its own.
#[must_use]
pub unsafe fn start(start: &Start, clock: &Clock) -> bool {
    let page = u32::try_from(start.trampoline.0 >> 12).unwrap_or(0) & 0xff;
    // SAFETY: (1) and (4): the page is nobody's, and no processor is on it.
    unsafe { write_trampoline(start) };
    ARRIVED.store(0, Ordering::SeqCst);
    local_apic::command(start.apic_id, INIT);
    wait_until(clock, AFTER_INIT_US, || false);
    let has_arrived = || ARRIVED.load(Ordering::Acquire) == start.cpu.0.wrapping_add(1);
    local_apic::command(start.apic_id, START_UP | page);
    if wait_until(clock, AFTER_START_UP_US, has_arrived) {
        return true;
    }
    // A processor that has started already ignores the second one.
    local_apic::command(start.apic_id, START_UP | page);
    let has_come = wait_until(clock, ANSWER_US, has_arrived);
    if !has_come {
        local_apic::command(start.apic_id, INIT);
    }
    has_come
}

/// Copies code and parameters to the trampoline page.
///
/// # Safety
/// The direct map holds the page, and no processor uses it.
#[expect(clippy::as_conversions, reason = "there is no other way to a function's address")]
unsafe fn write_trampoline(start: &Start) {
    let first = &raw const ap_trampoline_start;
    let offset_of = |symbol: *const u8| symbol.addr().wrapping_sub(first.addr());
    let parameters_offset = offset_of(&raw const ap_parameters);
    let page = direct::pointer(start.trampoline);
    let low = |offset: usize| halves(start.trampoline.0.wrapping_add(wide(offset)));
    let parameters = Parameters {
        first_root: entry::first_root().0,
        upper: address(upper as *const ()),
        root: start.root.0,
        stack_top: start.stack_top,
        arrive: address(arrive as *const ()),
        cpu: u64::from(start.cpu.0),
        entry: address(start.entry as *const ()),
        segments: SEGMENTS,
        table_limit: 23,
        table_base: low(parameters_offset.wrapping_add(offset_of!(Parameters, segments))),
        long_offset: low(offset_of(&raw const ap_long)),
        long_selector: 0x08,
    };
    // SAFETY: the bytes up to the parameters are the code above, much shorter than a page; the target
    // is free by the caller's promise.
    unsafe { core::ptr::copy_nonoverlapping(first, page, parameters_offset) };
    let target = page.wrapping_add(parameters_offset).cast::<Parameters>();
    // SAFETY: behind the code in the same page there is room, and it is 8-byte aligned.
    unsafe { target.write_volatile(parameters) };
}

/// The lower 32 bits of an address in halves, as unaligned fields hold them.
fn halves(address: u64) -> [u16; 2] {
    let [a, b, c, d, ..] = address.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
}

/// Waits for a time, or until the condition holds; tells whether it held.
fn wait_until(clock: &Clock, microseconds: u64, condition: impl Fn() -> bool) -> bool {
    let ticks = microseconds.saturating_mul(clock.tsc_hz) / 1_000_000;
    let start = read_tsc();
    let mut turns = 0_u32;
    while read_tsc().wrapping_sub(start) < ticks {
        if condition() {
            return true;
        }
        turns = turns.wrapping_add(1);
        // An emulator that runs all processors by turns gives the turn away here, which is needed
        // but costs it far more than the loop.
        if turns.is_multiple_of(TURNS_PER_PAUSE) {
            pause();
        }
    }
    condition()
}

/// The address of code.
fn address(function: *const ()) -> u64 {
    wide(function.addr())
}
