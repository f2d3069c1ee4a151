//! Ports: taken, bound, sent to, closed; and their delivery.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_sdk::event::{self, Event};
use guest_sdk::protocol::call::{EventAlloc, EventBind, EventClose, EventDeliver, EventSend};
use guest_sdk::protocol::flags::EventSource;
use guest_sdk::raw::vcpu::{Vcpu, page_of};
use guest_sdk::{Nanos, Port, StartInfo, Status, VcpuId, call, smp, time};

use crate::board::{self, Board};
use crate::case::{Fault, Outcome};
use crate::parts::servant;
use crate::scene::{self, SECOND};
use crate::{ensure, ensure_eq, record};

crate::cases! {
    EventDeliver "now or not" ["EVT-1"] [] deliver;
    EventAlloc "a port without a past" ["EVT-2"] [] fresh_port;
    EventAlloc "all ports" [] [QuotaExceeded] all_ports;
    EventBind "a source that is taken" ["EVT-3"] [Busy] bound_twice;
    EventBind "sources that are not there" [] [InvalidArgument NotFound] no_source;
    EventBind "a source that happened before" ["EVT-4"] [] bound_late;
    EventBind "to another vCPU" ["EVT-5"] [] bound_anew;
    EventSend "two before a look" ["EVT-6"] [] two_sends;
    EventSend "to a peer" ["EVT-6"] [] send_to_peer;
    EventSend "to a peer that does not listen" ["EVT-7"] [] send_to_deaf;
    EventSend "to a peer that is gone" ["EVT-7"] [] send_to_gone;
    EventSend "from the end that only listens" [] [NotPermitted] send_back;
    EventClose "what is freed" ["EVT-8"] [] close;
}

fn alloc(vcpu: VcpuId) -> Result<Port, Status> {
    record::make(EventAlloc { vcpu })
}

fn close_port(port: Port) -> Result<(), Status> {
    record::make(EventClose { port })
}

fn bind(port: Port, source: EventSource, index: u64, vcpu: VcpuId) -> Result<(), Status> {
    record::make(EventBind { port, source, index, vcpu })
}

/// Whether a port's bit is set in the page of a vCPU.
fn is_pending(vcpu: VcpuId, port: Port) -> bool {
    let word = page_of(vcpu).and_then(|page| page.pending.get(port.0 as usize / 64));
    word.is_some_and(|word| word.load(Ordering::SeqCst) & 1 << (port.0 % 64) != 0)
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn count(event: &Event) {
    COUNT.store(0, Ordering::SeqCst);
    event.on_event(|_| {
        COUNT.fetch_add(1, Ordering::SeqCst);
    });
}

fn deliver() -> Outcome {
    let event = Event::new(smp::current())?;
    count(&event);
    record::make(EventDeliver {})?;
    ensure_eq!(COUNT.load(Ordering::SeqCst), 0, "upcalls with nothing pending");
    event.send()?;
    record::make(EventDeliver {})?;
    ensure_eq!(COUNT.load(Ordering::SeqCst), 0, "upcalls with events masked");
    Vcpu::current().page().events_masked.store(0, Ordering::SeqCst);
    record::make(EventDeliver {})?;
    ensure_eq!(COUNT.load(Ordering::SeqCst), 1, "upcalls with events unmasked");
    let masked = Vcpu::current().page().events_masked.load(Ordering::SeqCst);
    ensure_eq!(masked, 0, "the mask behind the upcall");
    Ok(())
}

fn fresh_port() -> Outcome {
    let own = smp::current();
    let port = alloc(own)?;
    record::make(EventSend { port })?;
    close_port(port)?;
    // The guest may set the bit itself while nobody has the port.
    if let Some(word) = Vcpu::current().page().pending.get(port.0 as usize / 64) {
        word.fetch_or(1 << (port.0 % 64), Ordering::SeqCst);
    }
    let mut others = alloc::vec::Vec::new();
    let again = loop {
        let found = alloc(own)?;
        if found == port {
            break found;
        }
        others.push(found);
    };
    let was_pending = is_pending(own, again);
    others.into_iter().chain([again]).try_for_each(close_port)?;
    ensure!(!was_pending, "a port that was just taken is pending");
    Ok(())
}

fn all_ports() -> Outcome {
    let own = smp::current();
    let mut taken = alloc::vec::Vec::new();
    let refused = loop {
        match alloc(own) {
            Ok(port) => taken.push(port),
            Err(status) => break status,
        }
    };
    let count = taken.len();
    taken.into_iter().try_for_each(close_port)?;
    ensure_eq!(refused, Status::QuotaExceeded, "one port too many");
    ensure!(count > 200, "only {count} ports");
    Ok(())
}

fn bound_twice() -> Outcome {
    let (first, second) = (alloc(SECOND)?, alloc(SECOND)?);
    let outcome = bound_twice_with(first, second);
    close_port(first)?;
    close_port(second)?;
    outcome
}

fn bound_twice_with(first: Port, second: Port) -> Outcome {
    let servant = scene::helper("servant")?.channel;
    for (source, index) in [(EventSource::Timer, 0), (EventSource::Channel, servant), (EventSource::ConsoleInput, 0)] {
        bind(first, source, index, SECOND)?;
        scene::refuse(EventBind { port: second, source, index, vcpu: SECOND }, Status::Busy)?;
        bind(first, source, index, smp::current())?;
    }
    Ok(())
}

fn no_source() -> Outcome {
    let port = alloc(smp::current())?;
    let refuse = |source, index, vcpu, status| scene::refuse(EventBind { port, source, index, vcpu }, status);
    let own = smp::current();
    let outcome = refuse(EventSource::ConsoleInput, 1, own, Status::InvalidArgument)
        .and_then(|()| refuse(EventSource::Timer, 99, own, Status::InvalidArgument))
        .and_then(|()| refuse(EventSource::Timer, 1 << 32, own, Status::InvalidArgument))
        .and_then(|()| refuse(EventSource::Channel, 7, own, Status::InvalidArgument))
        .and_then(|()| refuse(EventSource::Channel, u64::MAX, own, Status::InvalidArgument))
        .and_then(|()| refuse(EventSource::Timer, 0, VcpuId(99), Status::NotFound));
    close_port(port)?;
    outcome
}

fn bound_late() -> Outcome {
    call::timer_set(Nanos(0))?;
    // Until the timer has fired, for which it needs no port.
    let end = time::now().0 + 5_000_000;
    while time::now().0 < end {
        board::pause();
    }
    let own = smp::current();
    let port = alloc(own)?;
    let bound = bind(port, EventSource::Timer, 0, own);
    let was_pending = is_pending(own, port);
    close_port(port)?;
    bound?;
    ensure!(was_pending, "what happened before is lost");
    Ok(())
}

fn bound_anew() -> Outcome {
    let own = smp::current();
    let port = alloc(own)?;
    let outcome = bound_anew_with(own, port);
    close_port(port)?;
    ensure!(!is_pending(SECOND, port), "a closed port is pending");
    outcome
}

fn bound_anew_with(own: VcpuId, port: Port) -> Outcome {
    record::make(EventSend { port })?;
    ensure!(is_pending(own, port), "the port is pending");
    bind(port, EventSource::Timer, 0, SECOND)?;
    ensure!(!is_pending(own, port), "the old vCPU has the pending bit still");
    ensure!(is_pending(SECOND, port), "the new vCPU has no pending bit");
    bind(port, EventSource::Timer, 1, own)?;
    ensure!(is_pending(own, port) && !is_pending(SECOND, port), "the bit did not come back");
    let other = alloc(own)?;
    let free = bind(other, EventSource::Timer, 0, own);
    close_port(other)?;
    ensure_eq!(free, Ok(()), "bind to the source that the port gave up");
    Ok(())
}

fn two_sends() -> Outcome {
    let event = Event::new(smp::current())?;
    count(&event);
    let port = event.port();
    for _ in 0..2 {
        record::make(EventSend { port })?;
    }
    event::unmask();
    ensure_eq!(COUNT.load(Ordering::SeqCst), 1, "events of two sends");
    record::make(EventSend { port })?;
    ensure_eq!(COUNT.load(Ordering::SeqCst), 2, "events after one more");
    event::mask();
    Ok(())
}

/// Sends to the peer of a board's channel.
fn send_over(board: &Board, times: u32) -> Outcome {
    let port = alloc(smp::current())?;
    let bound = bind(port, EventSource::Channel, board.channel, smp::current());
    let sent = bound.and_then(|()| (0..times).try_for_each(|_| record::make(EventSend { port })));
    let came_back = is_pending(smp::current(), port);
    close_port(port)?;
    sent?;
    ensure!(!came_back, "the sender's own port is pending");
    Ok(())
}

fn send_to_peer() -> Outcome {
    let board = scene::helper("servant")?;
    board.ask(servant::BIND, &[])??;
    board.ask(servant::TAKE, &[])??;
    let outcome = send_over(&board, 2).and_then(|()| {
        ensure_eq!(board.ask(servant::TAKE, &[])?, Ok(1), "whether the peer saw an event");
        ensure_eq!(board.ask(servant::TAKE, &[])?, Ok(0), "whether the peer saw a second one");
        Ok(())
    });
    board.ask(servant::UNBIND, &[])??;
    outcome
}

fn send_to_deaf() -> Outcome {
    send_over(&scene::helper("servant")?, 3)
}

fn send_to_gone() -> Outcome {
    send_over(&scene::have_leaver_end()?, 3)
}

/// The suite is the receiver of a one-way channel.
fn send_back() -> Outcome {
    let channels = StartInfo::of_this_vm().channels();
    let index = channels.iter().position(|info| info.frames == 0);
    let index = index.ok_or_else(|| Fault("there is no one-way channel".into()))?;
    let port = alloc(smp::current())?;
    let bound = bind(port, EventSource::Channel, index as u64, smp::current());
    let refused = bound.map_err(Fault::from).and_then(|()| scene::refuse(EventSend { port }, Status::NotPermitted));
    close_port(port)?;
    refused
}

fn close() -> Outcome {
    let own = smp::current();
    let port = alloc(own)?;
    bind(port, EventSource::Timer, 0, own)?;
    let other = alloc(own)?;
    record::make(EventSend { port })?;
    let was_pending = is_pending(own, port);
    close_port(port)?;
    let (still_pending, bound) = (is_pending(own, port), bind(other, EventSource::Timer, 0, own));
    close_port(other)?;
    ensure!(was_pending && !still_pending, "pending before and after: {was_pending}, {still_pending}");
    ensure_eq!(bound, Ok(()), "bind to the source of a closed port");
    scene::refuse(EventClose { port }, Status::NotFound)?;
    scene::refuse(EventSend { port }, Status::NotFound)
}
