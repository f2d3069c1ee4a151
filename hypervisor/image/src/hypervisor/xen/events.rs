//! Making ports pending, waking who waits for them, and the console's two rings.

use core::sync::atomic::Ordering;

use hv_core::abi::xen::console::Ring;
use hv_core::abi::xen::event::Raise;
use hv_core::event::Source;
use hv_core::policy::Operation;
use protocol::xen::event;
use protocol::{Nanos, VcpuId};

use super::Domain;
use crate::hypervisor::events::alert;
use crate::hypervisor::machine::{Vm, machine};
use crate::hypervisor::run;
use crate::hypervisor::vcpu::Vcpu;

/// Bytes that are moved at a time.
const CHUNK: usize = 256;
/// Pieces of the output ring, and one more where it comes round.
const PIECES: u32 = Ring::OUTPUT.size / 256 + 1;
const _: () = assert!(CHUNK == 256, "what the number of pieces is computed with");

impl Domain {
    /// Makes a port pending, and has its vCPU look if it takes that now.
    pub(super) fn raise(&self, vm: &'static Vm, raise: Raise) {
        if self.shared().raise(raise.port.0) {
            self.notify(vm, raise);
        }
        // Who polls waits for ports whether masked or not, and looks again itself.
        let mut polling = self.polling.swap(0, Ordering::SeqCst);
        while polling != 0 {
            let number = polling.trailing_zeros();
            polling &= polling.wrapping_sub(1);
            if let Some(vcpu) = vm.vcpu(VcpuId(number)) {
                run::wake(vcpu);
            }
        }
    }

    /// Tells a vCPU of a port that is pending.
    pub(super) fn notify(&self, vm: &'static Vm, raise: Raise) {
        let Some((vcpu, xen)) = vm.vcpu(raise.vcpu).and_then(|vcpu| Some((vcpu, vcpu.xen.as_ref()?))) else {
            return;
        };
        if xen.info().select(raise.port.0 / 64) && xen.info().mark() {
            alert(vcpu);
        }
    }

    /// Raises a virtual interrupt of a vCPU, if it is bound to a port.
    pub(super) fn virq(&self, vm: &'static Vm, number: u32, vcpu: VcpuId) {
        let raise = self.ports.lock().virq(number, vcpu);
        if let Some(raise) = raise {
            self.raise(vm, raise);
        }
    }

    /// Something happened that the VM may wait for.
    pub(in super::super) fn happened(&self, vm: &'static Vm, source: Source) {
        match source {
            Source::Timer(vcpu) => {
                if take_due(vm, vcpu) {
                    self.virq(vm, event::VIRQ_TIMER, vcpu);
                }
            }
            Source::ConsoleInput => self.input(vm),
            // No channel ends at such a VM.
            Source::Channel(_) => {}
        }
    }

    /// Takes what the VM wrote on its console, as much as the line has room for.
    pub(in super::super) fn drain_console(&self, vm: &'static Vm) {
        // No more than the ring holds, from wherever it begins: another vCPU may fill it meanwhile.
        let _all = (0..PIECES).all(|_| self.drain_piece(vm));
    }

    /// Takes a piece of it, which is all that another VM's time is used for; whether there may be more.
    pub(in super::super) fn drain_piece(&self, vm: &'static Vm) -> bool {
        // One CPU at a time: the next goes on where it left off.
        let alone = self.moving.lock();
        if self.console.get() == 0 {
            return false;
        }
        let ring = self.console();
        let [consumed, produced] = ring.output_indices();
        let mut bytes = [0; CHUNK];
        let mut count = 0;
        for (byte, at) in bytes.iter_mut().zip(Ring::OUTPUT.filled(consumed, produced)) {
            *byte = ring.output(at);
            count = usize::wrapping_add(count, 1);
        }
        let Ok(permit) = machine().image.monitor().decide(vm.id, Operation::ConsoleWrite, vm.id) else {
            return false;
        };
        let part = bytes.get(..count).unwrap_or(&[]);
        let taken = if part.is_empty() { 0 } else { machine().line.lock().write(permit, part) };
        ring.set_consumed(consumed.wrapping_add(u32::try_from(taken).unwrap_or(0)));
        let was_full = Ring::OUTPUT.room(consumed, produced).is_empty();
        drop(alone);
        if was_full && taken > 0 {
            self.tell_console(vm);
        }
        taken == count && count != 0
    }

    /// Gives the VM what was typed for it, as much as its ring has room for.
    pub(super) fn input(&self, vm: &'static Vm) {
        let alone = self.moving.lock();
        if self.console.get() == 0 {
            return;
        }
        let ring = self.console();
        let [consumed, produced] = ring.input_indices();
        let room = Ring::INPUT.room(consumed, produced);
        let mut bytes = [0; CHUNK];
        let part = bytes.get_mut(..room.len().min(CHUNK)).unwrap_or(&mut []);
        let own = || machine().image.monitor().decide(vm.id, Operation::ConsoleRead, vm.id);
        let (Ok(looking), Ok(taking)) = (own(), own()) else {
            return;
        };
        let mut line = machine().line.lock();
        let count = line.peek(&looking, part);
        line.consume(taking, count);
        drop(line);
        if count == 0 {
            return;
        }
        for (byte, at) in part.iter().take(count).zip(room) {
            ring.set_input(at, *byte);
        }
        ring.set_produced(produced.wrapping_add(u32::try_from(count).unwrap_or(0)));
        drop(alone);
        self.tell_console(vm);
    }

    /// Raises the console's port.
    fn tell_console(&self, vm: &'static Vm) {
        let raise = self.ports.lock().console();
        if let Some(raise) = raise {
            self.raise(vm, raise);
        }
    }
}

/// Has a vCPU's virtual interrupt come at a time of its VM; when the interrupt of its CPU is to come.
pub(super) fn arm(vcpu: &'static Vcpu, due: Nanos) -> u64 {
    let deadline = vcpu.vm().clock.lock().to_machine(due);
    vcpu.vm().partition().scheduler.lock().set_timer(run::key(vcpu), deadline)
}

/// Takes what is due of a vCPU's timers, and arms the rest; whether its virtual interrupt is to be raised.
fn take_due(vm: &'static Vm, vcpu: VcpuId) -> bool {
    let Some((vcpu, xen)) = vm.vcpu(vcpu).and_then(|vcpu| Some((vcpu, vcpu.xen.as_ref()?))) else {
        return false;
    };
    // Armed under the lock under which it was computed: the vCPU may run elsewhere by now, and set a timer.
    let timers = &mut xen.state.lock().own.timers;
    let is_due = timers.take_due(vm.now().0);
    // Whoever fires timers asks afterwards when the next is due.
    let _asked_for = arm(vcpu, timers.due());
    is_due
}
