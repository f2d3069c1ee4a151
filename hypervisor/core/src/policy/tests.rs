//! The laws of the lattice and every decision on it, against tables that were written independently.

use super::{Monitor, Operation};
use protocol::label::Label;
use protocol::policy::{Hardware, OnFull, Policy, Profile, Role, Rule, Subject, Trust};
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

/// Four levels of secrecy with four categories, three of integrity with two.
fn labels_768() -> Vec<Label> {
    lattice([4, 3], [16, 4])
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn every_decision_between_768_labels_is_that_of_the_table() {
    let labels = labels_768();
    assert_eq!(labels.len(), 768);
    let monitor = monitor(&labels);
    let numbered = || (0..).zip(&labels);
    for ((a, subject), (b, object)) in numbered().flat_map(|one| numbered().map(move |other| (one, other))) {
        let outward = may_learn_from(*object, *subject);
        let inward = may_learn_from(*subject, *object);
        for operation in Operation::ALL {
            let wanted = match flows(*operation) {
                Some((in_needed, out_needed)) => (!in_needed || inward) && (!out_needed || outward),
                None => a == b && is_own(*operation),
            };
            let decision = monitor.decide(VmId(a), *operation, VmId(b));
            assert_eq!(decision.is_ok(), wanted, "{operation:?} {subject:?} {object:?}");
        }
    }
}

/// What a VM does to itself without holding a role.
fn is_own(operation: Operation) -> bool {
    [Operation::MemoryUse, Operation::ConsoleWrite, Operation::ConsoleRead, Operation::TimeRead].contains(&operation)
}

/// A set of the 768 labels.
type Set = [u64; 12];

/// For each label the labels to which information may flow from it.
fn upper_sets(labels: &[Label]) -> Vec<Set> {
    let row = |from: &Label| {
        let mut set = [0; 12];
        for (number, _) in labels.iter().enumerate().filter(|(_, to)| from.flows_to(**to)) {
            set[number / 64] |= 1 << (number % 64);
        }
        set
    };
    labels.iter().map(row).collect()
}

fn holds(set: &Set, number: usize) -> bool {
    set[number / 64] >> (number % 64) & 1 == 1
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn flows_between_768_labels_are_reflexive_antisymmetric_and_transitive() {
    let labels = labels_768();
    let above = upper_sets(&labels);
    for a in 0..labels.len() {
        assert!(holds(&above[a], a));
        for b in 0..labels.len() {
            let flows = holds(&above[a], b);
            assert_eq!(flows, may_learn_from(labels[b], labels[a]));
            assert!(a == b || !flows || !holds(&above[b], a), "{:?} {:?}", labels[a], labels[b]);
            // All 768 third labels at once: whatever is above b must be above a.
            let transitive = above[a].iter().zip(&above[b]).all(|(of_a, of_b)| of_b & !of_a == 0);
            assert!(!flows || transitive, "{:?} {:?}", labels[a], labels[b]);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn any_two_of_768_labels_have_a_join_and_a_meet() {
    let labels = labels_768();
    let above = upper_sets(&labels);
    // The place of a label in the order of `lattice`.
    let number = |label: Label| {
        let secrecy = usize::from(label.secrecy_level) * 16 + usize::try_from(label.secrecy_categories).unwrap();
        let integrity = usize::from(label.integrity_level) * 4 + usize::try_from(label.integrity_categories).unwrap();
        let number = secrecy * 12 + integrity;
        assert_eq!(labels[number], label);
        number
    };
    // The join is the most secret and least trusted of both, so what lies above it is what lies above
    // both; the meet is the other way round, so it lies below both and above whatever else does.
    for (a, x) in labels.iter().enumerate() {
        for (b, y) in labels.iter().enumerate().skip(a) {
            let join = number(Label {
                secrecy_level: x.secrecy_level.max(y.secrecy_level),
                secrecy_categories: x.secrecy_categories | y.secrecy_categories,
                integrity_level: x.integrity_level.min(y.integrity_level),
                integrity_categories: x.integrity_categories & y.integrity_categories,
            });
            let both = above[a].iter().zip(&above[b]).map(|(of_a, of_b)| of_a & of_b);
            assert!(both.eq(above[join].iter().copied()), "{x:?} {y:?}");
            let meet = number(Label {
                secrecy_level: x.secrecy_level.min(y.secrecy_level),
                secrecy_categories: x.secrecy_categories & y.secrecy_categories,
                integrity_level: x.integrity_level.max(y.integrity_level),
                integrity_categories: x.integrity_categories | y.integrity_categories,
            });
            assert!(holds(&above[meet], a) && holds(&above[meet], b), "{x:?} {y:?}");
            let absorbed = above[join].iter().zip(&above[meet]).all(|(of_join, of_meet)| of_join & !of_meet == 0);
            assert!(absorbed, "{x:?} {y:?}");
        }
    }
}

/// Whether a label lies in a range.
fn is_between(label: Label, low: Label, high: Label) -> bool {
    may_learn_from(label, low) && may_learn_from(high, label)
}

/// Checks all decisions among VMs with all labels of a small lattice, of which VM 3 is trusted.
fn check_trust(labels: &[Label], low: Label, high: Label, listed: Operation) {
    let names: Vec<String> = (0..labels.len()).map(|number| format!("vm{number}")).collect();
    let mut policy = policy(names.iter().map(String::as_str).zip(labels.iter().copied()));
    policy.subjects[3].trust = Some(Trust { low, high, operations: vec![listed] });
    let monitor = Monitor::new(policy, [0; 32]);
    let pairs = (0..labels.len()).flat_map(|a| (0..labels.len()).map(move |b| (a, b)));
    let cells = pairs.flat_map(|pair| Operation::ALL.iter().map(move |operation| (pair, *operation)));
    for ((a, b), operation) in cells {
        let Some((inward, outward)) = flows(operation) else {
            continue;
        };
        let by_label =
            (!inward || may_learn_from(labels[a], labels[b])) && (!outward || may_learn_from(labels[b], labels[a]));
        let by_trust = operation == listed
            && ((a == 3 && is_between(labels[b], low, high)) || (b == 3 && is_between(labels[a], low, high)));
        let [subject, object] = [a, b].map(|vm| VmId(u32::try_from(vm).unwrap()));
        let decision = monitor.decide(subject, operation, object);
        assert_eq!(decision.is_ok(), by_label || by_trust, "{operation:?} {a} {b} {low:?} {high:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn trust_allows_the_listed_operations_with_labels_in_the_range_and_nothing_else() {
    let labels = lattice([2, 2], [2, 1]);
    let ranges = labels.iter().flat_map(|low| labels.iter().map(move |high| (*low, *high)));
    for (low, high) in ranges {
        let between = Operation::ALL.iter().filter(|operation| flows(**operation).is_some());
        between.for_each(|listed| check_trust(&labels, low, high, *listed));
    }
}

#[test]
fn a_role_allows_its_operation_and_trust_gives_no_role() {
    let roles = [Role::Operator, Role::Auditor, Role::SecurityAdministrator];
    let needs = [
        (Operation::HaltAll, Role::Operator),
        (Operation::AuditRead, Role::Auditor),
        (Operation::PolicyLoad, Role::SecurityAdministrator),
    ];
    for held in 0..8_usize {
        let mut policy = policy([("one", Label::default()), ("two", Label::default())]);
        policy.subjects[0].roles = (0..3).filter(|bit| held >> bit & 1 == 1).map(|bit| roles[bit]).collect();
        let all = Operation::ALL.to_vec();
        policy.subjects[1].trust = Some(Trust { low: Label::default(), high: Label::default(), operations: all });
        let monitor = Monitor::new(policy.clone(), [0; 32]);
        for (operation, role) in needs {
            let is_held = policy.subjects[0].roles.contains(&role);
            assert_eq!(monitor.decide(VmId(0), operation, VmId(0)).is_ok(), is_held, "{operation:?} {held}");
            assert_eq!(monitor.decide(VmId(0), operation, VmId(1)).is_ok(), is_held, "{operation:?} {held}");
            assert!(monitor.decide(VmId(1), operation, VmId(0)).is_err(), "{operation:?} {held}");
        }
        for operation in Operation::ALL.iter().filter(|operation| is_own(**operation)) {
            assert!(monitor.decide(VmId(1), *operation, VmId(1)).is_ok());
            assert!(monitor.decide(VmId(1), *operation, VmId(0)).is_err());
        }
    }
}

#[test]
fn a_system_is_labelled_when_two_labels_differ() {
    let high = Label { secrecy_level: 1, ..Label::default() };
    assert!(!monitor(&[Label::default(); 3]).is_labelled());
    assert!(monitor(&[Label::default(), Label::default(), high]).is_labelled());
    assert_eq!(monitor(&[high]).short_hash(), u128::from_be_bytes([7; 16]));
}

#[test]
fn a_permit_says_what_it_is_for_and_a_denial_reads_as_not_permitted() {
    let low = Label::default();
    let monitor = monitor(&[low, Label { secrecy_level: 1, ..low }]);
    let permit = monitor.decide(VmId(0), Operation::EventSend, VmId(1)).unwrap();
    assert_eq!(permit.operation(), Operation::EventSend);
    assert_eq!((permit.subject(), permit.object()), (VmId(0), VmId(1)));
    let denied = monitor.decide(VmId(1), Operation::EventSend, VmId(0)).unwrap_err();
    assert_eq!(denied.rule, Rule::SubjectToObject);
    assert_eq!(Status::from(denied), Status::NotPermitted);
}

#[test]
fn a_vm_that_does_not_exist_answers_like_one_that_is_kept_apart() {
    let monitor = monitor(&[Label::default(); 3]);
    for (subject, object) in [(0, 3), (0, u32::MAX), (3, 0), (u32::MAX, 1), (2, 3), (1, 6), (u32::MAX, u32::MAX)] {
        let denied = monitor.decide(VmId(subject), Operation::GrantMapRead, VmId(object));
        assert_eq!(denied.unwrap_err().rule, Rule::ObjectToSubject);
    }
}
