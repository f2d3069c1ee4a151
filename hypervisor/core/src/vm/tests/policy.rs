//! A policy is loaded whole or the system does not start.

use super::fixture::{demo_manifest, demo_policy, pack_with, sealed};
use crate::policy::Operation;
use crate::vm::SystemImage;
use proptest::prelude::*;
use protocol::VmId;
use protocol::label::Label;
use protocol::manifest::OnCrash;
use protocol::policy::{Policy, Profile, Role, Schedule, Slot, Subject, Trust};

const SECRET: Label = Label { secrecy_level: 1, secrecy_categories: 0, integrity_level: 0, integrity_categories: 0 };
const LOW: VmId = VmId(0);
const HIGH: VmId = VmId(1);

/// What comes of a policy of which one thing was changed.
///
/// # Errors
/// What is said of it.
fn changed(change: impl FnOnce(&mut Policy)) -> Result<(), String> {
    let manifest = demo_manifest();
    let mut policy = demo_policy(&manifest);
    change(&mut policy);
    let bytes = pack_with(&manifest, &postcard::to_allocvec(&policy).unwrap());
    SystemImage::parse(&bytes).map(|_| ()).map_err(|problem| problem.to_string())
}

fn refused(change: impl FnOnce(&mut Policy)) -> String {
    changed(change).expect_err("refused")
}

/// The same, of what it says of the first VM.
fn first(change: impl FnOnce(&mut Subject)) -> String {
    let problem = refused(|policy| change(&mut policy.subjects[0]));
    problem.strip_prefix("VM 0: ").expect(&problem).to_string()
}

#[test]
fn a_loaded_policy_is_the_one_that_was_packed() {
    let manifest = demo_manifest();
    let policy = demo_policy(&manifest);
    let bytes = pack_with(&manifest, &postcard::to_allocvec(&policy).unwrap());
    let image = SystemImage::parse(&bytes).unwrap();
    assert_eq!(image.monitor().policy(), &policy);
    assert!(image.monitor().decide(LOW, Operation::ChannelUse, HIGH).is_ok());
}

#[test]
fn no_policy_half_a_policy_and_more_than_a_policy_are_refused() {
    let manifest = demo_manifest();
    let whole = postcard::to_allocvec(&demo_policy(&manifest)).unwrap();
    let said = |policy: &[u8]| SystemImage::parse(&pack_with(&manifest, policy)).expect_err("refused").to_string();
    assert_eq!(said(&[]), "the system image has no policy");
    for length in 1..whole.len() {
        assert_eq!(said(&whole[..length]), "the policy of the system image cannot be decoded");
    }
    let longer = [whole.as_slice(), &[0]].concat();
    assert_eq!(said(&longer), "the policy of the system image cannot be decoded");
}

#[test]
fn a_hash_of_another_policy_is_refused() {
    let manifest = demo_manifest();
    let bytes = pack_with(&manifest, &postcard::to_allocvec(&demo_policy(&manifest)).unwrap());
    for bit in 0..256 {
        let other = sealed(&bytes, |header| header.policy_hash[bit / 8] ^= 1 << (bit % 8));
        let problem = SystemImage::parse(&other).expect_err("refused").to_string();
        assert!(problem.ends_with("its SHA-256 differs"), "{problem}");
    }
}

#[test]
fn the_policy_is_for_the_vms_of_the_system() {
    let fewer = refused(|policy| policy.subjects.truncate(1));
    assert_eq!(fewer, "the policy is for 1 VMs, the system has 2");
    let more = refused(|policy| policy.subjects.push(policy.subjects[0].clone()));
    assert_eq!(more, "the policy is for 3 VMs, the system has 2");
    assert_eq!(first(|subject| subject.name = "other".into()), "the policy knows it by another name");
}

#[test]
fn what_is_said_of_a_vm_keeps_its_bounds() {
    assert!(first(|subject| subject.label_text.clear()).contains("has 0 bytes; 1 to 63"));
    assert!(first(|subject| subject.label_text = "x".repeat(64)).contains("has 64 bytes; 1 to 63"));
    assert!(first(|subject| subject.label_text = "a\x1b".into()).contains("not visible ASCII"));
    assert_eq!(first(|subject| subject.audit_share = 0), "its audit share is 0; 1 to 10000 are possible");
    assert_eq!(first(|subject| subject.audit_share = 10_001), "its audit share is 10001; 1 to 10000 are possible");
    assert_eq!(first(|subject| subject.roles = vec![Role::Auditor, Role::Auditor]), "its roles are not in order");
    let roles = |roles: &[Role]| changed(|policy| policy.subjects[0].roles = roles.into());
    assert!(roles(&[Role::Operator, Role::Auditor]).is_ok());
    assert!(roles(&[Role::Operator, Role::SecurityAdministrator]).is_ok());
    let both = roles(&[Role::Auditor, Role::SecurityAdministrator]).unwrap_err();
    assert_eq!(both, "VM 0: it is auditor and security administrator at once");
}

#[test]
fn trust_has_a_range_around_the_label_and_operations_that_labels_decide() {
    let trust = |low, high, operations: &[Operation]| Some(Trust { low, high, operations: operations.into() });
    let good = trust(Label::default(), SECRET, &[Operation::EventSend, Operation::GrantMapRead]);
    assert_eq!(changed(|policy| policy.subjects[0].trust = good.clone()), Ok(()));
    for (low, high) in [(SECRET, SECRET), (SECRET, Label::default())] {
        let outside = first(|subject| subject.trust = trust(low, high, &[Operation::EventSend]));
        assert_eq!(outside, "its label lies outside the range that it is trusted with");
    }
    for operations in [&[][..], &[Operation::GrantMapRead, Operation::EventSend], &[Operation::EventSend; 2]] {
        let order = first(|subject| subject.trust = trust(Label::default(), SECRET, operations));
        assert_eq!(order, "the operations that it is trusted with are none or not in order");
    }
    for operation in [Operation::ConsoleRead, Operation::AuditRead] {
        let own = first(|subject| subject.trust = trust(Label::default(), SECRET, &[operation]));
        assert_eq!(own, "it is trusted with an operation that labels do not decide");
    }
    let many = {
        let mut manifest = demo_manifest();
        let vm = manifest.vms[0].clone();
        manifest.vms = (0..4).map(|n| protocol::manifest::VmManifest { name: format!("v{n}"), ..vm.clone() }).collect();
        let mut policy = demo_policy(&manifest);
        policy.subjects.iter_mut().for_each(|subject| subject.trust = good.clone());
        let bytes = pack_with(&manifest, &postcard::to_allocvec(&policy).unwrap());
        SystemImage::parse(&bytes).expect_err("refused").to_string()
    };
    assert_eq!(many, "the policy trusts 4 VMs beyond their labels; 0 to 3 are possible");
}

#[test]
fn flows_are_between_two_vms_and_in_order() {
    let with = |flows: &[[VmId; 2]]| changed(|policy| policy.flows = flows.into());
    assert_eq!(with(&[[LOW, HIGH], [HIGH, LOW]]), Ok(()));
    assert_eq!(with(&[[HIGH, LOW], [LOW, HIGH]]).unwrap_err(), "the flows of the policy are not in order");
    assert_eq!(with(&[[LOW, HIGH], [LOW, HIGH]]).unwrap_err(), "the flows of the policy are not in order");
    for [from, to] in [[0, 0], [0, 2], [u32::MAX, 0]] {
        let problem = with(&[[VmId(from), VmId(to)]]).unwrap_err();
        assert_eq!(problem, format!("the policy has a flow from {from} to {to}, which are not two VMs of the system"));
    }
}

#[test]
fn the_slots_of_a_major_frame_are_bounded_ordered_and_of_one_label() {
    let slot = |duration_ns, vms: &[VmId]| Slot { duration_ns, vms: vms.into() };
    let with = |slots: &[Slot]| {
        changed(|policy| policy.profile = Profile::Strict(Schedule { slots: slots.into() }))
            .map_or_else(|p| p, |()| String::new())
    };
    assert_eq!(with(&[slot(700_000, &[LOW, HIGH]), slot(1_000_000_000, &[])]), "");
    assert_eq!(with(&[slot(700_000, &[LOW]), slot(700_000, &[HIGH]), slot(900_000, &[LOW])]), "");
    assert_eq!(with(&[]), "the major frame has 0 slots; 1 to 64 are possible");
    assert_eq!(with(&vec![slot(500_000, &[]); 65]), "the major frame has 65 slots; 1 to 64 are possible");
    for duration in [0, 499_999, 1_000_000_001, u64::MAX] {
        let problem = with(&[slot(500_000, &[]), slot(duration, &[LOW, HIGH])]);
        assert_eq!(
            problem,
            format!("slot 1 of the major frame lasts {duration} ns; 500000 to 1000000000 are possible")
        );
    }
    for vms in [&[VmId(2)][..], &[LOW, VmId(u32::MAX)]] {
        let problem = with(&[slot(500_000, vms)]);
        assert_eq!(problem, "the VMs of slot 0 of the major frame do not exist or have different labels");
    }
    for vms in [[HIGH, LOW], [LOW, LOW]] {
        assert_eq!(with(&[slot(500_000, &vms)]), "the VMs of slot 0 of the major frame are not in order");
    }
    assert_eq!(with(&[slot(500_000, &[LOW])]), "VM 1: it has no slot in the major frame");
    let short = with(&[slot(600_000, &[LOW, HIGH])]);
    assert_eq!(short, "slot 0 of the major frame lasts 600000 ns, of which the switch to the next takes 600000");
    let torn = with(&[slot(700_000, &[LOW]), slot(700_000, &[LOW, HIGH])]);
    assert_eq!(torn, "slot 0 of the major frame has some VMs of another slot, but not all of them");
    let mixed = refused(|policy| {
        policy.subjects[1].label = SECRET;
        policy.profile = Profile::Strict(Schedule { slots: vec![slot(500_000, &[LOW, HIGH])] });
    });
    assert_eq!(mixed, "the VMs of slot 0 of the major frame do not exist or have different labels");
}

#[test]
fn the_manifest_asks_for_nothing_that_the_policy_forbids() {
    let secret = refused(|policy| policy.subjects[1].label = SECRET);
    assert_eq!(secret, "channel 0: the policy forbids a channel between VMs 0 and 1");
    let one_way = |labels: [Label; 2], flows: &[[VmId; 2]]| {
        let mut manifest = demo_manifest();
        manifest.channels[0].frames = 0;
        let mut policy = demo_policy(&manifest);
        policy.subjects.iter_mut().zip(labels).for_each(|(subject, label)| subject.label = label);
        policy.flows = flows.into();
        let bytes = pack_with(&manifest, &postcard::to_allocvec(&policy).unwrap());
        SystemImage::parse(&bytes).map(|_| ()).map_err(|problem| problem.to_string())
    };
    let public = Label::default();
    let unknown = Err("channel 0: the policy does not know a one-way channel from VM 0 to 1".to_owned());
    assert_eq!(one_way([public, SECRET], &[[LOW, HIGH]]), Ok(()));
    assert_eq!(one_way([SECRET, SECRET], &[]), Ok(()));
    assert_eq!(one_way([public, SECRET], &[]), unknown);
    assert_eq!(one_way([public, SECRET], &[[HIGH, LOW]]), unknown);
    assert_eq!(one_way([SECRET, public], &[[LOW, HIGH]]), unknown);
    let mut manifest = demo_manifest();
    manifest.vms[1].on_crash = OnCrash::HaltAll;
    let mut policy = demo_policy(&manifest);
    let said = |policy: &Policy| {
        let bytes = pack_with(&manifest, &postcard::to_allocvec(policy).unwrap());
        SystemImage::parse(&bytes).map(|_| ()).map_err(|problem| problem.to_string())
    };
    assert_eq!(said(&policy).unwrap_err(), "VM 1: it halts all VMs when it dies, but is no operator");
    policy.subjects[1].roles = vec![Role::Operator];
    assert_eq!(said(&policy), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_as_a_policy_never_panic(
        policy in prop::collection::vec(any::<u8>(), 0..200),
        changes in prop::collection::vec((0..60_usize, any::<u8>()), 0..4),
    ) {
        let manifest = demo_manifest();
        let _ = SystemImage::parse(&pack_with(&manifest, &policy));
        let mut near = postcard::to_allocvec(&demo_policy(&manifest)).unwrap();
        for (position, byte) in changes {
            if let Some(slot) = near.get_mut(position) {
                *slot = byte;
            }
        }
        let _ = SystemImage::parse(&pack_with(&manifest, &near));
    }
}
