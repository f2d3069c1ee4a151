//! Yielding, waiting and shutting down.

use core::sync::atomic::Ordering;

use hv_arch::guest::copy;
use hv_core::addr::convert::index;
use hv_core::sched::Block;
use protocol::xen::structure::SchedPoll;
use protocol::xen::{Errno, sched};
use protocol::{GuestVirt, Nanos};
use zerocopy::IntoBytes;

use super::events::any_pending;
use super::{Caller, Reply, read};
use crate::hypervisor::cpu::work;
use crate::hypervisor::run;
use crate::hypervisor::vcpu::Presence;

#[inline(never)]
pub(super) fn sched_op(caller: &mut Caller<'_>, command: u64, argument: u64) -> Reply {
    match command {
        sched::YIELD => {
            caller.domain.drain_console(caller.vm());
            caller.cpu.partition().scheduler.lock().yield_now(caller.cpu.id);
            caller.cpu.ask(work::RESCHEDULE);
            Ok(0)
        }
        sched::BLOCK => {
            caller.domain.drain_console(caller.vm());
            caller.xen.info().set_mask(0);
            wait(caller, Nanos::NEVER, |caller| caller.xen.info().wants_upcall());
            Ok(0)
        }
        sched::POLL => poll(caller, argument),
        sched::SHUTDOWN => {
            let reason: u32 = read(argument)?;
            super::super::life::shut_down(caller, reason)
        }
        sched::SHUTDOWN_CODE => {
            let _reason: u32 = read(argument)?;
            Ok(0)
        }
        _ => caller.unknown(protocol::xen::call::SCHED_OP),
    }
}

/// Sleeps until an event wakes the vCPU, unless there is one already.
fn wait(caller: &Caller<'_>, deadline: Nanos, has_event: impl Fn(&Caller<'_>) -> bool) {
    let deadline = caller.vm().clock.lock().to_machine(deadline);
    let mut scheduler = caller.cpu.partition().scheduler.lock();
    // First be seen as blocked, then look: who raises an event does it the other way round.
    caller.vcpu.set_presence(Presence::Blocked);
    let outcome = if has_event(caller) {
        Block::Returned
    } else {
        scheduler.block(run::key(caller.vcpu), deadline, run::now(caller.cpu))
    };
    match outcome {
        Block::Asleep => caller.cpu.ask(work::RESCHEDULE),
        Block::Returned => {
            caller.vcpu.set_presence(Presence::Running(caller.cpu.id));
            caller.cpu.ask(work::EVENTS);
        }
    }
}

/// Room for the ports of a poll.
const PORTS: usize = 128;
const _: () = assert!(sched::POLL_PORTS == 128);

fn poll(caller: &Caller<'_>, argument: u64) -> Reply {
    let SchedPoll { ports: array, nr_ports, timeout, .. } = read(argument)?;
    let mut numbers = [0_u32; PORTS];
    let ports = numbers.get_mut(..index(u64::from(nr_ports))).ok_or(Errno::Invalid)?;
    copy::read(GuestVirt(array), ports.as_mut_bytes())?;
    let ports = &*ports;
    any_pending(caller, ports)?;
    let bit = 1_u64.wrapping_shl(caller.vcpu.id.0);
    let deadline = if timeout == 0 { Nanos::NEVER } else { Nanos(timeout) };
    wait(caller, deadline, |caller| {
        // Under the lock of the sleep: whoever takes this away before for another port does not find the vCPU asleep.
        caller.domain.polling.fetch_or(bit, Ordering::SeqCst);
        let is_seen = any_pending(caller, ports).unwrap_or(true) || caller.xen.info().wants_upcall();
        if is_seen {
            caller.domain.polling.fetch_and(!bit, Ordering::SeqCst);
        }
        is_seen
    });
    Ok(0)
}
