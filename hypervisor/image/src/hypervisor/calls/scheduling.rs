//! Giving up the CPU, starting and stopping vCPUs, timers.

use core::sync::atomic::Ordering;

use hv_arch::guest::Registers;
use hv_core::abi::native::entry::Upcalls;
use hv_core::sched::{self, Stop};
use hv_core::space::Memory;
use protocol::call::{Block, Exit, TimerSet, VcpuKick, VcpuStart, VcpuStop, YieldCpu};
use protocol::{SpaceId, Status};

use super::{Caller, Refusal};
use crate::hypervisor::cpu::work;
use crate::hypervisor::vcpu::{Presence, Vcpu};
use crate::hypervisor::{death, run};

pub(super) fn yield_cpu(caller: &mut Caller<'_>, _call: YieldCpu) -> Result<(), Refusal> {
    caller.alone()?;
    caller.cpu.partition().scheduler.lock().yield_now(caller.cpu.id);
    caller.cpu.ask(work::RESCHEDULE);
    Ok(())
}

pub(super) fn block(caller: &mut Caller<'_>, call: Block) -> Result<(), Refusal> {
    caller.alone()?;
    let vcpu = caller.vcpu;
    let deadline = caller.vm().clock.lock().to_machine(call.deadline);
    let mut scheduler = caller.cpu.partition().scheduler.lock();
    // First be seen as blocked, then look: who raises an event does it the other way round.
    vcpu.set_presence(Presence::Blocked);
    let outcome = if vcpu.page().has_pending() {
        sched::Block::Returned
    } else {
        scheduler.block(run::key(vcpu), deadline, run::now(caller.cpu))
    };
    match outcome {
        sched::Block::Asleep => caller.cpu.ask(work::RESCHEDULE),
        sched::Block::Returned => {
            vcpu.set_presence(Presence::Running(caller.cpu.id));
            caller.cpu.ask(work::EVENTS);
            drop(scheduler);
            caller.vm().show_coarse_time();
        }
    }
    Ok(())
}

pub(super) fn exit(caller: &mut Caller<'_>, call: Exit) -> Result<(), Refusal> {
    caller.alone()?;
    death::end(caller.cpu, caller.vm(), call.code);
    Err(Refusal::Taken)
}

pub(super) fn vcpu_start(caller: &mut Caller<'_>, call: VcpuStart) -> Result<(), Refusal> {
    let vm = caller.vm();
    let vcpu = vm.vcpu(call.vcpu).ok_or(Status::NotFound)?;
    let is_kernel = |address: protocol::GuestVirt| address.is_kernel_half() && address.is_guest_range(0);
    if !is_kernel(call.entry) || !is_kernel(call.stack) {
        return Err(Status::BadAddress.into());
    }
    let mut memory = caller.memory()?;
    let mut scheduler = vm.partition().scheduler.lock();
    if scheduler.state(run::key(vcpu)) != Some(sched::RunState::Stopped) {
        return Err(Status::WrongState.into());
    }
    // Under the lock under which all are stopped once life has changed: none is started behind that.
    if !vm.is_live() {
        return Err(Status::WrongState.into());
    }
    // Two vCPUs that start a third at once: the scheduler's lock lets one through.
    // Waits for the CPU that it stopped on to leave its root, before the space may go.
    vcpu.prepare(Registers::start(call.entry.0, call.stack.0, call.argument));
    move_to(&mut memory, vcpu, caller.vcpu.space())?;
    vcpu.copy_handlers(caller.vcpu);
    vcpu.page().replace_mask(Upcalls::Masked);
    let on = scheduler.start(run::key(vcpu), run::now(caller.cpu))?;
    drop(scheduler);
    if let Some(on) = on {
        run::interrupt(on);
    }
    Ok(())
}

pub(super) fn vcpu_stop(caller: &mut Caller<'_>, call: VcpuStop) -> Result<(), Refusal> {
    caller.alone()?;
    let vm = caller.vm();
    let vcpu = vm.vcpu(call.vcpu).ok_or(Status::NotFound)?;
    if caller.vcpu.id == vcpu.id {
        // A stopped vCPU keeps no space busy, and no flush has to reach it.
        move_to(&mut *caller.memory()?, vcpu, SpaceId::FIRST)?;
        vcpu.load_root();
    }
    let mut scheduler = vm.partition().scheduler.lock();
    let stop = scheduler.stop(run::key(vcpu))?;
    // Under the scheduler's lock, as the `prepare` of a start, which takes it back.
    vcpu.stopping.store(true, Ordering::SeqCst);
    drop(scheduler);
    match stop {
        Stop::Done => {}
        Stop::OnCpu(on) if on == caller.cpu.id => {
            caller.cpu.ask(work::RESCHEDULE);
            return Ok(());
        }
        Stop::OnCpu(on) => {
            run::interrupt(on);
            run::wait_until_stopped(vcpu, caller.vcpu);
        }
    }
    let mut memory = caller.memory()?;
    let scheduler = vm.partition().scheduler.lock();
    // It may have been started anew meanwhile, or not have stopped yet: then its space stays in use.
    if scheduler.state(run::key(vcpu)) == Some(sched::RunState::Stopped) {
        drop(vcpu.saved.lock());
        move_to(&mut memory, vcpu, SpaceId::FIRST)?;
    }
    Ok(())
}

/// Makes another space the current one of a vCPU that is not loaded, or whose root is loaded next.
fn move_to(memory: &mut Memory, vcpu: &Vcpu, space: SpaceId) -> Result<(), Status> {
    let roots = memory.enter(space)?;
    let left = vcpu.space();
    vcpu.set_space(space, roots);
    memory.leave(left);
    Ok(())
}

pub(super) fn vcpu_kick(caller: &mut Caller<'_>, call: VcpuKick) -> Result<(), Refusal> {
    let vcpu = caller.vm().vcpu(call.vcpu).ok_or(Status::NotFound)?;
    let on = caller.cpu.partition().scheduler.lock().kick(run::key(vcpu), run::now(caller.cpu))?;
    if let Some(on) = on {
        run::interrupt(on);
    }
    Ok(())
}

pub(super) fn timer_set(caller: &mut Caller<'_>, call: TimerSet) -> Result<(), Refusal> {
    let deadline = caller.vm().clock.lock().to_machine(call.deadline);
    let timer = caller.cpu.partition().scheduler.lock().set_timer(run::key(caller.vcpu), deadline);
    run::set_timer(timer, Some(caller.vcpu));
    Ok(())
}
