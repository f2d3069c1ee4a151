//! The checks.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_sdk::event::{self, Event};
use guest_sdk::protocol::flags::EventSource;
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::{Nanos, Port, StartInfo, Status, VcpuId, call, check, check_eq, smp, time, verdict};

static COUNT: AtomicU32 = AtomicU32::new(0);

fn count() -> u32 {
    COUNT.load(Ordering::SeqCst)
}

pub fn main(_start: &'static StartInfo) {
    match run() {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run() -> Result<(), Status> {
    check_upcall()?;
    check_port_mask()?;
    check_block()?;
    check_ports()?;
    check_other_vcpu()
}

/// Sends to oneself, unmasked and masked.
fn check_upcall() -> Result<(), Status> {
    let event = Event::new(smp::current())?;
    event.on_event(|_| {
        COUNT.fetch_add(1, Ordering::SeqCst);
    });
    event.send()?;
    event.send()?;
    check_eq!(count(), 0, "handler calls while masked");
    event::unmask();
    check_eq!(count(), 1, "two sends before a look count once");
    for sent in 2..10 {
        event.send()?;
        check_eq!(count(), sent, "handler calls right behind the send");
    }
    event::mask();
    event.send()?;
    check_eq!(count(), 9, "handler calls while masked");
    call::event_deliver()?;
    check_eq!(count(), 9, "handler calls by event_deliver while masked");
    event::unmask();
    check_eq!(count(), 10, "handler calls after unmasking");
    event::mask();
    check!(event.take(), "the latch");
    check!(!event.take(), "the latch is taken once");
    Ok(())
}

/// A port's own mask.
fn check_port_mask() -> Result<(), Status> {
    let event = Event::new(smp::current())?;
    let page = Vcpu::current().page();
    let (word, bit) = (event.port().0 as usize / 64, 1 << (event.port().0 % 64));
    page.masked[word].fetch_or(bit, Ordering::SeqCst);
    event::unmask();
    event.send()?;
    check!(!event.take(), "a masked port was delivered");
    check!(page.pending[word].load(Ordering::SeqCst) & bit != 0, "a masked port stays pending");
    let started = time::now();
    call::block(Nanos(started.0 + 1_000_000))?;
    check!(time::now().0 >= started.0 + 1_000_000, "a masked port ended the sleep");
    page.masked[word].fetch_and(!bit, Ordering::SeqCst);
    // Unmasking a port is a store that the hypervisor does not see: the guest looks itself.
    page.events_pending.store(1, Ordering::SeqCst);
    event::mask();
    event::unmask();
    check!(event.take(), "an unmasked port was not delivered");
    event::mask();
    Ok(())
}

/// Sleeping over pending events, deadlines and kicks.
fn check_block() -> Result<(), Status> {
    let event = Event::new(smp::current())?;
    let far = Nanos(time::now().0 + 10_000_000_000);
    event.send()?;
    call::block(far)?;
    check!(time::now() < far, "slept over a pending event");
    event::dispatch();
    check!(event.take(), "the event that ended the sleep");
    call::vcpu_kick(smp::current())?;
    call::block(far)?;
    check!(time::now() < far, "slept over a kick");
    let near = Nanos(time::now().0 + 1_000_000);
    call::block(near)?;
    check!(time::now() >= near, "a kick counted twice, or the deadline came early");
    call::block(Nanos(0))?;
    check!(!event.wait_deadline(Nanos(time::now().0 + 1_000_000)), "an event from nowhere");
    Ok(())
}

/// Ports as objects: limits, closing, binding.
fn check_ports() -> Result<(), Status> {
    check_eq!(call::event_alloc(VcpuId(99)), Err(Status::NotFound), "a vCPU that is not there");
    for port in [Port(200), Port(256), Port(u32::MAX)] {
        check_eq!(call::event_send(port), Err(Status::NotFound), "send on {port:?}");
        check_eq!(call::event_close(port), Err(Status::NotFound), "close {port:?}");
    }
    let mut taken = 0;
    while call::event_alloc(VcpuId(0)).is_ok() {
        taken += 1;
    }
    check!(taken > 200, "only {taken} ports");
    check_eq!(call::event_alloc(VcpuId(0)), Err(Status::QuotaExceeded), "one port too many");
    for port in 0..256 {
        // A few are closed already or never were open.
        let _ = call::event_close(Port(port));
    }
    let first = Event::bound(EventSource::Timer, 0)?;
    check_eq!(Event::bound(EventSource::Timer, 0).err(), Some(Status::Busy), "bound twice");
    check_eq!(Event::bound(EventSource::Timer, 99).err(), Some(Status::InvalidArgument), "the timer of no vCPU");
    check_eq!(Event::bound(EventSource::ConsoleInput, 1).err(), Some(Status::InvalidArgument), "a second console");
    drop(first);
    call::timer_set(Nanos(0))?;
    let again = Event::bound(EventSource::Timer, 0)?;
    check!(again.wait_deadline(Nanos(time::now().0 + 1_000_000_000)), "a timer that fired unbound");
    Ok(())
}

static ROUNDS: AtomicU32 = AtomicU32::new(0);
const WANTED: u32 = 200;

/// Events back and forth between two vCPUs.
fn check_other_vcpu() -> Result<(), Status> {
    use guest_sdk::raw::call as raw;
    let (here, there) = (VcpuId(0), VcpuId(1));
    check_eq!(raw::vcpu_kick(there), Err(Status::WrongState), "kick a stopped vCPU");
    check_eq!(raw::vcpu_stop(there), Err(Status::WrongState), "stop a stopped vCPU");
    let to_them = Event::new(there)?;
    let to_us = Event::new(here)?;
    let (their_port, our_port) = (to_them.port(), to_us.port());
    smp::spawn(there, move || {
        for _ in 0..WANTED {
            to_them.wait();
            ROUNDS.fetch_add(1, Ordering::SeqCst);
            check_eq!(call::event_send(our_port), Ok(()), "answer");
        }
    })?;
    check_eq!(smp::spawn(there, || ()).err(), Some(Status::WrongState), "start a running vCPU");
    for round in 1..=WANTED {
        call::event_send(their_port)?;
        to_us.wait();
        check_eq!(ROUNDS.load(Ordering::SeqCst), round, "rounds");
    }
    Ok(())
}
