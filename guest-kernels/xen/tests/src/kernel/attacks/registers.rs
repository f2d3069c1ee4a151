//! Debug registers, segment bases, XCR0 and the floating-point state.

use core::sync::atomic::{AtomicU64, Ordering};

use protocol::xen::{Errno, VERSION, call, sched};

use super::{Attack, Outcome, same};
use crate::kernel::abi::{HOLE, HYPERVISOR};
use crate::kernel::raw::{self, attempt};
use crate::kernel::smp::{self, beside, give_way, is_over};
use crate::kernel::trap::{self, Trap};
use crate::kernel::world::{Own, error, give_back, hypercall, pages_in_use};

/// In the order in which they run.
pub const ALL: &[Attack] = &[
    ("DS-05", bases_that_are_none),
    ("EX-08", breakpoint_on_a_stack_switch),
    ("EX-09", sticky_status),
    ("EX-10", debug_registers),
    ("FP-01", first_state),
    ("FP-02", own_state),
    ("FP-03", wrong_images),
    ("FP-04", protection_keys),
    ("FP-05", pending_exception),
    ("FP-06", registers_of_each_vcpu),
    ("IO-02", extended_control),
    ("IO-03", debug_control),
];

const INVALID: i64 = error(Errno::Invalid);
/// Vectors.
const DEBUG: u64 = 1;
const UNDEFINED: u64 = 6;
const PROTECTION: u64 = 13;
/// None.
const NONE: u64 = u64::MAX;

/// The vector of what an instruction raised.
fn vector(outcome: Result<(), Trap>) -> u64 {
    outcome.err().map_or(NONE, |trap| trap.vector)
}

/// Sets a debug register.
fn set(register: u64, value: u64) -> i64 {
    hypercall(call::SET_DEBUGREG, [register, value, 0])
}

/// Reads one.
fn get(register: u64) -> i64 {
    hypercall(call::GET_DEBUGREG, [register, 0, 0])
}

/// Reads a model-specific register.
fn read_msr(number: u64) -> u64 {
    let (low, high): (u64, u64);
    let _ = attempt!("rdmsr", in("rcx") number, out("rax") low, out("rdx") high);
    high << 32 | low & 0xffff_ffff
}

/// Bases that are no addresses, by the call, by `wrmsr` and by instructions: refused, and the old one stays.
fn bases_that_are_none() -> Outcome {
    let bases = [(0_u64, 0xc000_0100_u64), (1, 0xc000_0102), (2, 0xc000_0101)];
    let mut four = 0_u64;
    let _ = attempt!("mov {value}, cr4", value = out(reg) four);
    // Dropped where the processor has no such instructions.
    let _ = attempt!("mov cr4, {value}", value = in(reg) four | 1 << 16);
    let mut with = 0_u64;
    let _ = attempt!("mov {value}, cr4", value = out(reg) with);
    let has_instructions = with & 1 << 16 != 0;
    let mut checks = false;
    for (which, register) in bases {
        let old = if which == 2 { trap::block(0) } else { 0x7a67_0000 };
        same("a base", hypercall(call::SET_SEGMENT_BASE, [which, old, 0]), 0)?;
        for address in (47..64).flat_map(|bit| [1_u64 << bit, !(1_u64 << bit), (1 << bit) | 0x1000]) {
            let top = (address >> 47) as u32;
            if top == 0 || top == 0x1_ffff {
                continue;
            }
            same("by the call", hypercall(call::SET_SEGMENT_BASE, [which, address, 0]), INVALID)?;
            let (low, high) = (address & 0xffff_ffff, address >> 32);
            let written = attempt!("wrmsr", in("rcx") register, in("rax") low, in("rdx") high);
            same("by its number", vector(written), PROTECTION)?;
            if has_instructions && which == 0 {
                let raised = vector(attempt!("wrfsbase {base}", base = in(reg) address));
                // Emulators may not check: then a switch must go well with it.
                checks = raised == PROTECTION;
                if !checks {
                    same("taken", raised, NONE)?;
                    give_way();
                    same("the old one", hypercall(call::SET_SEGMENT_BASE, [which, old, 0]), 0)?;
                }
            }
            if has_instructions && checks && which == 2 {
                same("by an instruction", vector(attempt!("wrgsbase {base}", base = in(reg) address)), PROTECTION)?;
            }
            same("the old one", read_msr(register), old)?;
        }
    }
    for which in [4, 5, 1 << 32, u64::MAX] {
        same("no such base", hypercall(call::SET_SEGMENT_BASE, [which, 0x1000, 0]), INVALID)?;
    }
    // Selectors that user mode would have: what cannot be loaded becomes null, and the others' bases stay.
    for selector in [0x8_u64, 0x33, 0xe008, 0xe010, 0xe030, 0xe048, 0xfff8, 0xffff, 7] {
        same("a selector", hypercall(call::SET_SEGMENT_BASE, [3, selector, 0]), 0)?;
        same("the base of FS", read_msr(0xc000_0100), 0x7a67_0000)?;
        same("the kernel's base of GS", read_msr(0xc000_0101), trap::block(0))?;
    }
    let _ = attempt!("mov cr4, {value}", value = in(reg) four);
    same("none", hypercall(call::SET_SEGMENT_BASE, [0, 0, 0]) + hypercall(call::SET_SEGMENT_BASE, [1, 0, 0]), 0)
}

/// A breakpoint on the operand of `mov ss`, and then each way into ring 0 before it is reported.
fn breakpoint_on_a_stack_switch() -> Outcome {
    let page = Own::new();
    raw::store(page.at, 0xe02b);
    same("address", set(0, page.at), 0)?;
    // Reads and writes, of two bytes.
    same("control", set(7, 1 | 0b0111 << 16), 0)?;
    let at = page.at;
    for _ in 0..20 {
        let before = trap::count();
        let mut result = call::XEN_VERSION;
        let called = attempt!(
            "mov ss, word ptr [{at}]
             syscall",
            at = in(reg) at, inout("rax") result, in("rdi") 0, in("rsi") 0, out("rcx") _, out("r11") _
        );
        let is_answered = result == VERSION || called.is_err();
        same("the call", is_answered, true)?;
        let outcomes = [
            called,
            attempt!("mov ss, word ptr [{at}]; int3", at = in(reg) at),
            attempt!("mov ss, word ptr [{at}]; int 0x80", at = in(reg) at),
            attempt!("mov ss, word ptr [{at}]; ud2", at = in(reg) at),
            attempt!("mov ss, word ptr [{at}]; int 33", at = in(reg) at),
        ];
        let wanted = [NONE, 3, 0x80, UNDEFINED, 33];
        for (outcome, wanted) in outcomes.into_iter().zip(wanted) {
            let raised = vector(outcome);
            same("at most its own, or the breakpoint", raised == wanted || raised == DEBUG, true)?;
        }
        same("one each", trap::count() - before <= 5, true)?;
    }
    same("off", set(7, 0) + set(0, 0) + set(6, 0), 0)
}

/// The same with every bit of the status set.
fn sticky_status() -> Outcome {
    for status in [0xe00f_u64, 0xffff_0ff0, 0xffff_efff, 0xffff_ffff] {
        same("a status", set(6, status), 0)?;
        same("what of it can be", get(6), (status & 0xe00f | 0xffff_0ff0) as i64)?;
        breakpoint_on_a_stack_switch()?;
        same("a status", set(6, status), 0)?;
        let raised = vector(attempt!(".byte 0xf1"));
        same("a trap of one byte", raised == DEBUG || raised == UNDEFINED || raised == NONE, true)?;
    }
    same("off", set(6, 0), 0)
}

/// Breakpoints on the hypervisor and over its ends, each bit of the control, registers that do not exist; and
/// breakpoints on what the hypervisor reads and writes for the guest.
fn debug_registers() -> Outcome {
    let refused = error(Errno::NotPermitted);
    for register in 0..4 {
        same("an address", set(register, 0x1000 * (register + 1)), 0)?;
        for address in [
            HYPERVISOR,
            0xffff_8000_0000_0000,
            0xffff_7fff_ffff_ffff,
            0xffff_87ff_ffff_ffff,
            0xffff_87ff_ffff_fff8,
            0x7fff_ffff_fff9,
            HOLE,
            1 << 47,
            u64::MAX,
            u64::MAX - 6,
        ] {
            same("no address of the guest's", set(register, address), refused)?;
            let by_instruction = match register {
                0 => attempt!("mov dr0, {value}", value = in(reg) address),
                1 => attempt!("mov dr1, {value}", value = in(reg) address),
                2 => attempt!("mov dr2, {value}", value = in(reg) address),
                _ => attempt!("mov dr3, {value}", value = in(reg) address),
            };
            same("by an instruction", vector(by_instruction), PROTECTION)?;
        }
        same("the old one", get(register), 0x1000 * (register as i64 + 1))?;
    }
    for bit in 0..64 {
        let value = 1_u64 << bit;
        let (wanted, kept) = match bit {
            32.. => (INVALID, 0x400),
            13 | 17 | 21 | 25 | 29 => (refused, 0x400),
            _ => (0, value & 0xffff_03ff | 0x400),
        };
        same("a bit of the control", set(7, value), wanted)?;
        same("what stands there", get(7), kept as i64)?;
        same("off", set(7, 0), 0)?;
        let written = vector(attempt!("mov dr7, {value}", value = in(reg) value));
        same("by an instruction", written, if wanted == 0 { NONE } else { PROTECTION })?;
        same("off", set(7, 0), 0)?;
    }
    for register in [8, 9, 15, 16, 1 << 31, 0xffff_ffff] {
        same("no such register", set(register, 0), error(Errno::NoDevice))?;
        same("no such register", get(register), error(Errno::NoDevice))?;
    }
    // Ring 0 works on these words.
    let page = Own::new();
    for (register, offset) in [(0, 0), (1, 8), (2, 512), (3, 2048)] {
        same("an address", set(register, page.word(offset / 8)), 0)?;
    }
    same("all four, for reading and writing", set(7, 0xff | 0xbbbb << 16), 0)?;
    for _ in 0..20 {
        let answers = [
            hypercall(call::XEN_VERSION, [3, page.at, 0]),
            hypercall(call::XEN_VERSION, [1, page.at, 0]),
            hypercall(call::VCPU_OP, [4, 0, page.at]),
            hypercall(call::MEMORY_OP, [12, page.at, 0]),
        ];
        same("calls go on", i64::from(answers == [0; 4]), 1)?;
        give_way();
    }
    same("off", set(7, 0), 0)?;
    for register in [0, 1, 2, 3, 6] {
        same("none", set(register, 0), 0)?;
    }
    Ok(())
}

/// Words of a floating-point state that matter: not those that are reserved or the kernel's.
const WORDS: core::ops::Range<u64> = 0..52;

/// Fills the registers of the first vCPU, before the second one starts.
pub fn fill() {
    let kept = pages_in_use();
    let page = Own::new();
    write_state(page, 0x123);
    raw::load_state(page.at);
    give_back(kept);
}

/// What a new vCPU has, while the first one's registers are full.
fn first_state() -> Outcome {
    let at = smp::FIRST_STATE.address();
    same("control and status", raw::load(at) & 0xff_ffff_ffff, 0x037f)?;
    same("instruction and data pointers", raw::load(at + 8) | raw::load(at + 16), 0)?;
    same("control of vectors", raw::load(at + 24) & 0xffff_ffff, 0x1f80)?;
    same("registers", (4..52).fold(0, |all, word| all | raw::load(at + word * 8)), 0)
}

/// Writes a state of which every register holds a mark.
fn write_state(page: Own, mark: u64) {
    (0..64).for_each(|word| raw::store(page.word(word), 0));
    raw::store(page.at, 0x037f | 0xff << 32 | (mark & 0x7ff) << 48);
    raw::store(page.word(1), mark << 12 | 1);
    raw::store(page.word(2), mark << 12 | 2);
    raw::store(page.word(3), 0x1f80 | 0xffff_u64 << 32);
    for register in 0..8 {
        raw::store(page.word(4 + register * 2), 1 << 63 | mark << 8 | register);
        raw::store(page.word(5 + register * 2), 0x3fff);
    }
    (20..52).for_each(|word| raw::store(page.word(word), mark << 32 | word));
}

/// Loads a state with a mark; what the processor makes of it, which may not keep all pointers, stands in the page then.
fn hold(page: Own, mark: u64) {
    write_state(page, mark);
    raw::load_state(page.at);
    (0..64).for_each(|word| raw::store(page.word(word), 0));
    raw::save_state(page.at);
}

/// The first word in which two states are not the same, if any; what is reserved does not count.
fn difference(one: Own, other: Own) -> u64 {
    let counted = |word: u64| if word == 3 { 0xffff_ffff } else { u64::MAX };
    WORDS
        .clone()
        .find(|word| (raw::load(one.word(*word)) ^ raw::load(other.word(*word))) & counted(*word) != 0)
        .unwrap_or(NONE)
}

/// Pages of the second vCPU, whether it found anything wrong, and its rounds.
static THEIRS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// The second vCPU keeps a state of its own, and gives the CPU away.
fn keep_state() {
    let at = THEIRS.load(Ordering::SeqCst);
    let [given, found] = [at, at + 4096].map(|at| Own { at, frame: 0 });
    let mut mark = 0x100;
    hold(given, mark);
    while !is_over() {
        give_way();
        raw::save_state(found.at);
        WRONG.fetch_add(u64::from(difference(given, found) != NONE), Ordering::SeqCst);
        mark = 0x100 | (mark + 1) & 0xff;
        hold(given, mark);
        ROUNDS.fetch_add(1, Ordering::SeqCst);
    }
    let _ = attempt!("fninit");
}

/// Both vCPUs keep states of their own over switches, pointers included; one of them traps at first use in between.
fn own_state() -> Outcome {
    let [given, found, theirs, _] = Own::several();
    THEIRS.store(theirs.at, Ordering::SeqCst);
    WRONG.store(0, Ordering::SeqCst);
    ROUNDS.store(0, Ordering::SeqCst);
    beside(keep_state, || {
        let mut round = 0_u64;
        while ROUNDS.load(Ordering::SeqCst) < 60 {
            round += 1;
            hold(given, 0x400 + round % 256);
            same("what was loaded is there", raw::load(given.word(20)), (0x400 + round % 256) << 32 | 20)?;
            give_way();
            raw::save_state(found.at);
            same("its own state", difference(given, found), NONE)?;
            same("switched off", hypercall(call::FPU_TASKSWITCH, [1, 0, 0]), 0)?;
            give_way();
            same("traps", vector(attempt!("fnop")), 7)?;
            raw::save_state(found.at);
            same("its own state afterwards", difference(given, found), NONE)?;
        }
        Ok(())
    })?;
    let _ = attempt!("fninit");
    same("the other's was wrong", WRONG.load(Ordering::SeqCst), 0)
}

/// States with bits that are reserved: the guest's exception, or its own value; and then a switch.
fn wrong_images() -> Outcome {
    let page = Own::new();
    for bit in (16..32).chain([6, 15]) {
        write_state(page, 1);
        raw::store(page.word(3), (0x1f80 ^ 1 << bit) | 0xffff_u64 << 32);
        for outcome in
            [attempt!("fxrstor64 [{at}]", at = in(reg) page.at), attempt!("ldmxcsr [{at}]", at = in(reg) page.at + 24)]
        {
            let raised = vector(outcome);
            same("its own", raised == PROTECTION || raised == NONE, true)?;
            give_way();
        }
    }
    (0..512).for_each(|word| raw::store(page.word(word), u64::MAX));
    for mask in [u64::MAX, 7, 3, 1 << 63, 1 << 62 | 1] {
        let (low, high) = (mask & 0xffff_ffff, mask >> 32);
        for outcome in [
            attempt!("xrstor64 [{at}]", at = in(reg) page.at, in("rax") low, in("rdx") high),
            attempt!("xsave64 [{at}]", at = in(reg) page.at + 8, in("rax") low, in("rdx") high),
            attempt!("xrstors64 [{at}]", at = in(reg) page.at, in("rax") low, in("rdx") high),
        ] {
            let raised = vector(outcome);
            same("its own", matches!(raised, PROTECTION | UNDEFINED | 17 | NONE), true)?;
            give_way();
        }
    }
    write_state(page, 0);
    raw::load_state(page.at);
    let _ = attempt!("fninit");
    Ok(())
}

/// Protection keys are off.
fn protection_keys() -> Outcome {
    let read = vector(attempt!("rdpkru", in("rcx") 0, out("rax") _, out("rdx") _));
    same("read", read == UNDEFINED || read == PROTECTION, true)?;
    let written = vector(attempt!("wrpkru", in("rcx") 0, in("rax") 0, in("rdx") 0));
    same("written", written == UNDEFINED || written == PROTECTION, true)
}

/// An exception of the floating-point unit that is pending when a call is made: it comes afterwards, here.
fn pending_exception() -> Outcome {
    let page = Own::new();
    raw::store(page.at, 0x037b);
    for round in 0..40_u64 {
        let (number, argument) = if round % 2 == 0 { (call::XEN_VERSION, 0) } else { (call::SCHED_OP, sched::YIELD) };
        let result: i64;
        let raised = attempt!(
            "fninit
             fldcw [{at}]
             fld1
             fldz
             fdivp
             syscall
             mov rdi, rax
             fwait",
            at = in(reg) page.at, inout("rax") number => _, inout("rdi") argument => result, in("rsi") 0,
            out("rcx") _, out("r11") _
        );
        same("its answer", result, if round % 2 == 0 { VERSION as i64 } else { 0 })?;
        same("here", vector(raised), 16)?;
        same("cleared", vector(attempt!("fnclex; fninit; fwait")), NONE)?;
    }
    Ok(())
}

/// The second vCPU looks at what it has: nothing of the first's.
fn look() {
    // Steps of attacks before.
    set(6, 0);
    while !is_over() {
        let debug = [0, 1, 2, 3].iter().any(|register| get(*register) != 0);
        let control = get(7) != 0x400 || get(6) != 0xffff_0ff0;
        let bases = read_msr(0xc000_0100) != 0 || read_msr(0xc000_0102) != 0 || read_msr(0xc000_0101) != trap::block(1);
        let task = vector(attempt!("fnop")) != NONE;
        WRONG.fetch_add(u64::from(debug || control || bases || task), Ordering::SeqCst);
        ROUNDS.fetch_add(1, Ordering::SeqCst);
        give_way();
    }
}

/// Marks in every register that is switched: the other vCPU sees its own, and each keeps its own.
fn registers_of_each_vcpu() -> Outcome {
    WRONG.store(0, Ordering::SeqCst);
    ROUNDS.store(0, Ordering::SeqCst);
    let page = Own::new();
    for register in 0..4 {
        same("a mark", set(register, page.word(register)), 0)?;
    }
    same("control", set(7, 0x55), 0)?;
    same("status", set(6, 0xe00f), 0)?;
    same("base of FS", hypercall(call::SET_SEGMENT_BASE, [0, 0x7a67_1000, 0]), 0)?;
    same("user's base of GS", hypercall(call::SET_SEGMENT_BASE, [1, 0x7a67_2000, 0]), 0)?;
    let has_number = attempt!("wrmsr", in("rcx") 0xc000_0103_u64, in("rax") 0x7a67, in("rdx") 0).is_ok();
    let result = beside(look, || {
        while ROUNDS.load(Ordering::SeqCst) < 80 {
            same("switched off", hypercall(call::FPU_TASKSWITCH, [1, 0, 0]), 0)?;
            give_way();
            same("traps", vector(attempt!("fnop")), 7)?;
            for register in 0..4 {
                same("a mark", get(register), page.word(register) as i64)?;
            }
            same("control", get(7), 0x455)?;
            same("status", get(6), 0xffff_efff_i64)?;
            same("base of FS", read_msr(0xc000_0100), 0x7a67_1000)?;
            same("user's base of GS", read_msr(0xc000_0102), 0x7a67_2000)?;
            if has_number {
                same("its number", read_msr(0xc000_0103), 0x7a67)?;
            }
        }
        same("the other saw marks", WRONG.load(Ordering::SeqCst), 0)
    });
    for register in [7, 0, 1, 2, 3, 6] {
        same("none", set(register, 0), 0)?;
    }
    let _ = attempt!("wrmsr", in("rcx") 0xc000_0103_u64, in("rax") 0, in("rdx") 0);
    same("none", hypercall(call::SET_SEGMENT_BASE, [0, 0, 0]) + hypercall(call::SET_SEGMENT_BASE, [1, 0, 0]), 0)?;
    result
}

/// What `cpuid` answers by force: eax and ebx.
fn cpuid(leaf: u64, part: u64) -> [u64; 2] {
    let (first, second): (u64, u64);
    let _ = attempt!(
        "push rbx; .byte 0x0f, 0x0b, 0x78, 0x65, 0x6e; cpuid; mov {second}, rbx; pop rbx",
        second = out(reg) second, inout("rax") leaf => first, inout("rcx") part => _, out("rdx") _
    );
    [first, second]
}

/// All combinations of ten bits of XCR0, each bit, and other registers of that kind: what the processor says that there
/// is, with the parts that belong together.
fn extended_control() -> Outcome {
    let [there, _] = cpuid(0xd, 0);
    let write = |number: u64, value: u64| {
        let (low, high) = (value & 0xffff_ffff, value >> 32);
        vector(attempt!("xsetbv", in("rcx") number, in("rax") low, in("rdx") high))
    };
    let page = Own::new();
    for value in (0..1024_u64).chain((0..64).map(|bit| 1 << bit | 7)).chain([u64::MAX, 1 << 63, 0xffff_ffff]) {
        let is_good = value & 1 != 0 && value & 6 != 4 && value & !there == 0;
        let written = write(0, value);
        if there == 0 {
            same("there is none", written == PROTECTION || written == UNDEFINED, true)?;
            continue;
        }
        same("a value", written, if is_good { NONE } else { PROTECTION })?;
        if is_good {
            // Room for what it has now.
            let wanted = if value & 4 != 0 { 832 } else { 576 };
            same("the room for it", cpuid(0xd, 0)[1], wanted)?;
            write_state(page, 3);
            raw::load_state(page.at);
            give_way();
            raw::save_state(page.at);
            same("the state stays", raw::load(page.word(20)), 3_u64 << 32 | 20)?;
        }
    }
    for number in [1, 2, 31, 32, 0xffff_ffff, 1 << 31] {
        same("another register", write(number, 1) == NONE, false)?;
    }
    if there != 0 {
        same("as it was", write(0, 1), NONE)?;
    }
    let _ = attempt!("fninit");
    Ok(())
}

/// Each bit of the register that controls debugging.
fn debug_control() -> Outcome {
    for bit in 0..64 {
        let value = 1_u64 << bit;
        let (low, high) = (value & 0xffff_ffff, value >> 32);
        let written = attempt!("wrmsr", in("rcx") 0x1d9_u64, in("rax") low, in("rdx") high);
        same("a bit", vector(written), PROTECTION)?;
    }
    same("none", vector(attempt!("wrmsr", in("rcx") 0x1d9_u64, in("rax") 0, in("rdx") 0)), PROTECTION)?;
    same("read", vector(attempt!("rdmsr", in("rcx") 0x1d9_u64, out("rax") _, out("rdx") _)), PROTECTION)
}
