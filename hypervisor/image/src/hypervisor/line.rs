//! The serial line: consoles of all VMs, the hypervisor's own words, and records for tools.

use core::fmt;

use hv_arch::io::{Interrupts, Received, Serial};
use hv_core::audit::{Event, Log, Outcome};
use hv_core::console::{Console, Typed};
use hv_core::event::Source;
use hv_core::policy::Permit;
use protocol::audit::AuditKind;
use protocol::record::Record;

use protocol::VmId;

use super::machine::machine;
use super::{death, events, slots};

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

/// The same between two slots, where it is all that is sent for a slot: more than a VM writes in one.
const SLOT_BURST: usize = 1280;

/// Audit records that are put into the queue between two slots.
const SLOT_RECORDS: u32 = 2;

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

    /// Sends what the device takes now; the rest follows by interrupts. With time slots the device is asked
    /// between them, and only then.
    fn pump(&mut self) {
        if !self.console.holds() {
            self.send();
            self.serial.set_interrupts(if self.console.has_output() {
                Interrupts::ReceiveAndSend
            } else {
                Interrupts::Receive
            });
        }
    }

    /// Sends what the device takes now; how many bytes.
    fn send(&mut self) -> usize {
        let (most, mut records) = if self.console.holds() { (SLOT_BURST, SLOT_RECORDS) } else { (BURST, u32::MAX) };
        while records > 0 && self.audit.unsent().is_some_and(|record| self.console.audit(record)) {
            self.audit.sent();
            records = records.saturating_sub(1);
        }
        let mut sent = 0;
        while sent < most && self.console.has_output() && self.serial.can_send() {
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
        sent
    }

    /// Takes what was typed: the last VM that has input now, and a set of those that are to end.
    fn receive(&mut self) -> (Option<VmId>, u64) {
        let mut typed_for = None;
        let mut ended = 0_u64;
        // Between slots no more than the device holds: who types without end keeps nobody waiting.
        for _ in 0..if self.console.holds() { FIFO } else { usize::MAX } {
            let Some(received) = self.serial.receive() else {
                break;
            };
            let before = self.console.foreground();
            match received {
                Received::Byte(byte) => match self.console.receive(byte) {
                    Some(Typed::Input(vm)) => typed_for = Some(vm),
                    Some(Typed::End(vm)) => ended |= 1_u64.unbounded_shl(vm.0),
                    None => {}
                },
                Received::Break => {
                    self.console.attention();
                    let _recorded = self.audited(Event::new(AuditKind::Attention, None));
                }
            }
            let now = self.console.foreground();
            if now != before {
                let _recorded = self.audited(Event { object: now, ..Event::new(AuditKind::InputSwitched, None) });
            }
        }
        (typed_for, ended)
    }

    /// Sends everything, however long it takes. For the end of the machine.
    pub(super) fn drain(&mut self) {
        for vm in &machine().vms {
            self.console.release(vm.id);
            self.audit.settle(machine().clock.now(), hv_arch::local::id(), Some(vm.id));
        }
        self.send();
        // A device that takes nothing within so many tries is given up: the machine must end.
        let mut tries = 0_u32;
        while tries < 100_000 && (self.console.has_output() || self.audit.unsent().is_some()) {
            tries = if self.send() == 0 { tries.saturating_add(1) } else { 0 };
        }
    }
}

/// Handles an interrupt of the line: more can be sent, or something was typed.
pub(super) fn serve() {
    let mut line = machine().line.lock();
    line.serial.acknowledge();
    let (typed_for, ended) = line.receive();
    line.pump();
    drop(line);
    end(ended);
    for vm in machine().vms.iter() {
        if let Some(domain) = &vm.xen {
            domain.drain_piece(vm);
        }
    }
    if let Some(vm) = typed_for.and_then(|vm| machine().vm(vm)) {
        events::happened(vm, Source::ConsoleInput);
    }
}

/// Sends and receives at the end of a slot: what the VMs of its partition wrote, and what was typed, which
/// a VM learns when its own slot begins.
pub(super) fn exchange(partition: usize) {
    let mut line = machine().line.lock();
    for vm in machine().vms.iter().filter(|vm| vm.partition == partition) {
        line.console.release(vm.id);
    }
    line.send();
    let (typed_for, ended) = line.receive();
    drop(line);
    end(ended);
    if let Some(vm) = typed_for.and_then(|vm| machine().vm(vm)) {
        slots::hold(vm, Source::ConsoleInput);
    }
}

/// Ends a set of VMs, as the person at the line wishes.
fn end(vms: u64) {
    for vm in machine().vms.iter().filter(|vm| vms.unbounded_shr(vm.id.0) & 1 != 0) {
        death::end_as_asked(vm);
    }
}
