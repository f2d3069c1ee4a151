//! The one-shot timer that each vCPU has.

use protocol::flags::EventSource;
use protocol::{Nanos, Port, Status};

use crate::event::Event;
use crate::raw::call;
use crate::raw::vcpu::Vcpu;

/// The timer of the vCPU that made it. Dropping it disarms it.
#[derive(Debug)]
pub struct Timer {
    event: Event,
}

impl Timer {
    /// The timer of this vCPU.
    ///
    /// # Errors
    /// [`Status::Busy`] when the vCPU has one already.
    pub fn new() -> Result<Timer, Status> {
        let number = Vcpu::current().number();
        let event = Event::bound(EventSource::Timer, u64::from(number.0))?;
        Ok(Timer { event })
    }

    /// Has the event happen at a time, instead of the one set before. Only for the timer's own vCPU.
    ///
    /// # Errors
    /// None in practice.
    pub fn set(&self, deadline: Nanos) -> Result<(), Status> {
        call::timer_set(deadline)
    }

    /// Has the event happen after a span.
    ///
    /// # Errors
    /// None in practice.
    pub fn set_after(&self, span: Nanos) -> Result<(), Status> {
        self.set(Nanos(crate::time::now().0.saturating_add(span.0)))
    }

    /// Has no event happen.
    ///
    /// # Errors
    /// None in practice.
    pub fn cancel(&self) -> Result<(), Status> {
        self.set(Nanos::NEVER)
    }

    /// Has a function called when the time has come.
    pub fn on_event(&self, handler: fn(&mut Port)) {
        self.event.on_event(handler);
    }

    /// The event, to wait for or to ask.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let _ = self.cancel();
    }
}
