//! Every decision on a small lattice, against a table that was written independently.

use super::{Denial, Monitor, Operation};
use protocol::label::Label;
use protocol::policy::{Hardware, OnFull, Policy, Profile, Rule, Subject};
use protocol::{Status, VmId};

/// A policy that says nothing of its VMs but their labels.
pub(crate) fn policy<'n>(vms: impl IntoIterator<Item = (&'n str, Label)>) -> Policy {
    let subject = |(name, label): (&str, Label)| Subject {
        name: name.into(),
        label,
        label_text: "any".into(),
        roles: Vec::new(),
        trust: None,
        audit_share: 100,
    };
    Policy {
        profile: Profile::Shared,
        hardware: Hardware::Strict,
        on_full: OnFull::DropCounted,
        subjects: vms.into_iter().map(subject).collect(),
        flows: Vec::new(),
    }
}

/// The monitor of VMs with labels.
pub(crate) fn monitor(labels: &[Label]) -> Monitor {
    let names: Vec<String> = (0..labels.len()).map(|number| format!("vm{number}")).collect();
    Monitor::new(policy(names.iter().map(String::as_str).zip(labels.iter().copied())), [7; 32])
}

/// Every label with the given number of levels and categories on each side.
fn lattice(levels: [u8; 2], categories: [u64; 2]) -> Vec<Label> {
    let mut labels = Vec::new();
    for secrecy_level in 0..levels[0] {
        for secrecy_categories in 0..categories[0] {
            for integrity_level in 0..levels[1] {
                for integrity_categories in 0..categories[1] {
                    labels.push(Label { secrecy_level, secrecy_categories, integrity_level, integrity_categories });
                }
            }
        }
    }
    labels
}

/// What the label of one thing allows, by the words of Bell, `LaPadula` and Biba: no read up and no
/// write down in secrecy, no read down and no write up in integrity.
fn may_learn_from(reader: Label, source: Label) -> bool {
    let cleared = reader.secrecy_level >= source.secrecy_level;
    let compartments = (0..64).all(|bit| {
        let needs = source.secrecy_categories >> bit & 1 == 1;
        !needs || reader.secrecy_categories >> bit & 1 == 1
    });
    let trusted = source.integrity_level >= reader.integrity_level;
    let vouched = (0..64).all(|bit| {
        let wants = reader.integrity_categories >> bit & 1 == 1;
        !wants || source.integrity_categories >> bit & 1 == 1
    });
    cleared && compartments && trusted && vouched
}

/// The operations between VMs as rows: does the subject learn from the object, and the object from
/// it? The others are not between VMs.
fn flows(operation: Operation) -> Option<(bool, bool)> {
    Some(match operation {
        Operation::EventSend | Operation::GrantCreateRead => (false, true),
        Operation::GrantMapRead | Operation::GrantCopyFrom => (true, false),
        Operation::ChannelUse | Operation::GrantCreateWrite | Operation::GrantMapWrite | Operation::GrantCopyTo => {
            (true, true)
        }
        Operation::MemoryUse
        | Operation::ConsoleWrite
        | Operation::ConsoleRead
        | Operation::TimeRead
        | Operation::HaltAll
        | Operation::AuditRead
        | Operation::PolicyLoad => return None,
    })
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn every_decision_on_a_small_lattice_is_that_of_the_table() {
    for subject in lattice([3, 2], [4, 4]) {
        for object in lattice([3, 2], [4, 4]) {
            let monitor = monitor(&[subject, object]);
            for operation in Operation::ALL {
                let wanted = flows(*operation).is_some_and(|(inward, outward)| {
                    (!inward || may_learn_from(subject, object)) && (!outward || may_learn_from(object, subject))
                });
                let decision = monitor.decide(VmId(0), *operation, VmId(1));
                assert_eq!(decision.is_ok(), wanted, "{operation:?} {subject:?} {object:?}");
            }
        }
    }
}

#[test]
fn a_permit_says_what_it_is_for_and_a_denial_reads_as_not_permitted() {
    let low = Label::default();
    let monitor = monitor(&[low, Label { secrecy_level: 1, ..low }]);
    let permit = monitor.decide(VmId(0), Operation::EventSend, VmId(1)).unwrap();
    assert_eq!(permit.operation(), Operation::EventSend);
    assert_eq!((permit.subject(), permit.object()), (VmId(0), VmId(1)));
    let denied = monitor.decide(VmId(1), Operation::EventSend, VmId(0)).unwrap_err();
    assert_eq!(denied, Denial { rule: Rule::SubjectToObject });
    assert_eq!(Status::from(denied), Status::NotPermitted);
}

#[test]
fn a_vm_that_does_not_exist_answers_like_one_that_is_kept_apart() {
    let monitor = monitor(&[Label::default(); 3]);
    for (subject, object) in [(0, 3), (0, u32::MAX), (3, 0), (u32::MAX, 1), (2, 3), (1, 6), (u32::MAX, u32::MAX)] {
        let denied = monitor.decide(VmId(subject), Operation::GrantMapRead, VmId(object));
        assert_eq!(denied, Err(Denial { rule: Rule::ObjectToSubject }));
    }
}
