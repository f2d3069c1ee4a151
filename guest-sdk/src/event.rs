//! Events: ports, their handlers, the mask, and waiting.
//!
//! An event that arrives sets its port's latch and calls the port's handler, if it has one: in an
//! upcall when events are unmasked, or within [`wait_until`] and its kin. Events are masked when the
//! kernel starts; a kernel that only waits never needs to unmask them.
//!
//! Waiting cannot miss an event: the condition is looked at with events masked, and the hypervisor
//! lets nobody sleep while a port is pending.

use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use protocol::flags::EventSource;
use protocol::layout::limit;
use protocol::{Nanos, Port, Status, VcpuId};

use crate::raw::call;
use crate::raw::page::VcpuPage;
use crate::raw::slot::Slot;
use crate::raw::vcpu::Vcpu;

const PORTS: usize = limit::PORTS as usize;

static HANDLERS: [Slot<fn(&mut Port)>; PORTS] = [const { Slot::new() }; PORTS];
static LATCHES: [AtomicU64; PORTS / 64] = [const { AtomicU64::new(0) }; PORTS / 64];

/// Whether upcalls are held back on a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskState {
    /// Events stay pending.
    Masked,
    /// Events interrupt.
    Unmasked,
}

/// Whether events are held back on this vCPU: what the interrupt flag in `pushf` tells on bare
/// hardware. The real flag is always 1 in a guest and tells nothing.
#[must_use]
pub fn state() -> MaskState {
    match Vcpu::current().page().events_masked.load(Ordering::Relaxed) {
        0 => MaskState::Unmasked,
        _ => MaskState::Masked,
    }
}

/// Whether an event waits to be taken by this vCPU. While events are masked, nothing else tells.
#[must_use]
pub fn is_pending() -> bool {
    Vcpu::current().page().events_pending.load(Ordering::Acquire) != 0
}

/// Holds events back on this vCPU; returns what was before, for [`restore`].
///
/// Where a kernel has `pushf; cli` and later `popf`:
/// ```no_run
/// use guest_sdk::event;
///
/// let before = event::mask();
/// // what no event handler may interrupt
/// event::restore(before);
/// ```
/// [`without_events`] and [`masked`] do the same and cannot forget the second half.
#[inline]
pub fn mask() -> MaskState {
    let page = Vcpu::current().page();
    let before = page.events_masked.load(Ordering::Relaxed);
    page.events_masked.store(1, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    if before == 0 { MaskState::Unmasked } else { MaskState::Masked }
}

/// Lets events interrupt this vCPU; those that are pending are handled first.
#[inline]
pub fn unmask() {
    let page = Vcpu::current().page();
    compiler_fence(Ordering::SeqCst);
    page.events_masked.store(0, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    while page.events_pending.load(Ordering::Relaxed) != 0 {
        page.events_masked.store(1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        dispatch();
        compiler_fence(Ordering::SeqCst);
        page.events_masked.store(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }
}

/// Makes the mask what it was, in either direction; events that came meanwhile are handled first when
/// that unmasks.
#[inline]
pub fn restore(before: MaskState) {
    match before {
        MaskState::Masked => {
            mask();
        }
        MaskState::Unmasked => unmask(),
    }
}

/// Events stay masked while this lives.
#[derive(Debug)]
#[must_use]
pub struct Masked {
    before: MaskState,
}

/// Holds events back until the value is dropped.
pub fn masked() -> Masked {
    Masked { before: mask() }
}

impl Drop for Masked {
    fn drop(&mut self) {
        restore(self.before);
    }
}

/// Runs something with events held back.
pub fn without_events<R>(body: impl FnOnce() -> R) -> R {
    let _masked = masked();
    body()
}

/// Takes every pending, unmasked event of this vCPU: sets latches and calls handlers. Events are to
/// be masked. The upcall does this; a kernel that never unmasks may do it itself.
pub fn dispatch() {
    let page = Vcpu::current().page();
    while page.events_pending.swap(0, Ordering::AcqRel) != 0 {
        for word in 0..page.pending.len() {
            take_word(page, word);
        }
    }
}

/// Takes the pending events of 64 ports.
fn take_word(page: &VcpuPage, word: usize) {
    let pending = page.pending[word].load(Ordering::Acquire);
    let mut bits = pending & !page.masked[word].load(Ordering::Relaxed);
    if bits == 0 {
        return;
    }
    page.pending[word].fetch_and(!bits, Ordering::AcqRel);
    LATCHES[word].fetch_or(bits, Ordering::AcqRel);
    while bits != 0 {
        let port = word * 64 + bits.trailing_zeros() as usize;
        bits &= bits - 1;
        if let Some(handler) = HANDLERS[port].function() {
            handler(&mut Port(port as u32));
        }
    }
}

/// Sleeps until an event was taken or the deadline passed, then takes what is pending.
///
/// It may return early. Between looking at a condition and sleeping, events must stay masked;
/// [`wait_until`] does it right.
pub fn sleep_once(deadline: Nanos) {
    let _masked = masked();
    let _ = call::block(deadline);
    dispatch();
}

/// Sleeps until `condition` holds or the deadline passed; tells which by its result, true for the
/// condition. It is looked at once at first and then after events, with events masked.
pub fn wait_deadline(deadline: Nanos, mut condition: impl FnMut() -> bool) -> bool {
    let _masked = masked();
    loop {
        if condition() {
            return true;
        }
        if deadline != Nanos::NEVER && crate::time::now() >= deadline {
            return false;
        }
        let _ = call::block(deadline);
        dispatch();
    }
}

/// Sleeps until `condition` holds. It is looked at once at first and then after events, with events
/// masked.
pub fn wait_until(condition: impl FnMut() -> bool) {
    wait_deadline(Nanos::NEVER, condition);
}

/// A port of the VM, closed when dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    port: Port,
}

impl Event {
    /// A port that the VM's own vCPUs send to; `vcpu` takes the events.
    ///
    /// # Errors
    /// [`Status::QuotaExceeded`] when no port is free; [`Status::NotFound`] for a vCPU that the VM
    /// has not.
    pub fn new(vcpu: VcpuId) -> Result<Event, Status> {
        let port = call::event_alloc(vcpu)?;
        let event = Event { port };
        event.clear_handler();
        event.take();
        Ok(event)
    }

    /// A port bound to a source, taken by this vCPU.
    ///
    /// # Errors
    /// [`Status::Busy`] when another port is bound to the source; [`Status::InvalidArgument`] for an
    /// index that the source has not.
    pub fn bound(source: EventSource, index: u64) -> Result<Event, Status> {
        let vcpu = Vcpu::current().number();
        let event = Event::new(vcpu)?;
        call::event_bind(event.port, source, index, vcpu)?;
        Ok(event)
    }

    /// The port's number.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Makes the port pending; for a channel's port, the peer's end.
    ///
    /// # Errors
    /// Those of `event_send`.
    pub fn send(&self) -> Result<(), Status> {
        call::event_send(self.port)
    }

    /// Has a function called for each event that is taken. It runs with events masked, and must not
    /// wait.
    pub fn on_event(&self, handler: fn(&mut Port)) {
        HANDLERS[self.index()].set(handler);
    }

    /// Has no function called any more.
    pub fn clear_handler(&self) {
        HANDLERS[self.index()].clear();
    }

    /// Whether an event was taken since the last time that this was asked.
    pub fn take(&self) -> bool {
        let bit = 1 << (self.index() % 64);
        let word = &LATCHES[self.index() / 64];
        word.load(Ordering::Acquire) & bit != 0 && word.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Sleeps until an event is taken. Only the vCPU that takes the port's events may wait for it.
    pub fn wait(&self) {
        wait_until(|| self.take());
    }

    /// As [`Event::wait`], at most until the deadline; true for an event.
    pub fn wait_deadline(&self, deadline: Nanos) -> bool {
        wait_deadline(deadline, || self.take())
    }

    fn index(&self) -> usize {
        self.port.0 as usize % PORTS
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.clear_handler();
        let _ = call::event_close(self.port);
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, HANDLERS, MaskState, dispatch, is_pending, mask, restore, state, unmask};
    use crate::raw::vcpu::Vcpu;
    use core::sync::atomic::{AtomicU32, Ordering};
    use protocol::Port;

    /// One test, since the page stands for the one vCPU of the host.
    #[test]
    fn events_are_taken_once_and_only_while_unmasked() {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let page = Vcpu::current().page();
        let happen = |port: u32| {
            page.pending[port as usize / 64].fetch_or(1 << (port % 64), Ordering::SeqCst);
            page.events_pending.store(1, Ordering::SeqCst);
        };
        HANDLERS[70].set(|port| {
            CALLS.fetch_add(port.0, Ordering::SeqCst);
        });
        let event = Event { port: Port(70) };

        assert_eq!(mask(), MaskState::Masked);
        assert!(!is_pending());
        happen(70);
        assert!(is_pending() && !event.take());
        unmask();
        assert_eq!(CALLS.load(Ordering::SeqCst), 70);
        assert!(event.take());
        assert!(!event.take());
        assert_eq!(mask(), MaskState::Unmasked);
        restore(MaskState::Unmasked);
        assert_eq!(state(), MaskState::Unmasked);
        restore(MaskState::Masked);
        assert_eq!(state(), MaskState::Masked);

        page.masked[1].store(1 << 6, Ordering::SeqCst);
        happen(70);
        dispatch();
        assert!(!event.take());
        page.masked[1].store(0, Ordering::SeqCst);
        page.events_pending.store(1, Ordering::SeqCst);
        restore(MaskState::Masked);
        assert!(!event.take());
        restore(MaskState::Unmasked);
        assert!(event.take());
    }
}
