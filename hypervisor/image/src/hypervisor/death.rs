//! The end of a VM: why, what it was doing, and what happens next.

use alloc::borrow::Cow;

use hv_arch::guest::{Registers, copy};
use hv_core::abi::native::entry::Mode;
use protocol::GuestVirt;
use protocol::audit::AuditKind;
use protocol::manifest::OnCrash;
use protocol::record::{CallTrace, Crash, Ended, Record, Register, WalkStep, exit};

use super::cpu::{Cpu, work};
use super::machine::{After, Life, Vm, machine};
use super::vcpu::Vcpu;
use super::{audit, run, teardown};

use core::sync::atomic::Ordering;

/// Why a VM dies. Each has a page in `docs/errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// An exception came for which the kernel has no handler.
    Unhandled { vector: u64, address: u64 },
    /// The frame of a handler could not be written: the kernel stack is bad.
    NoStack { vector: u64, stack: u64 },
    /// User mode made a system call and the kernel has no entry for it.
    NoSystemCallEntry,
    /// Its share of the audit log was full when something was to be recorded.
    AuditFull,
    /// It said that it crashed, with Xen's number for the reason.
    #[cfg(feature = "xen")]
    OwnWord { reason: u32 },
    /// It went on in user mode without tables for it.
    #[cfg(feature = "xen")]
    NoUserRoot,
}

impl Cause {
    /// Stable code, and a sentence. Tools say more, from the record.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Cause::Unhandled { vector: PAGE_FAULT, .. } => ("HV-VM-002", "page fault, and no handler for exception 14"),
            Cause::Unhandled { .. } => ("HV-VM-001", "an exception for which its kernel has no handler"),
            Cause::NoStack { .. } => ("HV-VM-003", "the kernel stack cannot hold the frame of a handler"),
            Cause::NoSystemCallEntry => ("HV-VM-004", "a system call from user mode, and no entry for system calls"),
            Cause::AuditFull => ("HV-VM-005", "its share of the audit log is full, and the policy ends who fills it"),
            #[cfg(feature = "xen")]
            Cause::OwnWord { reason: 4 } => ("HV-VM-006", "its own watchdog ended it"),
            #[cfg(feature = "xen")]
            Cause::OwnWord { .. } => ("HV-VM-006", "its kernel says that it crashed"),
            #[cfg(feature = "xen")]
            Cause::NoUserRoot => ("HV-VM-007", "it went on in user mode without page tables for it"),
        }
    }

    fn vector(self) -> Option<u8> {
        match self {
            Cause::Unhandled { vector, .. } | Cause::NoStack { vector, .. } => u8::try_from(vector).ok(),
            Cause::NoSystemCallEntry | Cause::AuditFull => None,
            #[cfg(feature = "xen")]
            Cause::OwnWord { .. } | Cause::NoUserRoot => None,
        }
    }

    /// The address that the page walk is about.
    const fn fault_address(self) -> Option<u64> {
        match self {
            Cause::Unhandled { vector: PAGE_FAULT, address } => Some(address),
            Cause::NoStack { stack, .. } => Some(stack),
            Cause::Unhandled { .. } | Cause::NoSystemCallEntry | Cause::AuditFull => None,
            #[cfg(feature = "xen")]
            Cause::OwnWord { .. } | Cause::NoUserRoot => None,
        }
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
        vm.partition().ending.fetch_add(1, Ordering::SeqCst);
        report(vcpu, registers, *cause);
        audit::record(vm, AuditKind::VmCrashed, [registers.rip, 0]);
        teardown::stop_all(vm);
        if on_crash(vm) == OnCrash::HaltAll {
            audit::record(vm, AuditKind::HaltAll, [0; 2]);
            if let Some(domain) = &vm.xen {
                domain.report_unknown(vm);
            }
            run::halt_machine(exit::VM_FAILED);
        }
    }
    cpu.ask(work::RESCHEDULE);
}

/// Ends a VM because it asked to.
pub(super) fn end(cpu: &Cpu, vm: &'static Vm, code: u64) {
    if vm.change_life(Life::Live, Life::Ending(After::Nothing)) {
        vm.partition().ending.fetch_add(1, Ordering::SeqCst);
        if code != 0 {
            machine().failed.fetch_add(1, Ordering::SeqCst);
        }
        teardown::stop_all(vm);
        audit::record(vm, AuditKind::VmEnded, [code, 0]);
        let cpu_time_ns = run::cpu_time(vm);
        let mut line = machine().line.lock();
        line.console.close(vm.id);
        line.record(&Record::Ended(Ended { vm: vm.id, code, cpu_time_ns }));
        line.say(format_args!("{} ended with code {code}", vm.name()));
    }
    cpu.ask(work::RESCHEDULE);
}

/// Ends a VM for the person at the line. That is no failure, and it does not start again.
pub(super) fn end_as_asked(vm: &'static Vm) {
    if vm.change_life(Life::Live, Life::Ending(After::Nothing)) {
        vm.partition().ending.fetch_add(1, Ordering::SeqCst);
        teardown::stop_all(vm);
        audit::record(vm, AuditKind::VmEndedAtConsole, [0; 2]);
        let mut line = machine().line.lock();
        line.console.close(vm.id);
        line.say(format_args!("{} was ended at the console", vm.name()));
    }
    super::cpu::own().ask(work::RESCHEDULE);
}

/// Ends a VM that asked to be started again: it is, if its system file says so of crashes; else it is over,
/// and well.
#[cfg(feature = "xen")]
pub(super) fn end_to_restart(cpu: &Cpu, vm: &'static Vm) {
    if !matches!(on_crash(vm), OnCrash::Restart(_)) || !take_restart(vm) {
        let mut line = machine().line.lock();
        line.say(format_args!(
            "{} asks to be started again; its system file does not say so, or not so often",
            vm.name()
        ));
        drop(line);
        return end(cpu, vm, 0);
    }
    if vm.change_life(Life::Live, Life::Ending(After::Restart)) {
        vm.partition().ending.fetch_add(1, Ordering::SeqCst);
        audit::record(vm, AuditKind::VmEnded, [0, 0]);
        teardown::stop_all(vm);
        let mut line = machine().line.lock();
        line.console.close(vm.id);
        line.say(format_args!("{} starts again, as it asked to", vm.name()));
    }
    cpu.ask(work::RESCHEDULE);
}

fn on_crash(vm: &Vm) -> OnCrash {
    let index = usize::try_from(vm.id.0).unwrap_or(usize::MAX);
    machine().image.manifest().vms.get(index).map_or(OnCrash::Stop, |entry| entry.on_crash)
}

/// Uses up one of the VM's restarts.
fn take_restart(vm: &Vm) -> bool {
    vm.restarts_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// Vector of a page fault.
const PAGE_FAULT: u64 = 14;
/// Bytes of code that a report shows.
const CODE_BYTES: usize = 16;

/// Reports a death: lines for people, and a record from which tools make the full report.
fn report(vcpu: &Vcpu, registers: &Registers, cause: Cause) {
    let vm = vcpu.vm();
    let (code, reason) = cause.words();
    let (mut bytes, mut walk) = ([0; CODE_BYTES], [WalkStep { level: 0, index: 0, flags: 0 }; 4]);
    let read = read_code(registers.rip, &mut bytes);
    let walked = walk_pages(vcpu, cause.fault_address().unwrap_or(registers.rip), &mut walk);
    let mut calls = [CallTrace { number: 0, arguments: [0; 2], result: 0 }; 16];
    let mut traced = 0_usize;
    for (slot, [number, first, second, result]) in calls.iter_mut().zip(vcpu.trace.newest_first()) {
        *slot = CallTrace { number, arguments: [first, second], result };
        traced = traced.saturating_add(1);
    }
    let kernel_mode = vcpu.mode() == Mode::Kernel;
    let named = named(registers);
    let record = Record::Crash(Crash {
        vm: vm.id,
        vcpu: vcpu.id,
        code: Cow::Borrowed(code),
        reason: Cow::Borrowed(reason),
        kernel_mode,
        vector: cause.vector(),
        error_code: registers.error_code,
        fault_address: cause.fault_address(),
        registers: Cow::Borrowed(&named),
        code_bytes: Cow::Borrowed(bytes.get(..read).unwrap_or(&[])),
        page_walk: Cow::Borrowed(walk.get(..walked).unwrap_or(&[])),
        last_calls: Cow::Borrowed(calls.get(..traced).unwrap_or(&[])),
    });
    let mut line = machine().line.lock();
    line.console.close(vm.id);
    line.say(format_args!("error[{code}]: {} died: {reason}", vm.name()));
    line.say(format_args!(
        "  vCPU {}, {} mode, vector {:?}, address {:x?}, rip {:#x}, rsp {:#x}, error code {:#x}",
        vcpu.id,
        if kernel_mode { "kernel" } else { "user" },
        cause.vector(),
        cause.fault_address(),
        registers.rip,
        registers.rsp,
        registers.error_code
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
    if let Some(xen) = &vcpu.xen {
        return xen.page_walk(vcpu, address, into);
    }
    let Ok(memory) = vcpu.vm().memory() else {
        return 0;
    };
    let walk = memory.page_walk(machine().memory(), vcpu.space(), GuestVirt(address));
    let mut steps = 0_usize;
    for (slot, step) in into.iter_mut().zip(walk.into_iter().flatten()) {
        *slot = step;
        steps = steps.saturating_add(1);
    }
    steps
}

/// The registers with their names.
fn named(registers: &Registers) -> [Register<'static>; 18] {
    let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags, .. } =
        *registers;
    let values = [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags];
    let mut names = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split(' ');
    values.map(|value| Register { name: Cow::Borrowed(names.next().unwrap_or("")), value })
}
