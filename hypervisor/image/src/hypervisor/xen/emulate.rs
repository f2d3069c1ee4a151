//! Exceptions of a guest: what it meant by an instruction that ring 3 cannot execute is done in its place,
//! everything else goes to its kernel.

use hv_arch::cpu as processor;
use hv_arch::guest::{Registers, copy, segments};
use hv_arch::mmu::window;
use hv_core::abi::native::entry::Mode;
use hv_core::abi::xen::context::frame::fault_code;
use hv_core::abi::xen::cpuid::Asker;
use hv_core::abi::xen::emulate::{self, Decoded, Operands, PortNumber, Privileged, Segment, Store, StringMove, Width};
use hv_core::abi::xen::register::{self, ControlValue, ControlWrite, Kept, MsrValue, MsrWrite};
use hv_core::addr::Mfn;
use hv_core::addr::convert::index;
use hv_core::paging::{Place, Progress};
use hv_core::space::TableMemory;
use hv_core::space::entry::{Leaf, WRITABLE};
use protocol::GuestVirt;
use protocol::xen::{assist, selector};

use super::Domain;
use super::calls::{Caller, Refusal, new_root};
use super::deliver::Taken;
use super::memory::tables;
use crate::hypervisor::machine::DIRECT;

/// Vectors that mean something here.
mod vector {
    pub(super) const DEBUG: u8 = 1;
    pub(super) const INVALID_OPCODE: u8 = 6;
    pub(super) const NO_FLOATING_POINT: u8 = 7;
    pub(super) const GENERAL_PROTECTION: u8 = 13;
    pub(super) const PAGE_FAULT: u8 = 14;
    pub(super) const GUEST: u8 = 0x80;
}

/// Bits of a page fault's error code.
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const RESERVED: u64 = 8;
const FETCH: u64 = 16;
/// Bit of a protection fault's error code: a gate was meant.
const GATE: u32 = 2;
/// The flag that traps after each instruction, and what DR6 shows for it.
const SINGLE_STEP: u64 = 1 << 8;
const WAS_SINGLE_STEP: u64 = 1 << 14;
/// Longest instruction.
const LONGEST: usize = 15;
/// Bytes of an `int` with a number.
const INTERRUPT_LENGTH: u64 = 2;
/// Elements of a string instruction that are moved before events are looked at.
const ELEMENTS: u32 = 64;

/// What came of an instruction that was to be done in the guest's place.
enum Done {
    /// The guest goes on behind it.
    Past,
    /// The guest executes it again, or goes on elsewhere.
    Taken,
    /// It is the guest's fault.
    Refused,
}

impl From<Option<()>> for Done {
    fn from(done: Option<()>) -> Done {
        done.map_or(Done::Refused, |()| Done::Past)
    }
}

impl Taken<'_> {
    /// A trap that the guest took.
    pub(super) fn trap(&mut self) {
        let number = u8::try_from(self.registers.vector).unwrap_or(vector::GENERAL_PROTECTION);
        let code = low(self.registers.error_code);
        match number {
            vector::PAGE_FAULT => self.page_fault(),
            vector::GENERAL_PROTECTION => self.general_protection(code),
            vector::INVALID_OPCODE if self.forced() => {}
            vector::NO_FLOATING_POINT => {
                self.xen.state.lock().own.controlled.task_switched = false;
                processor::xen::allow_floating_point();
                self.exception(number, None);
            }
            vector::DEBUG => {
                self.vcpu.debug.lock().report(processor::debug_status());
                processor::clear_debug_status();
                self.exception(number, None);
            }
            vector::GUEST => self.interrupt(number, INTERRUPT_LENGTH),
            8 | 10..=12 | 17 | 21 => self.exception(number, Some(code)),
            _ => self.exception(number, None),
        }
    }

    fn domain(&self) -> Option<&'static Domain> {
        self.vcpu.vm().xen.as_ref()
    }

    /// A page fault: perhaps a store to a page table, which is done if it is allowed.
    fn page_fault(&mut self) {
        let (address, error) = (processor::fault_address(), self.registers.error_code);
        if error & USER == 0
            && let Some(offset) = window::local_offset(self.vcpu.index, address)
        {
            return self.local_fault(offset, low(error));
        }
        let is_store = error & (PRESENT | WRITE | RESERVED | FETCH) == PRESENT | WRITE;
        let has_assist = || self.domain().is_some_and(|domain| domain.has_assist(assist::WRITABLE_PAGETABLES));
        let mode = self.vcpu.mode();
        if is_store && mode == Mode::Kernel && has_assist() && self.stores(address).is_some() {
            return;
        }
        self.xen.info().set_fault_address(address);
        self.exception(vector::PAGE_FAULT, Some(fault_code(low(error), mode)));
    }

    /// Does a store to a page table in the guest's place. Nothing if that is not what faulted, or the entry may
    /// not stand there.
    fn stores(&mut self, address: u64) -> Option<()> {
        let vm = self.vcpu.vm();
        let root = self.xen.state.lock().own.kernel_root;
        let mut memory = self.domain()?.memory().ok()?;
        let place = memory.paging.find(tables(vm), root, GuestVirt(address))?;
        let word = DIRECT.load(place.table, place.index);
        let table = Leaf::of(word)?.frame();
        if word & WRITABLE != 0 {
            // It can be written by now: the guest tries again. Unless a table above forbids it.
            return memory.paging.allows_store(tables(vm), root, address).then_some(());
        }
        let mut code = [0; LONGEST];
        let read = read_code(self.registers.rip, &mut code);
        let store: Store = emulate::store(code.get(..read)?, &View(self.registers))?;
        if store.address >> 3 != address >> 3 {
            return None;
        }
        let target = Place { table, index: index(store.address >> 3 & 511) };
        let changed = memory.paging.change(tables(vm), target, |old| Some(store.update(old))).ok()?;
        drop(memory);
        let Progress::Done(old) = changed else {
            // The guest executes it again, when other work is done.
            return Some(());
        };
        let outcome = store.outcome(old, self.registers.rflags);
        self.registers.rflags = outcome.rflags;
        if let Some((number, value)) = outcome.register {
            self.set(number, value);
        }
        self.advance(store.length);
        Some(())
    }

    /// A protection fault: perhaps an instruction that the guest's kernel may think it can execute.
    fn general_protection(&mut self, error: u32) {
        let mut code = [0; LONGEST];
        let read = read_code(self.registers.rip, &mut code);
        let decoded = emulate::privileged(code.get(..read).unwrap_or(&[]), width(self.registers.cs));
        match decoded {
            // What the error code says of the number is not right everywhere: the instruction is.
            Some(Decoded { what: Privileged::Interrupt(number), length }) if error & GATE != 0 => {
                self.registers.rip = self.registers.rip.wrapping_add(length);
                self.interrupt(number, length);
            }
            Some(Decoded { what, length }) if error == 0 => match self.execute(what) {
                Done::Past => self.advance(length),
                Done::Taken => {}
                Done::Refused => self.exception(vector::GENERAL_PROTECTION, Some(error)),
            },
            _ => self.exception(vector::GENERAL_PROTECTION, Some(error)),
        }
    }

    /// Goes on behind an instruction that was done in the guest's place.
    fn advance(&mut self, length: u64) {
        self.registers.rip = self.registers.rip.wrapping_add(length);
        if self.registers.rflags & SINGLE_STEP != 0 {
            self.vcpu.debug.lock().report(WAS_SINGLE_STEP);
            self.exception(vector::DEBUG, None);
        }
    }

    /// Executes an instruction in the guest's place.
    fn execute(&mut self, what: Privileged) -> Done {
        let mode = self.vcpu.mode();
        let privilege = self.xen.state.lock().own.privilege;
        match what {
            Privileged::DisableInterrupts | Privileged::EnableInterrupts => {
                // They change nothing: what a guest masks are events, and not by these.
                privilege.allows(mode).then_some(()).into()
            }
            Privileged::In(port, bytes) => self.port(port, bytes, Taken::read_port),
            Privileged::Out(port, bytes) => self.port(port, bytes, Taken::write_port),
            Privileged::InString(string) => self.string(string, Direction::In),
            Privileged::OutString(string) => self.string(string, Direction::Out),
            Privileged::Cpuid => {
                self.answer_cpuid();
                Done::Past
            }
            _ if mode == Mode::User => Done::Refused,
            Privileged::ClearTaskSwitched => {
                self.xen.state.lock().own.controlled.task_switched = false;
                processor::xen::allow_floating_point();
                Done::Past
            }
            Privileged::WriteBack => Done::Past,
            Privileged::ReadControl { control, register } => self.read_control(control, register).into(),
            Privileged::WriteControl { control, register } => self.write_control(control, register),
            Privileged::ReadDebug { debug, register } => self.read_debug(debug, register).into(),
            Privileged::WriteDebug { debug, register } => self.write_debug(debug, register).into(),
            Privileged::ReadMsr => self.read_msr().into(),
            Privileged::WriteMsr => self.write_msr().into(),
            Privileged::ReadTime => {
                self.set_pair(processor::read_tsc());
                Done::Past
            }
            Privileged::ReadTimeAndNumber => {
                self.set_pair(processor::read_tsc());
                self.registers.rcx = self.xen.state.lock().own.tsc_aux.into();
                Done::Past
            }
            Privileged::SetExtendedControl => self.set_extended().into(),
            Privileged::Interrupt(_) => Done::Refused,
        }
    }

    /// The number of a port, if the guest may use it.
    fn port(&mut self, port: PortNumber, bytes: u8, access: impl FnOnce(&mut Self, u16, u8)) -> Done {
        let number = match port {
            PortNumber::Immediate(number) => u16::from(number),
            PortNumber::Dx => u16::try_from(self.registers.rdx & 0xffff).unwrap_or(0),
        };
        if !self.allows_port(number, bytes) {
            return Done::Refused;
        }
        access(self, number, bytes);
        Done::Past
    }

    /// No map of ports is looked at: none of them leads anywhere.
    fn allows_port(&self, number: u16, bytes: u8) -> bool {
        let privilege = self.xen.state.lock().own.privilege;
        privilege.allows_ports(self.vcpu.mode(), number, bytes, |_| false)
    }

    fn read_port(&mut self, number: u16, bytes: u8) {
        let value = u64::from(self.xen.state.lock().own.ports.read(number, bytes));
        self.registers.rax = match bytes {
            1 => self.registers.rax & !0xff | value & 0xff,
            2 => self.registers.rax & !0xffff | value & 0xffff,
            _ => value,
        };
    }

    fn write_port(&mut self, number: u16, bytes: u8) {
        let value = low(self.registers.rax);
        self.xen.state.lock().own.ports.write(number, bytes, value);
    }

    /// Moves elements between a port and memory.
    fn string(&mut self, string: StringMove, direction: Direction) -> Done {
        let number = u16::try_from(self.registers.rdx & 0xffff).unwrap_or(0);
        if !self.allows_port(number, string.bytes) {
            return Done::Refused;
        }
        for _ in 0..ELEMENTS {
            let pointer = match direction {
                Direction::In => self.registers.rdi,
                Direction::Out => self.registers.rsi,
            };
            let element = string.next(pointer, self.registers.rcx, self.registers.rflags);
            if let Some(address) = element.address
                && !self.move_element(&string, direction, (number, address))
            {
                return Done::Taken;
            }
            match direction {
                Direction::In => self.registers.rdi = element.pointer,
                Direction::Out => self.registers.rsi = element.pointer,
            }
            self.registers.rcx = element.count;
            if element.is_last {
                return Done::Past;
            }
        }
        Done::Taken
    }

    /// Moves one element. Otherwise the guest has a page fault at its address.
    fn move_element(&mut self, string: &StringMove, direction: Direction, (number, address): (u16, u64)) -> bool {
        let base = string.segment.map_or(0, |segment| View(self.registers).segment_base(segment));
        let place = GuestVirt(address.wrapping_add(base));
        let mut bytes = [0_u8; 4];
        let count = usize::from(string.bytes).min(4);
        let moved = match direction {
            Direction::In => {
                bytes = self.xen.state.lock().own.ports.read(number, string.bytes).to_le_bytes();
                copy::write(place, bytes.get(..count).unwrap_or(&[]))
            }
            Direction::Out => copy::read(place, bytes.get_mut(..count).unwrap_or(&mut [])),
        };
        match (moved, direction) {
            (Ok(()), Direction::Out) => {
                let value = u32::from_le_bytes(bytes);
                self.xen.state.lock().own.ports.write(number, string.bytes, value);
            }
            (Ok(()), Direction::In) => {}
            (Err(_), _) => {
                self.xen.info().set_fault_address(place.0);
                let write = if direction == Direction::In { low(WRITE) } else { 0 };
                self.exception(vector::PAGE_FAULT, Some(fault_code(write, self.vcpu.mode())));
            }
        }
        moved.is_ok()
    }

    fn read_control(&mut self, control: u8, register: u8) -> Option<()> {
        let own = self.xen.state.lock().own;
        let value = match own.controlled.read(control)? {
            ControlValue::Known(value) => value,
            ControlValue::FaultAddress => self.xen.info().fault_address(),
            ControlValue::Root => own.kernel_root.start().0,
        };
        self.set(register, value);
        Some(())
    }

    fn write_control(&mut self, control: u8, register: u8) -> Done {
        let value = View(self.registers).register(register);
        let Some(domain) = self.domain() else {
            return Done::Refused;
        };
        let written = self.xen.state.lock().own.controlled.write(&domain.processor, control, value);
        match written {
            None => return Done::Refused,
            Some(ControlWrite::Done) => {}
            Some(ControlWrite::TaskSwitched) => self.load_task_switched(),
            Some(ControlWrite::FaultAddress(address)) => self.xen.info().set_fault_address(address),
            Some(ControlWrite::Root(frame)) => return self.load_root(domain, Mfn(frame)),
            Some(ControlWrite::Controls) => self.load_controls(domain),
        }
        Done::Past
    }

    /// Puts what the vCPU chose of CR4 and XCR0 in force.
    fn load_controls(&self, domain: &Domain) {
        processor::load_controls(self.xen.state.lock().own.controlled.controls(&domain.processor));
    }

    fn load_task_switched(&self) {
        if self.xen.state.lock().own.controlled.task_switched {
            processor::xen::trap_floating_point();
        } else {
            processor::xen::allow_floating_point();
        }
    }

    /// A write of CR3 is the call that sets the kernel's root.
    fn load_root(&mut self, domain: &'static Domain, frame: Mfn) -> Done {
        let mut caller = Caller::new(self.cpu, self.vcpu, self.xen, domain, self.registers);
        match new_root(&mut caller, frame) {
            Ok(()) => Done::Past,
            Err(Refusal::Restart | Refusal::Taken) => Done::Taken,
            Err(Refusal::Errno(_)) => Done::Refused,
        }
    }

    fn read_debug(&mut self, debug: u8, register: u8) -> Option<()> {
        let controlled = self.xen.state.lock().own.controlled;
        let value = controlled.get_debug(&self.vcpu.debug.lock(), debug.into()).ok()?;
        self.set(register, value);
        Some(())
    }

    fn write_debug(&mut self, debug: u8, register: u8) -> Option<()> {
        let controlled = self.xen.state.lock().own.controlled;
        let mut registers = *self.vcpu.debug.lock();
        let value = View(self.registers).register(register);
        controlled.set_debug(&mut registers, debug.into(), value).ok()?;
        self.vcpu.set_debug(registers);
        self.vcpu.reload_debug();
        Some(())
    }

    fn read_msr(&mut self) -> Option<()> {
        let domain = self.domain()?;
        let handler = self.xen.state.lock().traps.handler(vector::GENERAL_PROTECTION);
        let handler = handler.map_or(0, |handler| handler.address());
        let number = low(self.registers.rcx);
        let value = match register::read_msr(&domain.processor, self.vcpu.id, number, handler)? {
            MsrValue::Constant(value) => value,
            MsrValue::Kept(Kept::FsBase) => segments::fs_base(),
            MsrValue::Kept(Kept::GsBase) => segments::guest_gs_base(),
            MsrValue::Kept(Kept::UserGsBase) => self.vcpu.other_gs.get(),
            MsrValue::Kept(Kept::TscAux) => self.xen.state.lock().own.tsc_aux.into(),
        };
        self.set_pair(value);
        Some(())
    }

    fn write_msr(&mut self) -> Option<()> {
        let domain = self.domain()?;
        let Registers { rax, rcx, rdx, .. } = *self.registers;
        let value = rdx << 32 | rax & 0xffff_ffff;
        match register::write_msr(&domain.processor, self.vcpu.id, low(rcx), value)? {
            MsrWrite::Ignored => {}
            MsrWrite::Keep(Kept::FsBase, base) => segments::set_fs_base(base),
            MsrWrite::Keep(Kept::GsBase, base) => segments::set_guest_gs_base(base),
            MsrWrite::Keep(Kept::UserGsBase, base) => self.vcpu.other_gs.set(base),
            MsrWrite::Keep(Kept::TscAux, number) => {
                self.xen.state.lock().own.tsc_aux = low(number);
                processor::set_tsc_aux(low(number));
            }
        }
        Some(())
    }

    fn set_extended(&mut self) -> Option<()> {
        let domain = self.domain()?;
        let Registers { rax, rcx, rdx, .. } = *self.registers;
        let value = rdx << 32 | rax & 0xffff_ffff;
        self.xen.state.lock().own.controlled.set_extended(&domain.processor, low(rcx), value)?;
        self.load_controls(domain);
        Some(())
    }

    /// Sets rdx and rax to the halves of a value.
    fn set_pair(&mut self, value: u64) {
        self.registers.rax = value & 0xffff_ffff;
        self.registers.rdx = value >> 32;
    }

    /// Sets a general register.
    fn set(&mut self, number: u8, value: u64) {
        if let Some(slot) = general(self.registers, number) {
            *slot = value;
        }
    }

    /// Answers `cpuid` behind the prefix by which a guest asks its hypervisor.
    fn forced(&mut self) -> bool {
        let mut code = [0; 7];
        let read = copy::read(GuestVirt(self.registers.rip), &mut code);
        let Some(decoded) = emulate::forced(&code).filter(|_| read.is_ok()) else {
            return false;
        };
        self.answer_cpuid();
        self.registers.rip = self.registers.rip.wrapping_add(decoded.length);
        true
    }

    fn answer_cpuid(&mut self) {
        let Some(domain) = self.domain() else {
            return;
        };
        let asker = Asker { vcpu: self.vcpu.id, xcr0: self.xen.state.lock().own.controlled.xcr0() };
        let answer = domain.processor.answer(asker, low(self.registers.rax), low(self.registers.rcx));
        self.registers.rax = answer.eax.into();
        self.registers.rbx = answer.ebx.into();
        self.registers.rcx = answer.ecx.into();
        self.registers.rdx = answer.edx.into();
    }
}

/// Whether a string instruction reads the port or writes it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// The lower half of a register.
fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

/// Reads the code at an address, as much as can be read.
fn read_code(rip: u64, into: &mut [u8; LONGEST]) -> usize {
    if copy::read(GuestVirt(rip), into).is_ok() {
        return LONGEST;
    }
    // Up to the end of the page.
    let left = index(4096_u64.wrapping_sub(rip & 4095)).min(LONGEST);
    let part = into.get_mut(..left).unwrap_or(&mut []);
    if copy::read(GuestVirt(rip), part).is_ok() { left } else { 0 }
}

/// What kind of code a selector names.
fn width(cs: u64) -> Width {
    let is_long = cs == u64::from(selector::CODE_64) || segments::is_long(u16::try_from(cs).unwrap_or(0));
    if is_long { Width::Long } else { Width::Compatibility32 }
}

/// The registers as instructions find them.
struct View<'a>(&'a Registers);

impl Operands for View<'_> {
    fn register(&self, number: u8) -> u64 {
        let r = self.0;
        let all = [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15,
        ];
        all.get(usize::from(number)).copied().unwrap_or(0)
    }

    fn rip(&self) -> u64 {
        self.0.rip
    }

    fn segment_base(&self, which: Segment) -> u64 {
        match which {
            Segment::Fs => segments::fs_base(),
            Segment::Gs => segments::guest_gs_base(),
        }
    }
}

/// A general register by its number.
fn general(registers: &mut Registers, number: u8) -> Option<&mut u64> {
    Some(match number {
        0 => &mut registers.rax,
        1 => &mut registers.rcx,
        2 => &mut registers.rdx,
        3 => &mut registers.rbx,
        4 => &mut registers.rsp,
        5 => &mut registers.rbp,
        6 => &mut registers.rsi,
        7 => &mut registers.rdi,
        8 => &mut registers.r8,
        9 => &mut registers.r9,
        10 => &mut registers.r10,
        11 => &mut registers.r11,
        12 => &mut registers.r12,
        13 => &mut registers.r13,
        14 => &mut registers.r14,
        15 => &mut registers.r15,
        _ => return None,
    })
}
