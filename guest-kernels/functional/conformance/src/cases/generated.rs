//! Cases that the table itself gives: what holds for every call alike.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use functional_support::program::Program;
use functional_support::user_code;
use guest_sdk::protocol::call::{self as table, CALLS, CallInfo};
use guest_sdk::protocol::flags::{CopyDirection, EventSource, GrantFlags, InfoTopic, IoWidth, MapFlags, SegmentBase};
use guest_sdk::protocol::shared::BatchEntry;
use guest_sdk::protocol::{Call, version};
use guest_sdk::timer::Timer;
use guest_sdk::user::Exit;
use guest_sdk::{Nanos, Port, SpaceId, StartInfo, Status, call, event, raw};

use crate::assembly::{self, PATTERNS, Registers, at};
use crate::case::{About, Case, Fault, Outcome};
use crate::{ensure, ensure_eq, record, scene};

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for info in CALLS {
        cases.extend(registers(info));
        cases.extend(arguments(info));
        cases.push(if info.in_batch { in_batch(info) } else { not_in_batch(info) });
    }
    let table: [(_, fn() -> Outcome); 4] = [
        ("every other number is no call", other_numbers),
        ("no call from user mode", user_mode),
        ("registers across upcalls", upcalls_in_kernel_mode),
        ("registers across upcalls in user mode", upcalls_in_user_mode),
    ];
    for (what, run) in table {
        cases.push(Case { about: About::Table, what: what.into(), clauses: &[], errors: vec![], run: Box::new(run) });
    }
    cases.push(Case::new(table::Info::NUMBER, "version of the table", &[], &[], version_of_the_table));
    cases
}

/// Arguments with which a call succeeds and does next to nothing; nothing for calls that need a
/// scene or do not return.
fn sample(number: u64) -> Option<[u64; 6]> {
    let buffer = scene::buffer();
    Some(match number {
        table::Info::NUMBER | table::YieldCpu::NUMBER | table::Block::NUMBER | table::EventDeliver::NUMBER => [0; 6],
        table::ConsoleWrite::NUMBER | table::ConsoleRead::NUMBER | table::LogWrite::NUMBER => [buffer, 0, 0, 0, 0, 0],
        table::TrapTableSet::NUMBER | table::MemoryBatch::NUMBER | table::Batch::NUMBER => [buffer, 0, 0, 0, 0, 0],
        table::TimerSet::NUMBER => [u64::MAX, 0, 0, 0, 0, 0],
        table::EntryPointsSet::NUMBER | table::SegmentBaseSet::NUMBER | table::DebugRegisterSet::NUMBER => [0; 6],
        table::SegmentBaseGet::NUMBER => [1, 0, 0, 0, 0, 0],
        table::DebugRegisterGet::NUMBER => [7, 0, 0, 0, 0, 0],
        table::Cpuid::NUMBER => [0, 0, buffer, 0, 0, 0],
        table::SpaceCreate::NUMBER | table::SpaceSwitch::NUMBER => [0; 6],
        table::Map::NUMBER | table::Unmap::NUMBER | table::Protect::NUMBER => [0, 0x1000, 0, 0, 0, 0],
        table::Translate::NUMBER => [0, buffer, 0, 0, 0, 0],
        table::FrameRelease::NUMBER | table::FrameReclaim::NUMBER => [0; 6],
        table::EventAlloc::NUMBER | table::VcpuKick::NUMBER => [0; 6],
        _ => return None,
    })
}

/// Undoes what a sample left.
fn clean_up(number: u64, rax: u64) -> Outcome {
    match number {
        table::SpaceCreate::NUMBER if rax < 64 => call::space_destroy(SpaceId(rax as u32))?,
        table::EventAlloc::NUMBER if rax < 256 => call::event_close(Port(rax as u32))?,
        table::EntryPointsSet::NUMBER => raw::trap::install_entry_points()?,
        table::VcpuKick::NUMBER => call::block(Nanos(0))?,
        table::TimerSet::NUMBER => call::timer_set(Nanos::NEVER)?,
        _ => {}
    }
    Ok(())
}

fn case(info: &CallInfo, what: &'static str, run: impl Fn() -> Outcome + 'static) -> Case {
    Case { about: About::Call(info.number), what: what.into(), clauses: &[], errors: vec![], run: Box::new(run) }
}

/// Only rax, rcx, r11 and, for a second result, rdx change: with arguments that succeed, and with
/// patterns as arguments.
fn registers(info: &'static CallInfo) -> Vec<Case> {
    let mut cases = Vec::new();
    if sample(info.number).is_some() {
        cases.push(case(info, "registers when it succeeds", || {
            let mut registers = PATTERNS;
            for (place, argument) in at::ARGUMENTS.into_iter().zip(sample(info.number).unwrap_or_default()) {
                registers[place] = argument;
            }
            let result = compare_registers(info, registers)?;
            ensure!(result.is_ok(), "answered {result:?}");
            let has_nothing_to_do = !info.arguments.is_empty() && info.result == "u64" && info.name != "info";
            ensure!(!has_nothing_to_do || result == Ok(0), "with nothing to do it answered {result:?}");
            clean_up(info.number, result.unwrap_or(u64::MAX))
        }));
    }
    // `block` would sleep for long; `exit` and `resume` do not come back with registers of their own.
    if ![table::Block::NUMBER, table::Exit::NUMBER, table::Resume::NUMBER].contains(&info.number) {
        cases.push(case(info, "registers with patterns as arguments", || {
            let result = compare_registers(info, PATTERNS)?;
            clean_up(info.number, result.unwrap_or(u64::MAX))
        }));
    }
    cases
}

/// Flags that compiled code and calls use: carry, parity, adjust, zero, sign, direction, overflow.
const FLAGS: u64 = 0xcd5;

fn compare_registers(info: &CallInfo, mut expected: Registers) -> Result<Result<u64, Status>, Fault> {
    expected[at::RAX] = info.number;
    let mut registers = expected;
    let wanted: [u128; 16] = core::array::from_fn(|index| 0x0123_4567_89ab_cdef_0011_2233_4455_6600 + index as u128);
    let mut vectors = wanted;
    assembly::call(&mut registers, &mut vectors);
    let rax = registers[at::RAX];
    record::note(info.number, rax);
    let result = Status::check_register(rax);
    let has_second = info.result_registers > 1 && result.is_ok();
    for (index, (found, wanted)) in registers.iter().zip(expected).enumerate() {
        let is_free = matches!(index, at::RAX | at::RCX | at::R11) || (has_second && index == at::RDX);
        if index == at::FLAGS {
            ensure_eq!(found & FLAGS, wanted & FLAGS, "flags");
        } else if !is_free {
            ensure_eq!(*found, wanted, "register {index}");
        }
    }
    ensure_eq!(vectors, wanted, "vector registers");
    Ok(result)
}

/// Values of a register that are none of a type; nothing for types that every register has a value
/// of.
fn wrong_values(kind: &str) -> Option<Vec<u64>> {
    let bits = |all: u64| (0..64).map(|bit| 1 << bit).filter(|bit| all & bit == 0).chain([u64::MAX]).collect();
    let choices = |known: Vec<u64>| -> Vec<u64> {
        let high: Vec<u64> = known.iter().map(|number| number | 1 << 32).collect();
        (0..=64).filter(|number| !known.contains(number)).chain(high).chain([u64::MAX]).collect()
    };
    Some(match kind {
        "u64" | "Gfn" | "GuestVirt" | "Nanos" => return None,
        "VmId" | "VcpuId" | "Port" | "SpaceId" | "GrantRef" | "u32" => vec![1 << 32, 1 << 63, u64::MAX],
        "MapFlags" => bits(MapFlags::all().bits()),
        "GrantFlags" => bits(GrantFlags::all().bits()),
        "InfoTopic" => choices(InfoTopic::ALL.iter().map(|(_, number, _)| *number).collect()),
        "EventSource" => choices(EventSource::ALL.iter().map(|(_, number, _)| *number).collect()),
        "SegmentBase" => choices(SegmentBase::ALL.iter().map(|(_, number, _)| *number).collect()),
        "IoWidth" => choices(IoWidth::ALL.iter().map(|(_, number, _)| *number).collect()),
        "CopyDirection" => choices(CopyDirection::ALL.iter().map(|(_, number, _)| *number).collect()),
        // A type that is new here: the case fails until it is told what is wrong for it.
        _ => Vec::new(),
    })
}

/// Each argument of a checked type, with every value that it cannot have.
fn arguments(info: &'static CallInfo) -> Vec<Case> {
    let arguments = info.arguments.iter().enumerate();
    let checked = arguments.filter_map(|(index, (name, kind, _))| Some((index, *name, *kind, wrong_values(kind)?)));
    let cases = checked.map(|(index, name, kind, values)| Case {
        about: About::Call(info.number),
        what: format!("{name} that is no {kind}").into(),
        clauses: match (kind, info.number) {
            ("InfoTopic", _) => &["INFO-2"],
            ("IoWidth", table::IoRead::NUMBER) => &["IO-3"],
            _ => &[],
        },
        errors: vec![Status::InvalidArgument],
        run: Box::new(move || {
            ensure!(!values.is_empty(), "the suite does not know which values are no {kind}");
            values.iter().try_for_each(|value| {
                let mut arguments = [0; 6];
                arguments[index] = *value;
                scene::refuse_raw(info.number, arguments, Status::InvalidArgument)
            })
        }),
    });
    cases.collect()
}

/// Makes calls in a batch, in pieces when it stops early; their results.
pub fn batch(calls: &[(u64, [u64; 6])]) -> Result<Vec<BatchEntry>, Fault> {
    let entry = |(number, arguments): &(u64, [u64; 6])| BatchEntry {
        number: *number,
        arguments: *arguments,
        result: 0x5555,
        second: 0x5555,
    };
    let mut entries: Vec<BatchEntry> = calls.iter().map(entry).collect();
    let mut done = 0;
    while done < entries.len() {
        let rest = entries.get_mut(done..).unwrap_or_default();
        let (address, count) = (rest.as_mut_ptr().expose_provenance() as u64, rest.len() as u64);
        let made = record::make(table::Batch { entries: guest_sdk::GuestVirt(address), count })?;
        ensure!(made > 0 && made <= count, "{made} calls of {count} were made");
        done += made as usize;
    }
    for entry in &entries {
        record::note(entry.number, entry.result);
    }
    Ok(entries)
}

/// What a batch must go on with.
const NEXT: (u64, [u64; 6]) = (table::Info::NUMBER, [0; 6]);

fn check_next(entry: &BatchEntry) -> Outcome {
    ensure_eq!(entry.result, version::CURRENT.packed(), "result of the call behind it");
    Ok(())
}

fn not_in_batch(info: &'static CallInfo) -> Case {
    Case {
        about: About::Call(info.number),
        what: "in a batch".into(),
        clauses: &["BAT-2"],
        errors: vec![Status::NotInBatch],
        run: Box::new(|| {
            let entries = batch(&[(info.number, [0; 6]), NEXT])?;
            ensure_eq!(Status::check_register(entries[0].result), Err(Status::NotInBatch), "in a batch");
            check_next(&entries[1])
        }),
    }
}

/// A call in a batch answers as alone. Calls without a sample are refused the same way.
fn in_batch(info: &'static CallInfo) -> Case {
    case(info, "in a batch", || {
        let arguments = sample(info.number).unwrap_or([u64::MAX; 6]);
        let alone = record::call(info.number, arguments);
        clean_up(info.number, alone.unwrap_or(u64::MAX))?;
        let entries = batch(&[(info.number, arguments), NEXT])?;
        let result = Status::check_register(entries[0].result);
        clean_up(info.number, result.unwrap_or(u64::MAX))?;
        ensure_eq!(result, alone, "in a batch");
        check_next(&entries[1])
    })
}

/// All 2^16 numbers and some beyond.
fn other_numbers() -> Outcome {
    let known = |number: u64| CALLS.iter().any(|call| call.number == number);
    let beyond = [1 << 16, 1 << 31, 1 << 32, (1 << 32) | 1, 1 << 63, u64::MAX];
    for number in (0..1 << 16).chain(beyond).filter(|number| !known(*number)) {
        let result = record::call(number, [u64::MAX; 6]);
        ensure_eq!(result, Err(Status::UnknownCall), "call {number}");
    }
    let entries = batch(&[(u64::MAX, [0; 6]), NEXT])?;
    ensure_eq!(Status::check_register(entries[0].result), Err(Status::UnknownCall), "in a batch");
    check_next(&entries[1])
}

user_code! {
    /// Makes a system call.
    ask:
        "syscall",
        "ud2",
}

/// `syscall` in user mode goes to the kernel, whatever number is in rax.
fn user_mode() -> Outcome {
    for number in CALLS.iter().map(|info| info.number).chain([4096, u64::MAX]) {
        let mut program = Program::new(ask())?;
        program.context.set_rax(number);
        ensure_eq!(program.run_on()?, Exit::Syscall, "`syscall` with {number}");
        ensure_eq!(program.context.rax(), number, "rax after `syscall` with {number}");
    }
    Ok(())
}

fn version_of_the_table() -> Outcome {
    let told = record::make(table::Info { topic: InfoTopic::Version })?;
    ensure_eq!(told, version::CURRENT.packed(), "version by call");
    ensure_eq!(StartInfo::of_this_vm().version, told, "version in the start info");
    Ok(())
}

static STOP: AtomicU8 = AtomicU8::new(0);
static TICKS: AtomicU32 = AtomicU32::new(0);

const TICK: Nanos = Nanos(200_000);
const ENOUGH: u32 = 30;

/// A timer each of whose upcalls arms the next, until [`STOP`] is told.
fn ticker() -> Result<Timer, Fault> {
    STOP.store(0, Ordering::Relaxed);
    TICKS.store(0, Ordering::Relaxed);
    let timer = Timer::new()?;
    timer.on_event(|_| {
        if TICKS.fetch_add(1, Ordering::Relaxed) >= ENOUGH {
            STOP.store(1, Ordering::Relaxed);
        }
        let _ = call::timer_set(Nanos(guest_sdk::time::now().0 + TICK.0));
    });
    timer.set_after(TICK)?;
    Ok(timer)
}

/// An upcall in kernel mode keeps every register, and the red zone.
fn upcalls_in_kernel_mode() -> Outcome {
    let _timer = ticker()?;
    event::unmask();
    let changed = assembly::spin(&STOP);
    event::mask();
    ensure_eq!(changed, 0, "registers and words that upcalls changed");
    ensure!(TICKS.load(Ordering::Relaxed) > ENOUGH, "the timer came too rarely");
    Ok(())
}

fn upcalls_in_user_mode() -> Outcome {
    let timer = ticker()?;
    let mut program = Program::new(spin_in_user_mode())?;
    timer.set_after(TICK)?;
    let mut events = 0;
    loop {
        match program.run()? {
            Exit::Event => events += 1,
            Exit::Syscall => break,
            Exit::Fault(fault) => return Err(Fault(format!("user mode: {fault:?}"))),
        }
    }
    let [changed, ..] = program.context.arguments();
    ensure_eq!(changed, 0, "what events in user mode changed");
    ensure!(events > 3, "only {events} events came in user mode");
    Ok(())
}

user_code! {
    /// Sets patterns, spins a while, and says by rdi how many registers had changed.
    spin_in_user_mode:
        "mov rbx, 0x1111111111111111",
        "lea rcx, [rbx + rbx]",
        "lea rdx, [rcx + rbx]",
        "lea rsi, [rdx + rbx]",
        "lea rbp, [rsi + rbx]",
        "lea r8, [rbp + rbx]",
        "lea r9, [r8 + rbx]",
        "lea r10, [r9 + rbx]",
        "lea r11, [r10 + rbx]",
        "lea r12, [r11 + rbx]",
        "lea r13, [r12 + rbx]",
        "lea r14, [r13 + rbx]",
        "lea r15, [r14 + rbx]",
        "mov eax, 30000000",
        "2:",
        "dec eax",
        "jnz 2b",
        "xor edi, edi",
        "mov rax, r15",
        "lea rbx, [rbx + r14]",
        "cmp rax, rbx",
        "setnz al",
        "movzx eax, al",
        "add edi, eax",
        // The patterns of rcx to r14 are 2 to 12 times the one of rbx: 77 in all.
        "lea rax, [rcx + rdx]",
        "add rax, rsi",
        "add rax, rbp",
        "add rax, r8",
        "add rax, r9",
        "add rax, r10",
        "add rax, r11",
        "add rax, r12",
        "add rax, r13",
        "add rax, r14",
        "mov rbx, 0x1111111111111111",
        "imul rbx, rbx, 77",
        "sub rax, rbx",
        "add rdi, rax",
        "syscall",
}
