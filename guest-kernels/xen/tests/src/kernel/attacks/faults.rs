//! Exceptions: frames at the ends of pages, gates of every vector, faults without end, steps over calls, selectors that
//! go stale.

use core::sync::atomic::{AtomicU64, Ordering};

use protocol::xen::structure::TrapInfo;
use protocol::xen::{Errno, VERSION, call, event, mmuext, sched, vcpu};

use super::{Attack, Outcome, same};
use crate::kernel::abi::events::{number, virq};
use crate::kernel::abi::{HOLE, HYPERVISOR};
use crate::kernel::raw::{self, attempt};
use crate::kernel::smp::{beside, give_way, is_over};
use crate::kernel::trap;
use crate::kernel::world::{Own, RO, RW, error, extended, hypercall, info, shared, user_tree};

/// In the order in which they run.
pub const ALL: &[Attack] = &[
    ("EX-04", frames_at_the_ends_of_pages),
    ("EX-07", gates_of_every_vector),
    ("EX-11", faults_without_end),
    ("EX-12", steps_over_calls),
    ("EX-16", stale_selectors),
    ("EX-20", random_addresses),
    ("IO-06", deadlines),
];

/// Frames at each place of a stack whose pages lie side by side: each stands whole where the stack pointer says.
fn frames_at_the_ends_of_pages() -> Outcome {
    let stack: [Own; 5] = Own::several();
    let base = stack[3].at;
    for offset in (0..300).chain(4000..4100) {
        let top = base + offset;
        let trap = attempt!(
            "mov gs:[32], rsp
             mov rsp, {top}
             ud2",
            top = in(reg) top
        );
        let Err(trap) = trap else { return same("no trap", top, 0) };
        same("its vector", trap.vector, 6_u64)?;
        same("the stack pointer", trap.rsp, top)?;
        same("right below it", trap.frame + 7 * 8, top & !15)?;
        let trap = attempt!(
            "mov gs:[32], rsp
             mov rsp, {top}
             mov [{hole}], {hole}",
            top = in(reg) top, hole = in(reg) HOLE
        );
        let Err(trap) = trap else { return same("no trap", top, 0) };
        same("with an error code", (trap.vector << 16) + trap.code, 13_u64 << 16)?;
        same("the stack pointer", trap.rsp, top)?;
        same("all words in their order", trap.ss << 16 | trap.cs & 0xffff, 0xe02b_e030_u64)?;
    }
    // From user mode at the kernel's stack, wherever that ends.
    let [code, user_stack] = Own::several();
    for (at, byte) in [0x0f, 0x0b].into_iter().enumerate() {
        raw::store_byte(code.at + at as u64, byte);
    }
    let [root, ..] = user_tree(&[(0, code.entry(RO)), (1, user_stack.entry(RW))]);
    same("user root", extended(mmuext::NEW_USER_BASEPTR, root.frame, 0), 0)?;
    for offset in (0..64).chain(4080..4097) {
        let top = base + offset;
        same("a stack", hypercall(call::STACK_SWITCH, [0xe02b, top, 0]), 0)?;
        raw::enter_user(0x40_0000, 0x40_2000, 0, 2);
        same("its vector", trap::last().vector, 6_u64)?;
        same("right below it", trap::last().frame + 7 * 8, top & !15)?;
        same("the stack pointer of user mode", trap::last().rsp, 0x40_2000_u64)?;
    }
    same("none", extended(mmuext::NEW_USER_BASEPTR, 0, 0), 0)
}

/// Vectors whose gates lead to the hypervisor without a question.
fn is_open(vector: u64) -> bool {
    matches!(vector, 3 | 4 | 0x80)
}

/// Each vector raised by an instruction, in each mode, with a handler for each level, and without one.
fn gates_of_every_vector() -> Outcome {
    let [code, stack, kernel_stack] = Own::several();
    let [root, ..] = user_tree(&[(0, code.entry(RO)), (1, stack.entry(RW))]);
    same("user root", extended(mmuext::NEW_USER_BASEPTR, root.frame, 0), 0)?;
    hypercall(call::STACK_SWITCH, [0xe02b, kernel_stack.at + 4096, 0]);
    // int; syscall; ud2.
    [0xcd, 0, 0x0f, 0x05, 0x0f, 0x0b]
        .into_iter()
        .enumerate()
        .for_each(|(at, byte)| raw::store_byte(code.at + at as u64, byte));
    let end = TrapInfo::default();
    let result = (0..256_u64).filter(|vector| !matches!(vector, 13)).try_for_each(|vector| {
        raw::store_byte(code.at + 1, vector as u8);
        for level in 0..4_u8 {
            // One handler for all: it says 33.
            let handler = TrapInfo { vector: vector as u8, flags: 4 | level, address: raw::handler(33), ..end };
            same("a handler", hypercall(call::SET_TRAP_TABLE, [[handler, end].as_ptr() as u64, 0, 0]), 0)?;
            let at = code.at;
            let taken = raw::try_jump(at).map_or((0, 0), |trap| (trap.vector, trap.code));
            let is_taken = is_open(vector) || level >= 1;
            same("by the kernel", taken == if is_taken { (33, 0) } else { (13, vector << 3 | 2) }, true)?;
            same("where it is", trap::last().rip, if is_taken { at + 2 } else { at })?;
            raw::enter_user(0x40_0000, 0x40_2000, 0, 2);
            let taken = (trap::last().vector, trap::last().code);
            let is_taken = is_open(vector) || level >= 3;
            same("by user mode", taken == if is_taken { (33, 0) } else { (13, vector << 3 | 2) }, true)?;
            same("where it is", trap::last().rip, if is_taken { 0x40_0002_u64 } else { 0x40_0000 })?;
        }
        hypercall(call::SET_TRAP_TABLE, [0, 0, 0]);
        trap::install(0);
        Ok(())
    });
    trap::install(0);
    result?;
    // As it is after the last: those of the usual table.
    same("an undefined instruction", attempt!("ud2").err().map_or(0, |trap| trap.vector), 6_u64)?;
    same("none", extended(mmuext::NEW_USER_BASEPTR, 0, 0), 0)
}

/// What the second vCPU did.
static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Faults without end on one vCPU: the other goes on. Then each kind on this one.
fn faults_without_end() -> Outcome {
    fn fault() {
        while !is_over() {
            for page in 0..8 {
                let _ = raw::try_load(HYPERVISOR + page * 4096, 0);
                let _ = raw::try_store(0x40_0000 + page * 4096, 0);
            }
            let _ = raw::try_load(HOLE, 0);
            let _ = attempt!("ud2");
            let _ = attempt!("pushfq; or dword ptr [rsp], 0x100; popfq; nop; nop");
            FAULTS.fetch_add(1, Ordering::SeqCst);
        }
    }
    FAULTS.store(0, Ordering::SeqCst);
    beside(fault, || {
        let mut rounds = 0_u64;
        while FAULTS.load(Ordering::SeqCst) < 60 {
            same("a call", hypercall(call::XEN_VERSION, [0, 0, 0]), VERSION as i64)?;
            rounds += 1;
            if rounds.is_multiple_of(64) {
                give_way();
            }
        }
        Ok(())
    })?;
    let page = Own::new();
    for _ in 0..1_000 {
        let outcome = attempt!("push 0x40202; popfq; mov {x}, [{at} + 1]", at = in(reg) page.at, x = out(reg) _);
        let raised = outcome.err().map_or(17, |trap| trap.vector);
        same("an alignment check or none", raised, 17_u64)?;
        let _ = attempt!("push 2; popfq");
    }
    Ok(())
}

/// The trap flag over calls and over instructions that the hypervisor does in the guest's place: one step is reported,
/// behind them.
fn steps_over_calls() -> Outcome {
    for number in [call::XEN_VERSION, 63, u64::MAX, call::VM_ASSIST] {
        let before = trap::count();
        let start: u64;
        let step = attempt!(
            "lea {start}, [rip + 2f]
             push 0x302
             popfq
             2:
             syscall
             nop
             nop
             nop",
            start = out(reg) start, inout("rax") number => _, in("rdi") 0, in("rsi") 99, out("rcx") _, out("r11") _
        );
        let Err(step) = step else { return same("no step", number, 0) };
        same("a step", step.vector, 1_u64)?;
        same("behind the call", (2..5).contains(&(step.rip - start)), true)?;
        same("one", trap::count() - before, 1)?;
        same("its status", hypercall(call::GET_DEBUGREG, [6, 0, 0]) & 0x4000, 0x4000)?;
        same("cleared", hypercall(call::SET_DEBUGREG, [6, 0, 0]), 0)?;
    }
    let before = trap::count();
    let start: u64;
    // Read of CR0: done in its place.
    let step = attempt!(
        "lea {start}, [rip + 2f]
         push 0x302
         popfq
         2:
         mov rax, cr0
         nop
         nop",
        start = out(reg) start, out("rax") _
    );
    let Err(step) = step else { return same("no step", 0, 1) };
    same("a step behind it", (step.vector << 8) + step.rip - start, (1_u64 << 8) + 3)?;
    same("one", trap::count() - before, 1)?;
    // A handler starts without the flag.
    let outcome = attempt!("push 0x302; popfq; int3").err();
    same("the exception, or the step before", outcome.is_some_and(|trap| matches!(trap.vector, 1 | 3)), true)?;
    same("cleared", hypercall(call::SET_DEBUGREG, [6, 0, 0]), 0)
}

/// The table of both vCPUs, and the selectors that they use.
static TABLE: AtomicU64 = AtomicU64::new(0);
static LOADED: AtomicU64 = AtomicU64::new(0);
static KINDS: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
const CODE: u64 = 0x00af_fb00_0000_ffff;
const DATA: u64 = 0x00cf_f300_0000_ffff;
/// Entries of code and of data.
const CODE_ENTRY: u64 = 6;
const DATA_ENTRY: u64 = 7;

/// The second vCPU runs by a code segment of its own, until that is none any more.
fn run_by_own_code() {
    let frame = TABLE.load(Ordering::SeqCst);
    let _ = hypercall(call::SET_GDT, [(&raw const frame) as u64, 512, 0]);
    while !is_over() {
        let stop = crate::kernel::smp::STOP.as_ptr() as u64;
        let loaded = LOADED.as_ptr() as u64;
        let outcome = attempt!(
            "mov gs:[32], rsp
             push {selector}
             lea {scratch}, [rip + 2f]
             push {scratch}
             retfq
             2:
             mov qword ptr [{loaded}], 1
             3:
             pause
             cmp byte ptr [{stop}], 0
             je 3b
             push 0xe033
             lea {scratch}, [rip + 4f]
             push {scratch}
             retfq
             4:
             mov qword ptr gs:[32], 0",
            selector = in(reg) CODE_ENTRY << 3 | 3, scratch = out(reg) _, stop = in(reg) stop, loaded = in(reg) loaded
        );
        LOADED.store(0, Ordering::SeqCst);
        if let Err(trap) = outcome {
            // Vectors 11 to 14 by their own place, others together; the error code must name the selector.
            let is_named = trap.code == CODE_ENTRY << 3 && matches!(trap.vector, 11 | 13);
            KINDS[if is_named { trap.vector as usize } else { 0 }].fetch_add(1, Ordering::SeqCst);
        }
        give_way();
    }
    let _ = hypercall(call::SET_GDT, [0, 0, 0]);
}

/// Selectors of one's own table that name nothing any more: in data segment registers over a switch, and in the code
/// segment under the other vCPU, where the way back to the guest faults.
fn stale_selectors() -> Outcome {
    let table = Own::new();
    raw::store(table.word(CODE_ENTRY), CODE);
    raw::store(table.word(DATA_ENTRY), DATA);
    table.read_only();
    let write = |entry: u64, word: u64| hypercall(call::UPDATE_DESCRIPTOR, [table.machine(entry), word, 0]);
    same("a table", hypercall(call::SET_GDT, [(&raw const table.frame) as u64, 512, 0]), 0)?;
    let selector = DATA_ENTRY << 3 | 3;
    for word in [0, DATA & !(1 << 47), 0x00cf_f100_0000_ffff, DATA, CODE] {
        for _ in 0..6 {
            same("there", write(DATA_ENTRY, DATA), 0)?;
            let loaded = attempt!(
                "mov ds, {selector:x}
                 mov es, {selector:x}
                 mov fs, {selector:x}",
                selector = in(reg) selector
            );
            same("loaded", loaded.is_ok(), true)?;
            same("changed", write(DATA_ENTRY, word), 0)?;
            for _ in 0..3 {
                give_way();
                let yielded = hypercall(call::SCHED_OP, [sched::YIELD, 0, 0]);
                same("goes on", yielded, 0)?;
            }
            let (ds, es, fs): (u64, u64, u64);
            let read = attempt!(
                "mov {ds:e}, ds
                 mov {es:e}, es
                 mov {fs:e}, fs",
                ds = out(reg) ds, es = out(reg) es, fs = out(reg) fs
            );
            same("read", read.is_ok(), true)?;
            for register in [ds, es, fs] {
                same("what it was, or null", register == selector || register == 0, true)?;
            }
            let _ = attempt!("mov ds, {null:x}; mov es, {null:x}; mov fs, {null:x}", null = in(reg) 0);
        }
    }
    same("none", hypercall(call::SET_GDT, [0, 0, 0]), 0)?;
    TABLE.store(table.frame, Ordering::SeqCst);
    LOADED.store(0, Ordering::SeqCst);
    KINDS.iter().for_each(|kind| kind.store(0, Ordering::SeqCst));
    let result = beside(run_by_own_code, || {
        for round in 0..9_usize {
            while LOADED.load(Ordering::SeqCst) == 0 {
                give_way();
            }
            // Nothing; not present; data; code that is not for 64 bits.
            let (word, kind) = [(0, 13), (CODE & !(1 << 47), 11), (DATA, 13)][round % 3];
            let before = KINDS[kind].load(Ordering::SeqCst);
            same("changed", write(CODE_ENTRY, word), 0)?;
            let mut tries = 0_u64;
            while KINDS[kind].load(Ordering::SeqCst) == before && tries < 5_000 {
                // Interrupts the other vCPU, if it runs.
                same("all forget", extended(mmuext::TLB_FLUSH_ALL, 0, 0), 0)?;
                give_way();
                tries += 1;
            }
            same("a fault in the guest", KINDS[kind].load(Ordering::SeqCst) > before, true)?;
            same("with another code", KINDS[0].load(Ordering::SeqCst), 0)?;
            same("there again", write(CODE_ENTRY, CODE), 0)?;
        }
        Ok(())
    });
    let _ = write(CODE_ENTRY, CODE);
    result
}

/// Thousands of accesses to random addresses: the fault is that of the access.
fn random_addresses() -> Outcome {
    let mut seed = 0x1234_5678_9abc_def1_u64;
    for _ in 0..2_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // Nothing is below the hole here, nor far above the kernel's start.
        let address =
            if seed & 1 == 0 { seed & 0x7fff_ffff_fff8 } else { 0xffff_9000_0000_0000 | seed & 0x3fff_ffff_fff8 };
        let read = raw::try_load(address, 0).err().map_or((0, 0, 0), |trap| (trap.vector, trap.code, trap.address));
        same("a read", read == (14, 0, address), true)?;
        let write =
            raw::try_store(address, seed).err().map_or((0, 0, 0), |trap| (trap.vector, trap.code, trap.address));
        same("a write", write == (14, 2, address), true)?;
        let jump = raw::try_jump(address).map_or((0, 0, 0), |trap| (trap.vector, trap.code, trap.address));
        same("a jump", jump == (14, 0x10, address), true)?;
    }
    // No other exception changes the address.
    let address = raw::load(info(0) + 16);
    for _ in 0..20 {
        let _ = attempt!("ud2");
        let _ = raw::try_load(HOLE, 0);
        let _ = attempt!("int 200");
        same("the address", raw::load(info(0) + 16), address)?;
    }
    Ok(())
}

/// What the time of the VM is, or a little less: what its first vCPU spent on everything.
fn now() -> u64 {
    let mut state = protocol::xen::structure::RunstateInfo::default();
    let _ = hypercall(call::VCPU_OP, [vcpu::GET_RUNSTATE, 0, (&raw mut state) as u64]);
    let state = core::hint::black_box(state);
    state.time.iter().sum::<u64>().max(state.state_entry_time)
}

/// Timers and sleeps until 0, the past, now, the far future and never: each call answers, what is past comes, and what
/// is far does not.
fn deadlines() -> Outcome {
    let mask = raw::load_byte(info(0) + 1);
    raw::store_byte(info(0) + 1, 1);
    let (bound, timer) = virq(event::VIRQ_TIMER, 0);
    let word = shared() + 2048 + u64::from(timer / 64) * 8;
    let bit = 1_u64 << (timer % 64);
    let came = || {
        let mut tries = 0;
        while raw::load(word) & bit == 0 && tries < 20_000 {
            give_way();
            tries += 1;
        }
        let came = raw::load(word) & bit != 0;
        raw::store(word, raw::load(word) & !bit);
        came
    };
    let single = |deadline: u64| {
        let timer = [deadline, 0];
        hypercall(call::VCPU_OP, [vcpu::SET_SINGLESHOT_TIMER, 0, timer.as_ptr() as u64])
    };
    let period = |period: u64| hypercall(call::VCPU_OP, [vcpu::SET_PERIODIC_TIMER, 0, (&raw const period) as u64]);
    let check = || {
        same("bound", bound, 0)?;
        let start = now();
        for deadline in [1, 2, start - 1, start, start + 1, start + 1000] {
            same("a timer", hypercall(call::SET_TIMER_OP, [deadline, 0, 0]), 0)?;
            same("comes", came(), true)?;
            same("a single one", single(deadline), 0)?;
            same("comes", came(), true)?;
        }
        same("a single one at the beginning", single(0), 0)?;
        same("comes", came(), true)?;
        for deadline in [1 << 49, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX] {
            for _ in 0..10 {
                same("far", single(deadline), 0)?;
            }
            same("period", period(deadline), 0)?;
            (0..20).for_each(|_| give_way());
            same("does not come", raw::load(word) & bit, 0)?;
            same("no period", hypercall(call::VCPU_OP, [vcpu::STOP_PERIODIC_TIMER, 0, 0]), 0)?;
            same("none", hypercall(call::VCPU_OP, [vcpu::STOP_SINGLESHOT_TIMER, 0, 0]), 0)?;
            // So far ahead that the guest cannot mean it: it comes soon.
            same("a timer", hypercall(call::SET_TIMER_OP, [deadline, 0, 0]), 0)?;
            same("none", hypercall(call::SET_TIMER_OP, [0, 0, 0]), 0)?;
        }
        for wrong in [0, 1, 999_999] {
            same("too short a period", period(wrong), error(Errno::Invalid))?;
        }
        same("the shortest", period(1_000_000), 0)?;
        for _ in 0..3 {
            same("comes", came(), true)?;
        }
        same("no period", hypercall(call::VCPU_OP, [vcpu::STOP_PERIODIC_TIMER, 0, 0]), 0)?;
        raw::store(word, raw::load(word) & !bit);
        // It is taken from both at once when it ends.
        same("a single one", single(1), 0)?;
        same("none", hypercall(call::VCPU_OP, [vcpu::STOP_SINGLESHOT_TIMER, 0, 0]), 0)
    };
    let result = check();
    same("none", hypercall(call::SET_TIMER_OP, [0, 0, 0]), 0)?;
    same("no period", hypercall(call::VCPU_OP, [vcpu::STOP_PERIODIC_TIMER, 0, 0]), 0)?;
    same("closed", number(event::CLOSE, timer), 0)?;
    (0..20).for_each(|_| give_way());
    raw::store(word, raw::load(word) & !bit);
    raw::store(info(0) + 8, 0);
    raw::store_byte(info(0), 0);
    raw::store_byte(info(0) + 1, mask);
    result
}
