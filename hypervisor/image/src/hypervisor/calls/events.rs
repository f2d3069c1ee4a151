//! Event ports.

use protocol::call::{EventAlloc, EventBind, EventClose, EventDeliver, EventSend};
use protocol::{Port, Status};

use hv_core::event::{Raise, Target};
use hv_core::policy::Operation;

use super::{Caller, Refusal};
use crate::hypervisor::cpu::work;
use crate::hypervisor::events::{clear, raise};
use crate::hypervisor::machine::machine;
use crate::hypervisor::slots;

pub(super) fn event_alloc(caller: &mut Caller<'_>, call: EventAlloc) -> Result<Port, Refusal> {
    let vm = caller.vm();
    let port = vm.ports.lock().alloc(call.vcpu)?;
    // A guest may have set the bit itself while the port was free.
    clear(vm, call.vcpu, port);
    Ok(port)
}

pub(super) fn event_bind(caller: &mut Caller<'_>, call: EventBind) -> Result<(), Refusal> {
    let vm = caller.vm();
    let mut ports = vm.ports.lock();
    let source = ports.source(call.source, call.index)?;
    let bound = ports.bind(call.port, source, call.vcpu)?;
    let was_pending = bound.moved_from.is_some_and(|from| clear(vm, from, call.port));
    drop(ports);
    if bound.raise || was_pending {
        raise(vm, Raise { vcpu: call.vcpu, port: call.port });
    }
    Ok(())
}

pub(super) fn event_send(caller: &mut Caller<'_>, call: EventSend) -> Result<(), Refusal> {
    let vm = caller.vm();
    let target = vm.ports.lock().send(call.port)?;
    match target {
        Target::Own(event) => raise(vm, event),
        Target::Peer(end) => {
            let permit = machine().image.monitor().decide(vm.id, Operation::EventSend, end.peer)?;
            let peer = machine().vm(end.peer).ok_or(Status::NotPermitted)?;
            let mut ports = peer.ports.lock();
            let source = ports.accept(permit, end.peer_channel)?;
            if peer.partition != vm.partition {
                slots::hold(peer, source);
                return Ok(());
            }
            let event = ports.happened(source);
            drop(ports);
            if let Some(event) = event {
                raise(peer, event);
            }
        }
    }
    Ok(())
}

pub(super) fn event_close(caller: &mut Caller<'_>, call: EventClose) -> Result<(), Refusal> {
    let vm = caller.vm();
    let vcpu = vm.ports.lock().close(call.port)?;
    clear(vm, vcpu, call.port);
    Ok(())
}

pub(super) fn event_deliver(caller: &mut Caller<'_>, _call: EventDeliver) -> Result<(), Refusal> {
    caller.alone()?;
    caller.cpu.ask(work::EVENTS);
    Ok(())
}
