//! Entering a guest's handlers and resuming from them.

use hv_arch::guest::{Registers, copy};
use hv_core::abi::native::cpuid::Gate;
use hv_core::abi::native::entry::{self, Mode, Upcalls};
use hv_core::abi::native::traps;
use hv_core::addr::convert::wide;
use protocol::shared::{TrapFrame, vector};
use protocol::{GuestVirt, Status};

use super::cpu::Cpu;
use super::death::{self, Cause};
use super::machine::machine;
use super::vcpu::Vcpu;

/// Vector of a page fault.
const PAGE_FAULT: u64 = 14;
/// Vector of a general protection fault.
const GENERAL_PROTECTION: u64 = 13;
/// Vector of a debug exception.
const DEBUG: u64 = 1;

/// Why a handler runs.
#[derive(Debug, Clone, Copy)]
struct Reason {
    vector: u64,
    error_code: u64,
    address: u64,
}

/// Takes a system call of user mode to the kernel.
pub(super) fn system_call(cpu: &Cpu, vcpu: &Vcpu, registers: &mut Registers) {
    let handler = vcpu.handler(traps::SYSCALL);
    if handler == 0 {
        return death::die(cpu, vcpu, registers, &Cause::NoSystemCallEntry);
    }
    let reason = Reason { vector: vector::SYSCALL, error_code: 0, address: 0 };
    if let Err(stack) = enter(vcpu, registers, handler, reason) {
        death::die(cpu, vcpu, registers, &Cause::NoStack { vector: vector::SYSCALL, stack });
    }
}

/// Takes an exception of the guest to its kernel.
pub(super) fn exception(cpu: &Cpu, vcpu: &Vcpu, registers: &mut Registers) {
    let number = registers.vector;
    if number == GENERAL_PROTECTION && answers_cpuid(vcpu, registers) {
        return;
    }
    let address = if number == PAGE_FAULT { hv_arch::cpu::fault_address() } else { 0 };
    if number == DEBUG {
        vcpu.debug.lock().report(hv_arch::cpu::debug_status());
        hv_arch::cpu::clear_debug_status();
    }
    let handler = usize::try_from(number).map_or(0, |index| vcpu.handler(index));
    if handler == 0 {
        return death::die(cpu, vcpu, registers, &Cause::Unhandled { vector: number, address });
    }
    let reason = Reason { vector: number, error_code: registers.error_code, address };
    if let Err(stack) = enter(vcpu, registers, handler, reason) {
        death::die(cpu, vcpu, registers, &Cause::NoStack { vector: number, stack });
    }
}

/// Answers `cpuid`, if that is what faulted, and goes on behind it.
fn answers_cpuid(vcpu: &Vcpu, registers: &mut Registers) -> bool {
    let (gate, mut code) = (machine().gate, [0; 2]);
    if gate == Gate::Open || copy::read(GuestVirt(registers.rip), &mut code).is_err() {
        return false;
    }
    if !gate.explains(registers.error_code, code) {
        return false;
    }
    // The instruction takes the lower halves and clears the upper ones.
    let [leaf, subleaf] = [registers.rax, registers.rcx].map(|register| u32::try_from(register & 0xffff_ffff));
    let answer = vcpu.vm().processor.answer(leaf.unwrap_or(0), subleaf.unwrap_or(0));
    registers.rax = answer.eax.into();
    registers.rbx = answer.ebx.into();
    registers.rcx = answer.ecx.into();
    registers.rdx = answer.edx.into();
    registers.rip = registers.rip.wrapping_add(wide(code.len()));
    true
}

/// Delivers pending events, if the guest takes them now.
pub(super) fn events(cpu: &Cpu, vcpu: &Vcpu, registers: &mut Registers) {
    if !vcpu.page().wants_upcall() {
        return;
    }
    let handler = vcpu.handler(traps::EVENT);
    if handler == 0 {
        return;
    }
    let reason = Reason { vector: vector::EVENT, error_code: 0, address: 0 };
    if let Err(stack) = enter(vcpu, registers, handler, reason) {
        death::die(cpu, vcpu, registers, &Cause::NoStack { vector: vector::EVENT, stack });
    }
}

/// Writes the frame and leaves the registers at the handler.
///
/// # Errors
/// The stack pointer below which the frame cannot be written; the guest cannot go on, and is left as
/// it was.
fn enter(vcpu: &Vcpu, registers: &mut Registers, handler: u64, reason: Reason) -> Result<(), u64> {
    let from = vcpu.mode();
    let page = vcpu.page();
    let kernel_stack = page.kernel_stack();
    let stack = if from == Mode::User { kernel_stack } else { registers.rsp };
    let place = entry::frame_address(from, registers.rsp, kernel_stack).map_err(|_| stack)?;
    if from == Mode::User {
        vcpu.change_mode(Mode::Kernel);
    }
    let before = page.replace_mask(Upcalls::Masked);
    let frame = TrapFrame {
        rax: registers.rax,
        rcx: registers.rcx,
        r11: registers.r11,
        rip: registers.rip,
        rflags: registers.rflags,
        rsp: registers.rsp,
        info: entry::info(reason.vector, from, before),
        error_code: reason.error_code,
        address: reason.address,
        reserved: 0,
    };
    if copy::write_value(place, &frame).is_err() {
        if from == Mode::User {
            vcpu.change_mode(Mode::User);
        }
        return Err(stack);
    }
    registers.rip = handler;
    registers.rsp = place.0;
    registers.rflags = entry::BASE_FLAGS;
    Ok(())
}

/// Goes on with the code that the frame at the guest's stack pointer describes.
///
/// # Errors
/// [`Status::BadAddress`] for a frame that cannot be read or goes where the guest may not.
pub(super) fn resume(vcpu: &Vcpu, registers: &mut Registers) -> Result<(), Status> {
    let frame: TrapFrame = copy::read_value(GuestVirt(registers.rsp))?;
    let resume = entry::check_resume(&frame)?;
    if resume.mode == Mode::User {
        vcpu.change_mode(Mode::User);
    }
    vcpu.page().replace_mask(resume.upcalls);
    registers.rax = frame.rax;
    registers.rcx = frame.rcx;
    registers.r11 = frame.r11;
    registers.rip = resume.rip;
    registers.rsp = resume.rsp;
    registers.rflags = resume.rflags;
    // SYSRET puts rip in rcx and the flags in r11: right only for a frame that says the same.
    let by_sysret = frame.rcx == resume.rip && frame.r11 == resume.rflags;
    registers.vector = if by_sysret { Registers::SYSCALL } else { 0 };
    Ok(())
}
