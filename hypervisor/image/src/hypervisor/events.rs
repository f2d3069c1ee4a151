//! Making ports pending, and waking or interrupting whoever takes them.

use hv_core::event::{Raise, Source};
use protocol::{Port, VcpuId};

use super::cpu::{self, work};
use super::machine::Vm;
use super::run;
use super::vcpu::{Presence, Vcpu};

/// Tells a VM that something happened which it may wait for.
pub(super) fn happened(vm: &'static Vm, source: Source) {
    if let Some(domain) = &vm.xen {
        return domain.happened(vm, source);
    }
    let event = vm.ports.lock().happened(source);
    if let Some(event) = event {
        raise(vm, event);
    }
}

/// Makes a port pending at its vCPU, and has the vCPU look if it takes that now.
pub(super) fn raise(vm: &'static Vm, event: Raise) {
    let Some(vcpu) = vm.vcpu(event.vcpu) else {
        return;
    };
    if vcpu.page().raise(event.port.0) {
        alert(vcpu);
    }
}

/// Has a vCPU look at its events: wakes it, interrupts its CPU, or leaves it alone when it will look
/// anyway.
pub(super) fn alert(vcpu: &'static Vcpu) {
    match vcpu.presence() {
        Presence::Blocked => run::wake(vcpu),
        Presence::Running(on) => {
            let own = cpu::own();
            if on == own.id {
                own.ask(work::EVENTS);
            } else {
                run::interrupt(on);
            }
        }
        Presence::Away => {}
    }
}

/// Clears the pending bit of a port and tells whether it was set.
pub(super) fn clear(vm: &'static Vm, vcpu: VcpuId, port: Port) -> bool {
    vm.vcpu(vcpu).is_some_and(|vcpu| vcpu.page().clear(port.0))
}
