//! Laws of the lattice and every decision on a small one, against a table that was written
//! independently.

use super::{Operation, Party, decide};
use protocol::VmId;
use protocol::label::Label;
use protocol::status::Status;

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

/// The operations as rows: does the subject learn from the object, and the object from it?
fn flows(operation: Operation) -> (bool, bool) {
    match operation {
        Operation::EventSend | Operation::GrantCreateRead => (false, true),
        Operation::GrantMapRead | Operation::GrantCopyFrom => (true, false),
        Operation::ChannelUse | Operation::GrantCreateWrite | Operation::GrantMapWrite | Operation::GrantCopyTo => {
            (true, true)
        }
    }
}

const ALL: [Operation; 8] = [
    Operation::EventSend,
    Operation::ChannelUse,
    Operation::GrantCreateRead,
    Operation::GrantCreateWrite,
    Operation::GrantMapRead,
    Operation::GrantMapWrite,
    Operation::GrantCopyFrom,
    Operation::GrantCopyTo,
];

fn party(vm: u32, label: Label) -> Party {
    Party { vm: VmId(vm), label }
}

#[test]
fn every_decision_on_a_small_lattice_is_that_of_the_table() {
    let labels = lattice([3, 2], [4, 4]);
    for subject in &labels {
        for object in &labels {
            for operation in ALL {
                let (inward, outward) = flows(operation);
                let wanted =
                    (!inward || may_learn_from(*subject, *object)) && (!outward || may_learn_from(*object, *subject));
                let decision = decide(party(1, *subject), operation, party(2, *object));
                assert_eq!(decision.is_ok(), wanted, "{operation:?} {subject:?} {object:?}");
            }
        }
    }
}

#[test]
fn flows_to_is_reflexive_and_antisymmetric() {
    let labels = lattice([4, 3], [16, 4]);
    for a in &labels {
        assert!(a.flows_to(*a));
        for b in &labels {
            assert_eq!(a == b, a.flows_to(*b) && b.flows_to(*a));
            assert_eq!(a.flows_to(*b), may_learn_from(*b, *a));
        }
    }
}

#[test]
fn flows_to_is_transitive() {
    let labels = lattice([2, 3], [4, 4]);
    for a in &labels {
        for b in labels.iter().filter(|b| a.flows_to(**b)) {
            for c in labels.iter().filter(|c| b.flows_to(**c)) {
                assert!(a.flows_to(*c), "{a:?} {b:?} {c:?}");
            }
        }
    }
}

#[test]
fn high_category_bits_count_like_low_ones() {
    let high = Label { secrecy_categories: 1 << 63, ..Label::default() };
    let low = Label::default();
    assert!(decide(party(1, high), Operation::GrantMapRead, party(2, low)).is_ok());
    assert!(decide(party(1, low), Operation::GrantMapRead, party(2, high)).is_err());
}

#[test]
fn a_permit_says_what_it_is_for_and_a_denial_reads_as_not_permitted() {
    let low = Label::default();
    let high = Label { secrecy_level: 1, ..low };
    let permit = decide(party(1, low), Operation::EventSend, party(2, high)).unwrap();
    assert_eq!(permit.operation(), Operation::EventSend);
    assert_eq!((permit.subject(), permit.object()), (VmId(1), VmId(2)));
    let denied = decide(party(2, high), Operation::EventSend, party(1, low));
    assert_eq!(denied, Err(Status::NotPermitted));
}
