//! Taking an ended VM apart, in steps that a CPU does between guests, and building it again.

use hv_core::addr::Mfn;
use hv_core::sched::Stop;
use hv_core::space::Teardown;
use hv_core::vm::{Build, Builder, Origin};
use protocol::{GrantRef, Status, VmId};

use super::calls::take_out;
use super::cpu::Cpu;
use super::machine::{After, Life, Vm, machine};
use super::xen::Apart;
use super::{run, start};

use core::sync::atomic::Ordering;

/// Stops all vCPUs of a VM; those that run leave their CPU soon.
pub(super) fn stop_all(vm: &Vm) {
    for vcpu in vm.vcpus() {
        let stop = vm.partition().scheduler.lock().stop(run::key(vcpu));
        if let Ok(Stop::OnCpu(cpu)) = stop {
            run::interrupt(cpu);
        }
    }
}

/// What the CPU that takes VMs apart works on, behind the memory of the VM.
#[expect(clippy::large_enum_variant, reason = "there are few, made at the start, and nothing can be allocated then")]
#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing.
    Idle,
    /// A VM is being built again from what is left.
    Building(Builder<'static>),
    /// Its frames become free, from this one on.
    Free(Mfn),
}

#[derive(Debug)]
pub(super) struct Working {
    stage: Stage,
    /// The VM whose stage that is; it is finished before another VM gets so far.
    vm: VmId,
}

impl Working {
    /// Nothing.
    pub(super) const IDLE: Working = Working { stage: Stage::Idle, vm: VmId(0) };
}

/// The longest step in nanoseconds, and as much again: the emulator measures up to 64,000 instructions, and
/// no step grows with the machine's memory or the VM's. None that may be too long for the rest of a slot is begun.
const STEP_NS: u64 = 150_000;
/// Frames that one step looks at.
const STEP_FRAMES: u64 = 2048;

/// Does one step for a VM that has ended and whose time it is. Answers whether there was anything to do.
pub(super) fn step(cpu: &Cpu) -> bool {
    let partition = cpu.partition();
    // To report that the VM which runs here has died took long enough.
    let has_died = || cpu.current().is_some_and(|vcpu| *vcpu.vm().life.lock() != Life::Live);
    if partition.ending.load(Ordering::SeqCst) == 0 || has_died() {
        return false;
    }
    if run::now(cpu).saturating_add(STEP_NS) > cpu.slot.end() {
        return false;
    }
    let Some(mut working) = partition.working.try_lock() else {
        return false;
    };
    let is_idle = matches!(working.stage, Stage::Idle);
    let only = working.vm;
    let own = machine().vms.iter().filter(|vm| vm.partition == cpu.slot.partition());
    own.filter(|vm| is_idle || vm.id == only).any(|vm| {
        let life = *vm.life.lock();
        match life {
            Life::Ending(after) => step_of(vm, &mut working, after),
            Life::Live | Life::Gone => false,
        }
    })
}

fn step_of(vm: &'static Vm, working: &mut Working, after: After) -> bool {
    if vm.is_loaded() || vm.partition().scheduler.lock().remove_vm(vm.id).is_err() {
        // A CPU is still on its way out of it.
        return false;
    }
    let given = vm.grants.lock().any_given();
    if let Some(grant) = given {
        return revoke(vm, grant).is_ok();
    }
    if let Some(domain) = &vm.xen {
        match domain.take_apart(vm, after) {
            Apart::Again => return true,
            Apart::Built => end(vm),
            Apart::Free if working.vm == vm.id && matches!(working.stage, Stage::Free(_)) => {
                return finish(vm, working, after);
            }
            Apart::Free => {
                working.vm = vm.id;
                working.stage = Stage::Free(Mfn(0));
            }
        }
        return true;
    }
    let Ok(mut memory) = vm.memory() else {
        return finish(vm, working, after);
    };
    for vcpu in vm.vcpus() {
        if let Some(space) = vcpu.take_space() {
            memory.leave(space);
        }
    }
    // Nobody maps grants of another partition.
    for owner in machine().vms.iter().filter(|owner| owner.partition == vm.partition) {
        let mapped = || owner.grants.lock().any_mapped_by(vm.id);
        while let Some(unmapping) = mapped() {
            take_out(vm, &mut memory, unmapping.place, unmapping.shown());
            owner.grants.lock().finish_unmap(unmapping);
        }
    }
    match memory.teardown_step(machine().memory()) {
        Ok(Teardown::Again) => true,
        Ok(Teardown::Done(remains)) => {
            drop(memory);
            vm.replace_memory(None);
            working.vm = vm.id;
            working.stage = match after {
                After::Restart => Stage::Building(start::builder(vm, Origin::Kept(remains))),
                After::Nothing => Stage::Free(Mfn(0)),
            };
            true
        }
        Err(_) => super::panic::broken("F4", "a frame of a VM that is gone is still referred to"),
    }
}

/// All memory is taken back: build it again, or free it.
fn finish(vm: &'static Vm, working: &mut Working, after: After) -> bool {
    match core::mem::replace(&mut working.stage, Stage::Idle) {
        Stage::Idle => super::panic::broken("V2", "an ending VM has no memory"),
        Stage::Building(mut builder) => match builder.step(machine().memory()) {
            Ok(Build::Again) => working.stage = Stage::Building(builder),
            Ok(Build::Done) => {
                start::launch(vm, builder.finish());
                end(vm);
            }
            // Building from kept frames needs what building the first time needed.
            Err(_) => super::panic::broken("F5", "a VM could not be built again from its own frames"),
        },
        Stage::Free(next) => match machine().frames.free_remains(vm.id, next, STEP_FRAMES) {
            Some(next) => working.stage = Stage::Free(next),
            None => {
                machine().live.fetch_sub(1, Ordering::SeqCst);
                vm.change_life(Life::Ending(after), Life::Gone);
                end(vm);
            }
        },
    }
    true
}

/// One VM less is taken apart.
fn end(vm: &Vm) {
    vm.partition().ending.fetch_sub(1, Ordering::SeqCst);
    #[cfg(feature = "recount")]
    super::recount::run();
}

/// Ends a grant of a VM: nobody reaches the frame any more when this returns.
///
/// # Errors
/// [`Status::NotFound`] without such a grant.
pub(super) fn revoke(vm: &Vm, grant: GrantRef) -> Result<(), Status> {
    let revoking = vm.grants.lock().begin_revoke(grant)?;
    if let Some(peer) = machine().vm(revoking.peer).filter(|_| revoking.place.is_some())
        && let Ok(mut memory) = peer.memory()
    {
        take_out(peer, &mut memory, revoking.place, revoking.shown());
    }
    if let Ok(mut memory) = vm.memory() {
        memory.unpin(machine().memory(), revoking.machine);
    }
    vm.grants.lock().finish_revoke(revoking);
    Ok(())
}
