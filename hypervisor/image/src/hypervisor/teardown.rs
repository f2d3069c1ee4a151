//! Taking an ended VM apart, in steps that a CPU does between guests, and building it again.

use hv_core::grant::Revoking;
use hv_core::space::Teardown;
use hv_core::vm::{Build, Builder, Built, Origin};
use protocol::{GrantRef, Status};

use super::calls::take_out;
use super::lock::Lock;
use super::machine::{After, Life, Vm, machine};
use super::{run, start};

use core::sync::atomic::Ordering;

/// Stops all vCPUs of a VM; those that run leave their CPU soon.
pub(super) fn stop_all(vm: &Vm) {
    let on = machine().scheduler.lock().stop_all(vm.id);
    for cpu in on.iter() {
        run::interrupt(cpu);
    }
}

/// What the CPU that takes VMs apart works on.
struct Working {
    /// A VM that is being built again.
    builder: Option<Builder<'static>>,
}

static WORKING: Lock<Working> = Lock::new(Working { builder: None });

/// Does one step for a VM that has ended. Answers whether there was anything to do.
pub(super) fn step() -> bool {
    if machine().ending.load(Ordering::SeqCst) == 0 {
        return false;
    }
    let Some(mut working) = WORKING.try_lock() else {
        return false;
    };
    machine().vms.iter().any(|vm| match vm.life() {
        Life::Ending(after) => step_of(vm, &mut working, after),
        Life::Live | Life::Gone => false,
    })
}

fn step_of(vm: &'static Vm, working: &mut Working, after: After) -> bool {
    if vm.is_loaded() || machine().scheduler.lock().remove_vm(vm.id).is_err() {
        // A CPU is still on its way out of it.
        return false;
    }
    let given = vm.grants.lock().any_given();
    if let Some(grant) = given {
        return revoke(vm, grant).is_ok();
    }
    let Ok(mut memory) = vm.memory() else {
        return finish(vm, working, after);
    };
    for vcpu in vm.vcpus() {
        if let Some(space) = vcpu.take_space() {
            memory.leave(space);
        }
    }
    for owner in &machine().vms {
        let mapped = || owner.grants.lock().any_mapped_by(vm.id);
        while let Some(unmapping) = mapped() {
            take_out(vm, &mut memory, unmapping.place, unmapping.machine);
            owner.grants.lock().finish_unmap(unmapping);
        }
    }
    match memory.teardown_step(machine().memory()) {
        Ok(Teardown::Again) => true,
        Ok(Teardown::Done) => {
            drop(memory);
            vm.replace_memory(None);
            true
        }
        Err(_) => super::panic::broken("F4", "a frame of a VM that is gone is still referred to"),
    }
}

/// All memory is taken back: build it again, or be gone.
fn finish(vm: &'static Vm, working: &mut Working, after: After) -> bool {
    let next = match after {
        After::Restart => {
            let Some(built) = rebuild(vm, working) else {
                return true;
            };
            start::launch(vm, built);
            Life::Live
        }
        After::Nothing => {
            machine().live.fetch_sub(1, Ordering::SeqCst);
            Life::Gone
        }
    };
    machine().ending.fetch_sub(1, Ordering::SeqCst);
    vm.change_life(Life::Ending(after), next);
    true
}

/// Does a step of building a VM again; the VM when it is ready.
fn rebuild(vm: &'static Vm, working: &mut Working) -> Option<Built> {
    let builder = match &mut working.builder {
        Some(builder) => builder,
        None => {
            let begun = start::builder(vm, Origin::Kept, &machine().slots);
            working.builder.insert(begun.unwrap_or_else(|_| cannot_fail()))
        }
    };
    match builder.step(machine().memory()) {
        Ok(Build::Again) => None,
        Ok(Build::Done) => working.builder.take().and_then(Builder::finish),
        Err(_) => cannot_fail(),
    }
}

/// Building from kept frames needs what building the first time needed.
fn cannot_fail() -> ! {
    super::panic::broken("F5", "a VM could not be built again from its own frames")
}

/// Ends a grant of a VM: nobody reaches the frame any more when this returns.
pub(super) fn revoke(vm: &Vm, grant: GrantRef) -> Result<(), Status> {
    let revoking: Revoking = vm.grants.lock().begin_revoke(grant)?;
    if let Some(place) = revoking.place
        && let Some(peer) = machine().vm(revoking.peer)
        && let Ok(mut memory) = peer.memory()
    {
        take_out(peer, &mut memory, place, revoking.machine);
    }
    if let Ok(mut memory) = vm.memory() {
        memory.unpin(machine().memory(), revoking.machine);
    }
    vm.grants.lock().finish_revoke(revoking);
    Ok(())
}
