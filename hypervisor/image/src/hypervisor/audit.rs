//! What the audit log is told. A record is made where the thing happens, behind the decision about it.

use hv_core::audit::{Event, Outcome};
use hv_core::policy::Denial;
use protocol::audit::AuditKind;
use protocol::policy::OnFull;
use protocol::{Status, VmId};

use super::machine::{Vm, machine};

use core::sync::atomic::Ordering;

/// Records something that a VM did. Denials that were only counted come first.
pub(super) fn record(vm: &Vm, kind: AuditKind, operands: [u64; 2]) {
    let event = Event { generation: vm.generation(), operands, ..Event::new(kind, Some(vm.id)) };
    let mut line = machine().line.lock();
    line.audit.settle(machine().clock.now(), hv_arch::local::id(), Some(vm.id));
    let _lost_is_counted = line.audited(event);
}

/// Records that a VM may use a frame of another label.
pub(super) fn across_labels(vm: &Vm, kind: AuditKind, object: &Vm, operands: [u64; 2]) {
    let label = |vm: &Vm| vm.subject().map(|subject| subject.label);
    if label(vm) != label(object) {
        let event =
            Event { object: Some(object.id), generation: vm.generation(), operands, ..Event::new(kind, Some(vm.id)) };
        let _lost_is_counted = machine().line.lock().audited(event);
    }
}

/// What the policy wants of a VM after a refusal of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a VM that filled its share of the log may have to end"]
pub(super) enum Verdict {
    /// It goes on.
    GoesOn,
    /// It ends.
    Ends,
}

/// Records that a call was refused by the policy or for want of a right.
#[cold]
pub(super) fn denied(vm: &Vm, number: u64, denial: Option<Denial>) -> Verdict {
    let operation = denial.and_then(|denial| u16::try_from(denial.operation.bit().trailing_zeros()).ok());
    let event = Event {
        operation,
        object: denial.map(|denial| denial.object),
        generation: vm.generation(),
        status: u32::try_from(Status::NotPermitted.number()).unwrap_or(0),
        operands: [number, 0],
        ..Event::new(AuditKind::Denied, Some(vm.id))
    };
    let outcome = machine().line.lock().audited(event);
    let ends = machine().image.monitor().policy().on_full == OnFull::HaltOffender;
    if outcome == Outcome::Full && ends { Verdict::Ends } else { Verdict::GoesOn }
}

/// Records that a quota of the VM is used up, once until it starts again.
#[cold]
pub(super) fn quota_hit(vm: &Vm, number: u64) {
    if !vm.hit_quota.swap(true, Ordering::Relaxed) {
        record(vm, AuditKind::QuotaHit, [number, 0]);
    }
}

/// Begins the log: under which policy, and which channels it lets cross labels.
pub(super) fn begin() {
    let monitor = machine().image.monitor();
    let half = |at: usize| monitor.hash().as_chunks::<8>().0.get(at).map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let event = Event { operands: [half(0), half(1)], ..Event::new(AuditKind::Begin, None) };
    let _there_is_room = machine().line.lock().audited(event);
    for channel in &machine().image.manifest().channels {
        let [first, second] = channel.ends.map(|end| machine().vm(VmId(end)));
        if let (Some(first), Some(second)) = (first, second) {
            across_labels(first, AuditKind::ChannelAcrossLabels, second, [0; 2]);
        }
    }
}
