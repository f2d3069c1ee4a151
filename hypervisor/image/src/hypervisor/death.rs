//! The end of a VM: why, what it was doing, and what happens next.

use alloc::borrow::Cow;
use core::fmt::Write as _;

use hv_arch::guest::{Registers, copy};
use hv_core::abi::native::entry::Mode;
use protocol::GuestVirt;
use protocol::manifest::OnCrash;
use protocol::record::{CallTrace, Crash, Ended, Record, Register, WalkStep, exit};

use super::cpu::{Cpu, work};
use super::machine::{After, Life, Vm, machine};
use super::text::Text;
use super::vcpu::Vcpu;
use super::{run, teardown};

use core::sync::atomic::Ordering;

/// Why a VM dies. Each has a page in `docs/errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// An exception came for which the kernel has no handler.
    Unhandled { vector: u64, address: u64 },
    /// The frame of a handler could not be written: the kernel stack is bad.
    NoStack { vector: u64 },
    /// User mode made a system call and the kernel has no entry for it.
    NoSystemCallEntry,
}

impl Cause {
    fn code(self) -> &'static str {
        match self {
            Cause::Unhandled { vector: 14, .. } => "HV-VM-002",
            Cause::Unhandled { .. } => "HV-VM-001",
            Cause::NoStack { .. } => "HV-VM-003",
            Cause::NoSystemCallEntry => "HV-VM-004",
        }
    }

    fn vector(self) -> Option<u64> {
        match self {
            Cause::Unhandled { vector, .. } | Cause::NoStack { vector } => Some(vector),
            Cause::NoSystemCallEntry => None,
        }
    }

    /// The sentence for people.
    fn describe(self, registers: &Registers, text: &mut Text) {
        // A sentence that is too long is cut, which `Text` does by itself.
        let _ = match self {
            Cause::Unhandled { vector: 14, address } => write!(
                text,
                "page fault at {address:#x} ({}), and no handler for exception 14",
                access(registers.error_code)
            ),
            Cause::Unhandled { vector, .. } => {
                write!(text, "{}, and no handler for exception {vector}", exception_name(vector))
            }
            Cause::NoStack { vector } => write!(
                text,
                "the kernel stack cannot hold the frame of {} (stack pointer {:#x})",
                exception_name(vector),
                registers.rsp
            ),
            Cause::NoSystemCallEntry => {
                write!(text, "a system call from user mode, and no entry for system calls")
            }
        };
    }
}

/// What a page fault's error code says (Intel SDM volume 3, 4.7).
fn access(error: u64) -> &'static str {
    match (error & 16 != 0, error & 2 != 0, error & 1 != 0) {
        (true, _, false) => "execution of a page that is not mapped",
        (true, _, true) => "execution of a page that may not be executed",
        (false, true, false) => "write to a page that is not mapped",
        (false, true, true) => "write to a page that may not be written",
        (false, false, false) => "read of a page that is not mapped",
        (false, false, true) => "read of a page that is not the guest's",
    }
}

/// The architecture's names (Intel SDM volume 3, table 6-1).
fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        19 => "SIMD error",
        20 => "virtualization exception",
        21 => "control protection",
        32 => "a system call",
        33 => "an event",
        _ => "exception",
    }
}

/// Ends a VM because of what its running vCPU did.
pub(super) fn die(cpu: &Cpu, vcpu: &Vcpu, registers: &Registers, cause: &Cause) {
    let vm = vcpu.vm();
    let after = match on_crash(vm) {
        OnCrash::Restart(_) if take_restart(vm) => After::Restart,
        OnCrash::Stop | OnCrash::HaltAll | OnCrash::Restart(_) => After::Nothing,
    };
    if vm.change_life(Life::Live, Life::Ending(after)) {
        machine().failed.fetch_add(1, Ordering::SeqCst);
        machine().ending.fetch_add(1, Ordering::SeqCst);
        report(vcpu, registers, *cause);
        teardown::stop_all(vm);
        if on_crash(vm) == OnCrash::HaltAll {
            run::halt_machine(exit::VM_FAILED);
        }
    }
    cpu.ask(work::RESCHEDULE);
}

/// Ends a VM because it asked to.
pub(super) fn end(cpu: &Cpu, vm: &'static Vm, code: u64) {
    if vm.change_life(Life::Live, Life::Ending(After::Nothing)) {
        machine().ending.fetch_add(1, Ordering::SeqCst);
        if code != 0 {
            machine().failed.fetch_add(1, Ordering::SeqCst);
        }
        teardown::stop_all(vm);
        let cpu_time_ns = run::cpu_time(vm);
        let mut line = machine().line.lock();
        line.console.close(vm.id);
        line.record(&Record::Ended(Ended { vm: vm.id, code, cpu_time_ns }));
        line.say(format_args!("{} ended with code {code}", vm.name()));
    }
    cpu.ask(work::RESCHEDULE);
}

fn on_crash(vm: &Vm) -> OnCrash {
    let index = usize::try_from(vm.id.0).unwrap_or(usize::MAX);
    machine().image.manifest().vms.get(index).map_or(OnCrash::Stop, |entry| entry.on_crash)
}

/// Uses up one of the VM's restarts.
fn take_restart(vm: &Vm) -> bool {
    vm.restarts_left
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        .is_ok()
}

/// Bytes of code that a report shows.
const CODE_BYTES: usize = 16;

/// Reports a death: a line for people, and a record from which tools make the full report.
fn report(vcpu: &Vcpu, registers: &Registers, cause: Cause) {
    let vm = vcpu.vm();
    let mut reason = Text::new();
    cause.describe(registers, &mut reason);
    let fault_address = match cause {
        Cause::Unhandled { vector: 14, address } => Some(address),
        Cause::Unhandled { .. } | Cause::NoStack { .. } | Cause::NoSystemCallEntry => None,
    };
    let mut code = [0; CODE_BYTES];
    let code_length = read_code(registers.rip, &mut code);
    let mut walk = [WalkStep { level: 0, index: 0, flags: 0 }; 4];
    let walked = walk_pages(vcpu, fault_address.unwrap_or(registers.rip), &mut walk);
    let mut calls = [CallTrace { number: 0, arguments: [0; 2], result: 0 }; 16];
    let mut traced = 0_usize;
    for (slot, [number, first, second, result]) in calls.iter_mut().zip(vcpu.trace.newest_first()) {
        *slot = CallTrace { number, arguments: [first, second], result };
        traced = traced.saturating_add(1);
    }
    let named = named(registers);
    let record = Record::Crash(Crash {
        vm: vm.id,
        vcpu: vcpu.id,
        code: Cow::Borrowed(cause.code()),
        reason: Cow::Borrowed(reason.as_str()),
        kernel_mode: vcpu.mode() == Mode::Kernel,
        vector: cause.vector().and_then(|vector| u8::try_from(vector).ok()),
        error_code: registers.error_code,
        fault_address,
        registers: Cow::Borrowed(&named),
        code_bytes: Cow::Borrowed(code.get(..code_length).unwrap_or(&[])),
        page_walk: Cow::Borrowed(walk.get(..walked).unwrap_or(&[])),
        last_calls: Cow::Borrowed(calls.get(..traced).unwrap_or(&[])),
    });
    let mode = if vcpu.mode() == Mode::Kernel { "kernel" } else { "user" };
    let mut line = machine().line.lock();
    line.console.close(vm.id);
    line.say(format_args!("error[{}]: {} died: {reason}", cause.code(), vm.name()));
    line.say(format_args!(
        "  vCPU {}, {mode} mode, rip {:#x}, rsp {:#x}, error code {:#x}",
        vcpu.id, registers.rip, registers.rsp, registers.error_code
    ));
    line.record(&record);
}

/// Reads the bytes at an instruction pointer, as many as can be read.
fn read_code(rip: u64, into: &mut [u8; CODE_BYTES]) -> usize {
    (0..CODE_BYTES)
        .take_while(|at| {
            let address = GuestVirt(rip.wrapping_add(hv_core::addr::convert::wide(*at)));
            into.get_mut(*at..at.wrapping_add(1)).is_some_and(|byte| copy::read(address, byte).is_ok())
        })
        .count()
}

/// Walks the tables to an address.
fn walk_pages(vcpu: &Vcpu, address: u64, into: &mut [WalkStep; 4]) -> usize {
    let Ok(memory) = vcpu.vm().memory() else {
        return 0;
    };
    let walk = memory.page_walk(machine().memory(), vcpu.space(), GuestVirt(address));
    let mut steps = 0_usize;
    for (slot, step) in into.iter_mut().zip(walk.steps()) {
        *slot = step;
        steps = steps.saturating_add(1);
    }
    steps
}

/// The registers with their names.
fn named(registers: &Registers) -> [Register<'static>; 18] {
    [
        ("rax", registers.rax),
        ("rbx", registers.rbx),
        ("rcx", registers.rcx),
        ("rdx", registers.rdx),
        ("rsi", registers.rsi),
        ("rdi", registers.rdi),
        ("rbp", registers.rbp),
        ("rsp", registers.rsp),
        ("r8", registers.r8),
        ("r9", registers.r9),
        ("r10", registers.r10),
        ("r11", registers.r11),
        ("r12", registers.r12),
        ("r13", registers.r13),
        ("r14", registers.r14),
        ("r15", registers.r15),
        ("rip", registers.rip),
        ("rflags", registers.rflags),
    ]
    .map(|(name, value)| Register { name: Cow::Borrowed(name), value })
}
