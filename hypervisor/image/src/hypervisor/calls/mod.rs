//! The hypercalls: for each, the locks that it needs and the decision of hv-core that it asks for.

mod audit;
mod basic;
mod batch;
mod events;
mod grants;
mod io;
mod memory;
mod processor;
mod scheduling;

use hv_arch::guest::Registers;
use hv_core::policy::{Denial, Operation, Permit};
use protocol::call::{self, Handler, Pair};
use protocol::{GrantRef, Port, SpaceId, Status};

use super::audit::{self as log, Verdict};
use super::cpu::Cpu;
use super::death::{self, Cause};
use super::machine::{MemoryGuard, Vm, machine};
use super::vcpu::Vcpu;

pub(super) use grants::take_out;

/// Who calls, and with which registers.
pub(super) struct Caller<'a> {
    cpu: &'static Cpu,
    vcpu: &'static Vcpu,
    registers: &'a mut Registers,
    /// Whether the call stands in a batch.
    in_batch: bool,
}

/// Why a call does not simply return a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The guest is told.
    Status(Status),
    /// The policy refused it: the guest is told [`Status::NotPermitted`].
    Denied(Denial),
    /// The registers are set already: the guest goes on elsewhere, or not at all.
    Taken,
}

impl From<Status> for Refusal {
    #[inline(always)]
    fn from(status: Status) -> Refusal {
        Refusal::Status(status)
    }
}

impl From<Denial> for Refusal {
    #[inline(always)]
    fn from(denial: Denial) -> Refusal {
        Refusal::Denied(denial)
    }
}

/// Handles the call in a guest's registers.
#[inline(always)]
pub(super) fn handle(cpu: &'static Cpu, vcpu: &'static Vcpu, registers: &mut Registers) {
    let (number, arguments) = (registers.rax, registers.arguments());
    vcpu.trace.begin(number, registers.rdi, registers.rsi);
    #[cfg(feature = "recount")]
    if super::recount::is_asked(number, registers.rdi) {
        super::recount::run();
        super::recount::enter();
    }
    let mut caller = Caller { cpu, vcpu, registers, in_batch: false };
    let result = call::dispatch(&mut caller, number, arguments);
    match result {
        Ok((rax, second)) => {
            registers.rax = rax;
            if let Some(rdx) = second {
                registers.rdx = rdx;
            }
        }
        Err(Refusal::Taken) => return,
        Err(refusal) => {
            let (status, verdict) = refused(vcpu, number, refusal);
            registers.rax = status.to_register();
            if verdict == Verdict::Ends {
                death::die(cpu, vcpu, registers, &Cause::AuditFull);
            }
        }
    }
    #[cfg(feature = "recount")]
    super::recount::answered(vcpu.vm(), registers.rax);
    vcpu.trace.end(registers.rax);
}

/// What the guest is told of a refusal, and what is to be recorded of it recorded.
fn refused(vcpu: &Vcpu, number: u64, refusal: Refusal) -> (Status, Verdict) {
    let (status, denial) = match refusal {
        Refusal::Status(status) => (status, None),
        Refusal::Denied(denial) => (Status::from(denial), Some(denial)),
        Refusal::Taken => return (Status::WrongState, Verdict::GoesOn),
    };
    if status == Status::QuotaExceeded {
        log::quota_hit(vcpu.vm(), number);
    }
    let is_denied = status == Status::NotPermitted;
    (status, if is_denied { log::denied(vcpu.vm(), number, denial) } else { Verdict::GoesOn })
}

impl Caller<'_> {
    #[inline(always)]
    fn vm(&self) -> &'static Vm {
        self.vcpu.vm()
    }

    /// Asks the policy for something that the VM does to itself.
    #[inline(always)]
    fn own(&self, operation: Operation) -> Result<Permit, Denial> {
        let vm = self.vm().id;
        machine().image.monitor().decide(vm, operation, vm)
    }

    /// The VM's own memory.
    #[inline(always)]
    fn memory(&self) -> Result<MemoryGuard<'static>, Refusal> {
        Ok(machine().memory_of(self.own(Operation::MemoryUse)?)?)
    }

    /// Refuses a call that cannot stand in a batch.
    #[inline(always)]
    fn alone(&self) -> Result<(), Refusal> {
        if self.in_batch { Err(Refusal::Status(Status::NotInBatch)) } else { Ok(()) }
    }
}

/// Ties each call of the table to its function here. The compiler counts them.
macro_rules! handlers {
    ($($name:ident($Call:ident) -> $Output:ty = $function:path;)*) => {
        impl Handler for Caller<'_> {
            type Refusal = Refusal;
            $(
                #[inline(always)]
                fn $name(&mut self, call: call::$Call) -> Result<$Output, Refusal> {
                    $function(self, call)
                }
            )*
        }
    };
}

handlers! {
    info(Info) -> u64 = basic::info;
    console_write(ConsoleWrite) -> u64 = basic::console_write;
    console_read(ConsoleRead) -> u64 = basic::console_read;
    log_write(LogWrite) -> () = basic::log_write;
    audit_read(AuditRead) -> u64 = audit::audit_read;
    yield_cpu(YieldCpu) -> () = scheduling::yield_cpu;
    block(Block) -> () = scheduling::block;
    exit(Exit) -> () = scheduling::exit;
    vcpu_start(VcpuStart) -> () = scheduling::vcpu_start;
    vcpu_stop(VcpuStop) -> () = scheduling::vcpu_stop;
    vcpu_kick(VcpuKick) -> () = scheduling::vcpu_kick;
    timer_set(TimerSet) -> () = scheduling::timer_set;
    trap_table_set(TrapTableSet) -> () = processor::trap_table_set;
    entry_points_set(EntryPointsSet) -> () = processor::entry_points_set;
    resume(Resume) -> () = processor::resume;
    event_deliver(EventDeliver) -> () = events::event_deliver;
    segment_base_set(SegmentBaseSet) -> () = processor::segment_base_set;
    segment_base_get(SegmentBaseGet) -> Pair = processor::segment_base_get;
    debug_register_set(DebugRegisterSet) -> () = processor::debug_register_set;
    debug_register_get(DebugRegisterGet) -> Pair = processor::debug_register_get;
    cpuid(Cpuid) -> () = processor::cpuid;
    io_read(IoRead) -> u64 = io::io_read;
    io_write(IoWrite) -> () = io::io_write;
    space_create(SpaceCreate) -> SpaceId = memory::space_create;
    space_destroy(SpaceDestroy) -> () = memory::space_destroy;
    space_switch(SpaceSwitch) -> () = memory::space_switch;
    map(Map) -> u64 = memory::map;
    unmap(Unmap) -> u64 = memory::unmap;
    protect(Protect) -> u64 = memory::protect;
    memory_batch(MemoryBatch) -> u64 = memory::memory_batch;
    translate(Translate) -> Pair = memory::translate;
    frame_release(FrameRelease) -> u64 = memory::frame_release;
    frame_reclaim(FrameReclaim) -> u64 = memory::frame_reclaim;
    event_alloc(EventAlloc) -> Port = events::event_alloc;
    event_bind(EventBind) -> () = events::event_bind;
    event_send(EventSend) -> () = events::event_send;
    event_close(EventClose) -> () = events::event_close;
    grant_create(GrantCreate) -> GrantRef = grants::grant_create;
    grant_revoke(GrantRevoke) -> () = grants::grant_revoke;
    grant_map(GrantMap) -> () = grants::grant_map;
    grant_unmap(GrantUnmap) -> () = grants::grant_unmap;
    grant_copy(GrantCopy) -> () = grants::grant_copy;
    batch(Batch) -> u64 = batch::batch;
}
