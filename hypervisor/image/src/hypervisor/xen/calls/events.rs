//! Event channels.

use protocol::xen::structure::{AllocUnbound, BindInterdomain, BindVirq, EventStatus, TwoNumbers};
use protocol::xen::{Errno, event};
use protocol::{Port, VcpuId};

use hv_core::abi::xen::event::{PORTS, Sent};

use super::{Caller, Refusal, Reply, read, write};

/// Tells the guest the number of a new port, which must not look pending from an earlier use.
fn give(caller: &Caller<'_>, port: Port) -> u32 {
    caller.domain.shared().clear(port.0);
    port.0
}

#[inline(never)]
pub(super) fn event_channel_op(caller: &mut Caller<'_>, command: u64, argument: u64) -> Reply {
    let ports = &caller.domain.ports;
    match command {
        event::SEND => return send(caller, Port(read(argument)?)),
        event::UNMASK => {
            let raise = ports.lock().unmask(Port(read(argument)?))?;
            if caller.domain.shared().unmask(raise.port.0) {
                caller.domain.notify(caller.vm(), raise);
            }
        }
        event::BIND_VIRQ => {
            let bind: BindVirq = read(argument)?;
            let port = ports.lock().bind_virq(bind.virq, VcpuId(bind.vcpu))?;
            write(argument, &BindVirq { port: give(caller, port), ..bind })?;
            if bind.virq == event::VIRQ_TIMER && bind.vcpu == caller.vcpu.id.0 {
                super::vcpus::rearm(caller);
            }
        }
        event::BIND_IPI => {
            let bind: TwoNumbers = read(argument)?;
            let port = ports.lock().bind_ipi(VcpuId(bind.first))?;
            write(argument, &TwoNumbers { second: give(caller, port), ..bind })?;
        }
        event::BIND_VCPU => {
            let bind: TwoNumbers = read(argument)?;
            ports.lock().bind_vcpu(Port(bind.first), VcpuId(bind.second))?;
        }
        event::ALLOC_UNBOUND => {
            let wanted: AllocUnbound = read(argument)?;
            let port = ports.lock().alloc_unbound(wanted.dom, wanted.remote_dom)?;
            write(argument, &AllocUnbound { port: give(caller, port), ..wanted })?;
        }
        event::BIND_INTERDOMAIN => {
            let bind: BindInterdomain = read(argument)?;
            let raise = ports.lock().bind_interdomain(bind.remote_dom, Port(bind.remote_port))?;
            let local_port = give(caller, raise.port);
            write(argument, &BindInterdomain { local_port, ..bind })?;
            caller.domain.raise(caller.vm(), raise);
        }
        event::CLOSE => ports.lock().close(Port(read(argument)?))?,
        event::STATUS => {
            let asked: EventStatus = read(argument)?;
            let status = ports.lock().status(asked.dom, Port(asked.port))?;
            write(argument, &status)?;
        }
        event::RESET => {
            let dom: u16 = read(argument)?;
            ports.lock().reset_by(dom)?;
        }
        event::BIND_PIRQ => return Err(Errno::Invalid.into()),
        // Events by queues are not offered: guests then use the two levels of bits.
        _ => return caller.unknown(protocol::xen::call::EVENT_CHANNEL_OP),
    }
    Ok(0)
}

fn send(caller: &Caller<'_>, port: Port) -> Reply {
    let sent = caller.domain.ports.lock().send(port)?;
    match sent {
        Sent::Own(raise) => caller.domain.raise(caller.vm(), raise),
        Sent::Console => {
            caller.domain.drain_console(caller.vm());
            // It may have made room for what was typed.
            caller.domain.input(caller.vm());
        }
        Sent::Nobody => {}
    }
    Ok(0)
}

/// Whether any of the ports that a poll names is pending.
///
/// # Errors
/// `Invalid` for a port that cannot be.
pub(super) fn any_pending(caller: &Caller<'_>, ports: &[u32]) -> Result<bool, Refusal> {
    if ports.iter().any(|port| *port == 0 || *port >= PORTS) {
        return Err(Errno::Invalid.into());
    }
    Ok(ports.iter().any(|port| caller.domain.shared().is_pending(*port)))
}
