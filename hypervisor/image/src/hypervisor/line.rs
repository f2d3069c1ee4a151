//! The serial line: consoles of all VMs, the hypervisor's own words, and records for tools.

use core::fmt;

use hv_arch::io::{Interrupts, Received, Serial};
use hv_core::audit::{Event, Log, Outcome};
use hv_core::console::Console;
use hv_core::event::Source;
use hv_core::policy::Permit;
use protocol::audit::AuditKind;
use protocol::record::Record;

use super::events;
use super::machine::machine;

/// The line and what waits to go out.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) console: Console,
    serial: Serial,
    /// The audit log, which leaves on this line.
    pub(super) audit: Log,
}

/// Bytes that one call sends at most before the rest is left to interrupts, so that a call stays short.
const BURST: usize = 256;

/// Bytes that a 16550 takes at once.
const FIFO: usize = 16;

impl Line {
    /// The line with a console per VM.
    pub(super) const fn new(console: Console, serial: Serial, audit: Log) -> Line {
        Line { console, serial, audit }
    }

    /// Takes what the permit's VM writes; how many bytes, from the start.
    pub(super) fn write(&mut self, permit: Permit, bytes: &[u8]) -> usize {
        let taken = self.console.write(permit.object(), bytes);
        self.pump();
        taken
    }

    /// Writes a line of the hypervisor's own.
    pub(super) fn say(&mut self, text: fmt::Arguments<'_>) {
        self.console.line(text);
        self.pump();
    }

    /// Writes a record. One that does not fit is lost.
    pub(super) fn record(&mut self, record: &Record<'_>) {
        let mut buffer = [0; 2048];
        if let Ok(bytes) = postcard::to_slice(record, &mut buffer) {
            self.console.record(bytes);
        }
        self.pump();
    }

    /// Writes a defmt frame of the permit's VM or the hypervisor.
    pub(super) fn log(&mut self, permit: Option<Permit>, sequence: u32, frame: &[u8]) {
        let source = permit.map(|permit| permit.object());
        self.console.log(source, machine().clock.now(), sequence, frame);
        self.pump();
    }

    /// Copies what was typed for the permit's VM, without taking it.
    pub(super) fn peek(&mut self, permit: &Permit, into: &mut [u8]) -> usize {
        self.console.peek(permit.object(), into)
    }

    /// Takes what was typed for the permit's VM.
    pub(super) fn consume(&mut self, permit: Permit, bytes: usize) {
        self.console.consume(permit.object(), bytes);
    }

    /// Has the device interrupt from now on.
    pub(super) fn listen(&mut self) {
        self.serial.set_interrupts(Interrupts::Receive);
    }

    /// Records an event in the audit log.
    pub(super) fn audited(&mut self, event: Event) -> Outcome {
        let (now, cpu) = (machine().clock.now(), hv_arch::local::id());
        let outcome = self.audit.record(now, cpu, event);
        if outcome != Outcome::Counted {
            self.pump();
        }
        outcome
    }

    /// Sends what the device takes now; the rest follows by interrupts.
    fn pump(&mut self) {
        while self.audit.unsent().is_some_and(|record| self.console.audit(record)) {
            self.audit.sent();
        }
        let mut sent = 0;
        while sent < BURST && self.console.has_output() && self.serial.can_send() {
            // As many as the device takes after one look at its state.
            let mut bytes = [0; FIFO];
            let mut count = 0;
            for slot in bytes.iter_mut().take(self.serial.burst()) {
                let Some(byte) = self.console.next_byte() else {
                    break;
                };
                *slot = byte;
                count = usize::saturating_add(count, 1);
            }
            if count == 0 {
                break;
            }
            sent = sent.saturating_add(self.serial.send(bytes.get(..count).unwrap_or(&[])));
        }
        self.serial.set_interrupts(if self.console.has_output() {
            Interrupts::ReceiveAndSend
        } else {
            Interrupts::Receive
        });
    }

    /// Sends everything, however long it takes. For the end of the machine.
    pub(super) fn drain(&mut self) {
        for vm in &machine().vms {
            self.audit.settle(machine().clock.now(), hv_arch::local::id(), Some(vm.id));
        }
        self.pump();
        // What it cannot give within so many tries stays unsaid: the machine must end.
        for _ in 0..100_000 {
            if !self.console.has_output() && self.audit.unsent().is_none() {
                return;
            }
            self.pump();
        }
    }
}

/// Handles an interrupt of the line: more can be sent, or something was typed.
pub(super) fn serve() {
    let mut line = machine().line.lock();
    line.serial.acknowledge();
    let mut typed_for = None;
    while let Some(received) = line.serial.receive() {
        let before = line.console.foreground();
        match received {
            Received::Byte(byte) => typed_for = line.console.receive(byte).or(typed_for),
            Received::Break => {
                line.console.attention();
                let _recorded = line.audited(Event::new(AuditKind::Attention, None));
            }
        }
        let now = line.console.foreground();
        if now != before {
            let _recorded = line.audited(Event { object: now, ..Event::new(AuditKind::InputSwitched, None) });
        }
    }
    line.pump();
    drop(line);
    if let Some(vm) = typed_for.and_then(|vm| machine().vm(vm)) {
        let event = vm.ports.lock().happened(Source::ConsoleInput);
        if let Some(event) = event {
            events::raise(vm, event);
        }
    }
}
