//! The calls: for each, what it locks and the decision of hv-core that it asks for.
//!
//! A call that cannot be finished now is restarted: the guest's instruction pointer goes back to its
//! `syscall`, with arguments that say how far it came. So a guest takes events in between, and nothing of a
//! call is kept in the hypervisor but what hv-core says.

mod basic;
mod batch;
mod events;
mod grants;
mod memory;
mod pages;
mod processor;
mod scheduling;
mod vcpus;

pub(super) use memory::new_root;

use core::sync::atomic::Ordering;

use hv_arch::guest::{Registers, copy};
use hv_core::paging::WORK;
use protocol::xen::{Errno, call};
use protocol::{GuestVirt, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Domain, State, XenVcpu};
use crate::hypervisor::cpu::Cpu;
use crate::hypervisor::lock::Serving;
use crate::hypervisor::machine::Vm;
use crate::hypervisor::vcpu::Vcpu;

/// Who calls, and with which registers.
pub(super) struct Caller<'a> {
    pub(super) cpu: &'static Cpu,
    pub(super) vcpu: &'static Vcpu,
    pub(super) xen: &'static XenVcpu,
    pub(super) domain: &'static Domain,
    pub(super) registers: &'a mut Registers,
    /// Whether the call stands in a multicall.
    pub(super) in_batch: bool,
    /// Units of work that were done, of about 8 instructions, where a call or a batch may do more than one thing.
    spent: u32,
}

/// The five arguments. A call that is restarted finds them as it left them.
pub(super) type Arguments = [u64; 5];

/// Why a call does not simply return a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The guest is told.
    Errno(Errno),
    /// It is made again.
    Restart,
    /// The registers are set already: the guest goes on elsewhere, or not at all.
    Taken,
}

impl From<Errno> for Refusal {
    #[inline(always)]
    fn from(errno: Errno) -> Refusal {
        Refusal::Errno(errno)
    }
}

/// Copies fail for one reason.
impl From<Status> for Refusal {
    #[inline(always)]
    fn from(_: Status) -> Refusal {
        Refusal::Errno(Errno::Fault)
    }
}

/// What a call returns.
pub(super) type Reply = Result<u64, Refusal>;

/// Bytes of the `syscall` instruction.
const INSTRUCTION: u64 = 2;

/// Handles the call in a guest's registers.
#[inline(always)]
pub(super) fn handle(cpu: &'static Cpu, vcpu: &'static Vcpu, xen: &'static XenVcpu, registers: &mut Registers) {
    let Some(domain) = &vcpu.vm().xen else {
        return;
    };
    let Registers { rax: number, rdi, rsi, rdx, r10, r8, .. } = *registers;
    vcpu.trace.begin(number, rdi, rsi);
    #[cfg(feature = "recount")]
    if crate::hypervisor::recount::is_asked_by_xen(number, rdi) {
        crate::hypervisor::recount::run();
        crate::hypervisor::recount::enter();
    }
    let mut arguments = [rdi, rsi, rdx, r10, r8];
    let mut caller = Caller::new(cpu, vcpu, xen, domain, registers);
    match caller.dispatch(number, &mut arguments) {
        Ok(value) => registers.rax = value,
        Err(Refusal::Errno(errno)) => registers.rax = errno.to_register(),
        Err(Refusal::Restart) => {
            registers.rip = registers.rip.wrapping_sub(INSTRUCTION);
            [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8] = arguments;
            return;
        }
        Err(Refusal::Taken) => return,
    }
    vcpu.trace.end(registers.rax);
}

impl<'a> Caller<'a> {
    /// Who has done nothing yet.
    #[inline(always)]
    pub(super) const fn new(
        cpu: &'static Cpu,
        vcpu: &'static Vcpu,
        xen: &'static XenVcpu,
        domain: &'static Domain,
        registers: &'a mut Registers,
    ) -> Caller<'a> {
        Caller { cpu, vcpu, xen, domain, registers, in_batch: false, spent: 0 }
    }
}

impl Caller<'_> {
    #[inline(always)]
    pub(super) fn vm(&self) -> &'static Vm {
        self.vcpu.vm()
    }

    /// The vCPU's own state.
    #[inline(always)]
    fn state(&self) -> spin::mutex::SpinMutexGuard<'static, State, Serving> {
        self.xen.state.lock()
    }

    /// Counts work of a call.
    #[inline(always)]
    const fn spend(&mut self, units: u32) {
        self.spent = self.spent.saturating_add(units);
    }

    /// Whether that is as much as may be done before events are looked at.
    #[inline(always)]
    const fn has_spent_all(&self) -> bool {
        self.spent >= WORK
    }

    /// Makes a call by its number.
    #[inline(always)]
    fn dispatch(&mut self, number: u64, arguments: &mut Arguments) -> Reply {
        let [first, second, third, ..] = *arguments;
        match number {
            call::MMU_UPDATE => memory::mmu_update(self, arguments),
            call::MMUEXT_OP => memory::mmuext_op(self, arguments),
            call::UPDATE_VA_MAPPING => memory::update_va_mapping(self, [first, second, third]),
            call::IRET => processor::iret(self),
            call::STACK_SWITCH => processor::stack_switch(self, second),
            call::SET_SEGMENT_BASE => processor::set_segment_base(self, first, second),
            call::EVENT_CHANNEL_OP => events::event_channel_op(self, first, second),
            call::SCHED_OP => scheduling::sched_op(self, first, second),
            call::MULTICALL => batch::multicall(self, arguments),
            call::SET_TRAP_TABLE => processor::set_trap_table(self, arguments),
            call::SET_GDT => processor::set_gdt(self, first, second),
            call::SET_CALLBACKS => processor::set_callbacks(self, [first, second, third]),
            call::FPU_TASKSWITCH => processor::fpu_taskswitch(self, first),
            call::SET_DEBUGREG => processor::set_debugreg(self, first, second),
            call::GET_DEBUGREG => processor::get_debugreg(self, first),
            call::UPDATE_DESCRIPTOR => memory::update_descriptor(self, first, second),
            call::MEMORY_OP => pages::memory_op(self, arguments),
            call::SET_TIMER_OP => vcpus::set_timer(self, first),
            call::XEN_VERSION => basic::xen_version(self, first, second),
            call::CONSOLE_IO => basic::console_io(self, arguments),
            call::GRANT_TABLE_OP => grants::grant_table_op(self, arguments),
            call::VM_ASSIST => basic::vm_assist(self, first, second),
            call::VCPU_OP => vcpus::vcpu_op(self, [first, second, third]),
            call::CALLBACK_OP => processor::callback_op(self, first, second),
            call::PHYSDEV_OP => basic::physdev_op(self, first, second),
            _ => self.unknown(number),
        }
    }

    /// Counts a call, or an operation of one, that does not exist here.
    ///
    /// # Errors
    /// Always `NotImplemented`.
    #[inline(never)]
    fn unknown(&self, number: u64) -> Reply {
        let last = self.domain.unknown.len().wrapping_sub(1);
        let place = usize::try_from(number).unwrap_or(last).min(last);
        if let Some(count) = self.domain.unknown.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Err(Errno::NotImplemented.into())
    }
}

/// Reads a structure of the guest.
///
/// # Errors
/// `Fault`.
#[inline(always)]
fn read<T: FromBytes + IntoBytes>(address: u64) -> Result<T, Refusal> {
    Ok(copy::read_value(GuestVirt(address))?)
}

/// Writes a structure of the guest.
///
/// # Errors
/// `Fault`.
#[inline(always)]
fn write<T: IntoBytes + Immutable>(address: u64, value: &T) -> Result<(), Refusal> {
    Ok(copy::write_value(GuestVirt(address), value)?)
}

/// The address of an element of an array.
///
/// # Errors
/// `Fault` when there is no such address.
#[inline(always)]
fn element<T>(array: u64, number: u64) -> Result<u64, Refusal> {
    let size = hv_core::addr::convert::wide(size_of::<T>());
    let address = number.checked_mul(size).and_then(|offset| array.checked_add(offset));
    Ok(address.ok_or(Errno::Fault)?)
}

/// Tells the guest how long a vCPU did what, if it asked for that and its kernel's tables are in use.
#[inline(always)]
pub(super) fn tell_runstate(vcpu: &Vcpu, xen: &XenVcpu) {
    vcpus::tell_runstate(vcpu, xen);
}
