//! The rules of a compiled policy, and that it is for the system that it came with.

use protocol::VmId;
use protocol::label::Label;
use protocol::manifest::Manifest;
use protocol::policy::{Policy, Profile, Role, Rule, Schedule, Slot, Subject, limit, rule};

use super::error::{self, Problem, ensure, within};
use crate::addr::convert::{index, wide};
use crate::sched::partition::switch_time;

/// Checks a decoded policy against its manifest, whose VMs have been checked.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check_policy(policy: &Policy, manifest: &Manifest) -> Result<(), Problem> {
    let counts = [policy.subjects.len(), manifest.vms.len()].map(wide);
    ensure(policy.subjects.len() == manifest.vms.len(), "the policy is for # VMs, the system has #", &counts)?;
    for (number, (subject, vm)) in (0..).zip(policy.subjects.iter().zip(&manifest.vms)) {
        ensure(subject.name == vm.name, "the policy knows it by another name", &[])
            .and_then(|()| check_subject(subject))
            .map_err(|problem| problem.of(error::Subject::Vm(number)))?;
    }
    let trusted = wide(policy.subjects.iter().filter(|subject| subject.trust.is_some()).count());
    within("the policy trusts # VMs beyond their labels; # to # are possible", trusted, 0, limit::TRUSTED.into())?;
    check_flows(policy)?;
    match &policy.profile {
        Profile::Shared => Ok(()),
        Profile::Strict(schedule) => check_schedule(policy, schedule),
    }
}

/// Checks what the policy says of one VM.
///
/// # Errors
/// The first thing that is wrong.
fn check_subject(subject: &Subject) -> Result<(), Problem> {
    let length = wide(subject.label_text.len());
    within("its label in words has # bytes; # to # are possible", length, 1, limit::LABEL_TEXT.into())?;
    let is_visible = subject.label_text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    ensure(is_visible, "its label in words holds a character that is not visible ASCII", &[])?;
    within("its audit share is #; # to # are possible", subject.audit_share.into(), 1, limit::AUDIT_SHARE.into())?;
    ensure(subject.roles.is_sorted_by(|one, next| one < next), "its roles are not in order", &[])?;
    let conflict = [Role::Auditor, Role::SecurityAdministrator].iter().all(|role| subject.roles.contains(role));
    ensure(!conflict, "it is auditor and security administrator at once", &[])?;
    let Some(trust) = &subject.trust else {
        return Ok(());
    };
    let inside = trust.low.flows_to(subject.label) && subject.label.flows_to(trust.high);
    ensure(inside, "its label lies outside the range that it is trusted with", &[])?;
    let operations = trust.operations.as_slice();
    let is_ordered = !operations.is_empty() && operations.is_sorted_by(|one, next| one < next);
    ensure(is_ordered, "the operations that it is trusted with are none or not in order", &[])?;
    let by_label = operations.iter().all(|operation| !matches!(rule(*operation), Rule::Own | Rule::Role(_)));
    ensure(by_label, "it is trusted with an operation that labels do not decide", &[])
}

/// Checks the one-way channels that the policy knows of.
///
/// # Errors
/// The first thing that is wrong.
fn check_flows(policy: &Policy) -> Result<(), Problem> {
    ensure(policy.flows.is_sorted_by(|one, next| one < next), "the flows of the policy are not in order", &[])?;
    let count = wide(policy.subjects.len());
    for [from, to] in &policy.flows {
        let holds = from != to && u64::from(from.0) < count && u64::from(to.0) < count;
        let ends = [from, to].map(|vm| u64::from(vm.0));
        ensure(holds, "the policy has a flow from # to #, which are not two VMs of the system", &ends)?;
    }
    Ok(())
}

/// Checks the major frame.
///
/// # Errors
/// The first thing that is wrong.
fn check_schedule(policy: &Policy, schedule: &Schedule) -> Result<(), Problem> {
    let label = |vm: &VmId| policy.subjects.get(index(vm.0.into())).map(|subject| subject.label);
    within("the major frame has # slots; # to # are possible", wide(schedule.slots.len()), 1, limit::SLOTS.into())?;
    for (number, slot) in (0..).zip(&schedule.slots) {
        let [found, least, most] = [slot.duration_ns, limit::LEAST_SLOT_NS, limit::MOST_SLOT_NS];
        let sentence = "slot # of the major frame lasts # ns; # to # are possible";
        ensure((least..=most).contains(&found), sentence, &[number, found, least, most])?;
        let class: Option<Label> = slot.vms.first().and_then(label);
        let one_class = slot.vms.iter().all(|vm| label(vm).is_some() && label(vm) == class);
        ensure(one_class, "the VMs of slot # of the major frame do not exist or have different labels", &[number])?;
        let is_ordered = slot.vms.is_sorted_by(|one, next| one < next);
        ensure(is_ordered, "the VMs of slot # of the major frame are not in order", &[number])?;
        let least = switch_time(slot.vms.len());
        let sentence = "slot # of the major frame lasts # ns, of which the switch to the next takes #";
        ensure(found > least, sentence, &[number, found, least])?;
        let is_one = |other: &Slot| other.vms == slot.vms || !other.vms.iter().any(|vm| slot.vms.contains(vm));
        let sentence = "slot # of the major frame has some VMs of another slot, but not all of them";
        ensure(schedule.slots.iter().all(is_one), sentence, &[number])?;
    }
    for (number, _) in (0_u32..).zip(&policy.subjects) {
        let has_slot = schedule.slots.iter().any(|slot| slot.vms.contains(&VmId(number)));
        ensure(has_slot, "it has no slot in the major frame", &[])
            .map_err(|problem| problem.of(error::Subject::Vm(number)))?;
    }
    Ok(())
}
