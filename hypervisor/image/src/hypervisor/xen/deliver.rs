//! Entering a guest's handlers, and going back by `iret`.

use hv_arch::guest::{Registers, copy};
use hv_core::abi::native::entry::{Mode, Upcalls};
use hv_core::abi::xen::context::frame::{self, Cause, Interrupted};
use hv_core::abi::xen::context::handlers::Handler;
use protocol::GuestVirt;
use protocol::xen::selector;
use protocol::xen::structure::IretFrame;
use zerocopy::IntoBytes;

use super::calls;
use super::{Own, State, XenVcpu};
use crate::hypervisor::cpu::Cpu;
use crate::hypervisor::death;
use crate::hypervisor::vcpu::Vcpu;

/// Bytes of the instruction that makes a system call.
const INSTRUCTION: u64 = 2;
/// Vector of an undefined instruction.
const INVALID_OPCODE: u8 = 6;
/// Vector of a protection fault.
const GENERAL_PROTECTION: u8 = 13;
/// Vector of a page fault.
pub(super) const PAGE_FAULT: u8 = 14;
/// Bit of a protection fault's error code: a gate was meant.
const GATE: u32 = 2;

/// A vCPU that is in ring 0, with its registers.
pub(super) struct Taken<'a> {
    pub(super) cpu: &'static Cpu,
    pub(super) vcpu: &'static Vcpu,
    pub(super) xen: &'static XenVcpu,
    pub(super) registers: &'a mut Registers,
}

/// What an entry into the guest's kernel takes of a vCPU's state.
struct Entry {
    handler: Handler,
    /// The stack for entries from user mode.
    kernel_stack: u64,
    /// What the frame shows as I/O privilege level.
    iopl: u8,
}

impl Taken<'_> {
    /// User mode made a system call, from 64-bit or 32-bit code: its kernel gets it.
    pub(super) fn system_call(&mut self) {
        let (is_short, cause) = match self.registers.vector {
            Registers::SYSCALL_32 => (true, Cause::Syscall32),
            _ => (false, Cause::Syscall),
        };
        let entry = self.entry(
            |State { own: Own { callbacks, .. }, .. }| {
                if is_short { callbacks.syscall_32 } else { callbacks.syscall }
            },
        );
        match entry {
            Some(entry) => self.enter(&entry, cause, INVALID_OPCODE),
            None => {
                self.registers.rip = self.registers.rip.wrapping_sub(INSTRUCTION);
                self.exception(INVALID_OPCODE, None);
            }
        }
    }

    /// Takes an exception, with its error code if it has one, to the guest's kernel.
    pub(super) fn exception(&mut self, vector: u8, code: Option<u32>) {
        match self.entry(|state| state.traps.handler(vector)) {
            Some(entry) => self.enter(&entry, code.map_or(Cause::Plain, Cause::Code), vector),
            None => {
                let address = if vector == PAGE_FAULT { self.xen.info().fault_address() } else { 0 };
                self.die(&death::Cause::Unhandled { vector: vector.into(), address });
            }
        }
    }

    /// Takes an interrupt that the guest raised by an instruction of so many bytes, behind which it is, to
    /// its kernel; or tells it that it may not.
    pub(super) fn interrupt(&mut self, vector: u8, length: u64) {
        let mode = self.vcpu.mode();
        let entry = self.entry(|State { traps, .. }| {
            // The gate of vector 0x80 is open to everybody, and led here.
            if vector == 0x80 { traps.handler(vector) } else { traps.software(vector, mode) }
        });
        match entry {
            Some(entry) => self.enter(&entry, Cause::Plain, vector),
            None => {
                self.registers.rip = self.registers.rip.wrapping_sub(length);
                self.exception(GENERAL_PROTECTION, Some(u32::from(vector) << 3 | GATE));
            }
        }
    }

    /// Has the vCPU look at its events.
    pub(super) fn upcall(&mut self) {
        if let Some(entry) = self.entry(|state| state.own.callbacks.event) {
            self.enter(&entry, Cause::Plain, 0);
        }
    }

    /// What is needed to enter a handler, if there is one.
    #[inline(always)]
    fn entry(&self, handler: impl FnOnce(&State) -> Option<Handler>) -> Option<Entry> {
        let state = self.xen.state.lock();
        let Own { kernel_stack, privilege, .. } = state.own;
        let iopl = if privilege.is_architectural { privilege.level } else { 0 };
        handler(&state).map(|handler| Entry { handler, kernel_stack, iopl })
    }

    /// Ends the VM.
    fn die(&mut self, cause: &death::Cause) {
        death::die(self.cpu, self.vcpu, self.registers, cause);
    }

    /// Writes the frame of a handler and leaves the registers at it. A guest whose stack cannot hold it dies.
    fn enter(&mut self, entry: &Entry, cause: Cause, vector: u8) {
        // The usual causes are compiled for themselves.
        match cause {
            Cause::Plain => self.bounce(entry, Cause::Plain, vector),
            Cause::Code(code) => self.bounce(entry, Cause::Code(code), vector),
            Cause::Syscall => self.bounce(entry, Cause::Syscall, vector),
            rest @ (Cause::Syscall32 | Cause::Failsafe(_)) => self.bounce(entry, rest, vector),
        }
    }

    /// As above.
    #[inline(always)]
    fn bounce(&mut self, entry: &Entry, cause: Cause, vector: u8) {
        let (vcpu, info) = (self.vcpu, self.xen.info());
        let mode = vcpu.mode();
        let Entry { handler, kernel_stack, iopl } = *entry;
        let Registers { rcx, r11, rip, cs, rflags, rsp, ss, .. } = *self.registers;
        let from = Interrupted { rcx, r11, rip, cs, rflags, rsp, ss, kernel_stack, mask: info.mask(), iopl };
        let no_stack = || {
            let stack = if mode == Mode::User { kernel_stack } else { rsp };
            death::Cause::NoStack { vector: vector.into(), stack }
        };
        let Ok(bounce) = frame::bounce(&from, mode, cause, handler) else {
            return self.die(&no_stack());
        };
        if mode == Mode::User {
            vcpu.change_mode(Mode::Kernel);
        }
        if copy::write(GuestVirt(bounce.rsp), bounce.words().as_bytes()).is_err() {
            if mode == Mode::User {
                vcpu.change_mode(Mode::User);
            }
            return self.die(&no_stack());
        }
        if handler.masks_events() {
            info.set_mask(1);
        }
        self.registers.rip = bounce.rip;
        self.registers.rsp = bounce.rsp;
        self.registers.rflags = bounce.rflags;
        self.registers.cs = u64::from(selector::CODE_64);
        self.registers.ss = u64::from(selector::DATA);
        // Handlers find rcx and r11 in their frame, so SYSRET may lose them.
        self.registers.vector = Registers::SYSCALL;
        calls::tell_runstate(vcpu, self.xen);
    }

    /// The call `iret`: goes on with what the frame at the guest's stack pointer describes.
    pub(super) fn iret(&mut self) {
        let stack = self.registers.rsp;
        let Ok(given) = copy::read_value::<IretFrame>(GuestVirt(stack)) else {
            return self.die(&death::Cause::NoStack { vector: 0, stack });
        };
        let to = frame::iret(&given);
        let has_user_root = {
            let own = &mut self.xen.state.lock().own;
            if own.privilege.is_architectural {
                own.privilege.level = to.iopl;
            }
            own.user_root.is_some()
        };
        if to.mode == Mode::User {
            if !has_user_root {
                return self.die(&death::Cause::NoUserRoot);
            }
            self.vcpu.change_mode(Mode::User);
        }
        self.xen.info().set_mask(u8::from(to.upcalls == Upcalls::Masked));
        let registers = &mut *self.registers;
        registers.rax = given.rax;
        registers.rip = given.rip;
        registers.rsp = given.rsp;
        registers.cs = u64::from(to.cs);
        registers.ss = u64::from(to.ss);
        registers.rflags = to.rflags;
        registers.vector = if to.fits_sysret { Registers::SYSCALL } else { 0 };
        if let Some([rcx, r11]) = to.lost {
            registers.rcx = rcx;
            registers.r11 = r11;
        }
    }
}
