//! The chain, shares, storms and reading of the audit log, against a count kept beside it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::VmId;
use protocol::audit::{AuditKind, FIRST, IN_FULL, NOBODY};
use protocol::shared::AuditRecord;
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

use super::{DIVIDED, Event, LEAST, Log, Outcome, STORM_NS};
use crate::addr::CpuId;

const CPU: CpuId = CpuId(1);

fn denied(vm: u32) -> Event {
    Event { status: 4, ..Event::new(AuditKind::Denied, Some(VmId(vm))) }
}

/// Sends all that waits.
fn send(log: &mut Log) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    while let Some(record) = log.unsent().copied() {
        records.push(record);
        log.sent();
    }
    records
}

/// Whether the records continue a chain whose last hash and sequence are given.
fn continues(records: &[AuditRecord], mut previous: [u8; 32], first: u64) -> bool {
    (first..).zip(records).all(|(sequence, record)| {
        let fits = record.sequence == sequence && record.previous == previous;
        previous = Sha256::digest(record.as_bytes()).into();
        fits
    })
}

#[test]
fn records_form_a_chain_that_a_changed_byte_breaks() {
    let mut log = Log::new(&[100, 100]);
    assert_eq!(log.record(5, CPU, Event::new(AuditKind::Begin, None)), Outcome::Recorded(0));
    assert_eq!(log.record(6, CPU, denied(1)), Outcome::Recorded(1));
    assert_eq!(log.record(7, CPU, Event::new(AuditKind::VmEnded, Some(VmId(1)))), Outcome::Recorded(2));
    let records = send(&mut log);
    assert!(continues(&records, FIRST, 0));
    assert_eq!((records[0].subject, records[1].subject), (NOBODY, 1));
    for byte in 0..128 {
        let mut changed = records.clone();
        changed[1].as_mut_bytes()[byte] ^= 1;
        assert!(!continues(&changed, FIRST, 0), "byte {byte}");
    }
    let without_one = [records[0], records[2]];
    assert!(!continues(&without_one, FIRST, 0));
}

#[test]
fn a_vm_that_fills_its_share_loses_its_own_records_only_and_they_are_counted() {
    let mut log = Log::new(&[100, 100]);
    for number in 0..LEAST + u32::try_from(DIVIDED).unwrap() {
        assert!(
            matches!(log.record(0, CPU, Event::new(AuditKind::QuotaHit, Some(VmId(0)))), Outcome::Recorded(_)),
            "{number}"
        );
    }
    for _ in 0..3 {
        assert_eq!(log.record(0, CPU, Event::new(AuditKind::QuotaHit, Some(VmId(0)))), Outcome::Full);
    }
    assert!(matches!(log.record(0, CPU, denied(1)), Outcome::Recorded(_)));
    assert!(matches!(log.record(0, CPU, Event::new(AuditKind::Attention, None)), Outcome::Recorded(_)));
    let mut records = send(&mut log);
    let _ = log.record(0, CPU, Event::new(AuditKind::VmEnded, Some(VmId(0))));
    records.extend(send(&mut log));
    assert_eq!(records.last().unwrap().lost, 3);
    assert!(continues(&records, FIRST, 0));
}

#[test]
fn a_storm_of_denials_is_recorded_in_full_at_first_and_then_counted_exactly() {
    let mut log = Log::new(&[1]);
    for time in 0..1_000_000_u64 {
        let _ = log.record(time, CPU, denied(0));
    }
    let full = send(&mut log);
    assert_eq!(full.len(), usize::try_from(IN_FULL).unwrap());
    log.settle_due(STORM_NS - 1, CPU);
    assert_eq!(log.unsent(), None, "its second is not over");
    log.settle_due(STORM_NS, CPU);
    let [more] = send(&mut log)[..] else { panic!("one record for the rest") };
    assert_eq!((more.meaning(), more.count), (Some(AuditKind::DeniedMore), 1_000_000 - u64::from(IN_FULL)));
    let _ = log.record(STORM_NS + 5, CPU, denied(0));
    assert_eq!(send(&mut log).len(), 1, "the next second begins in full");
}

#[test]
fn reading_goes_in_order_and_passes_over_what_was_overwritten() {
    let mut log = Log::new(&[1]);
    let room = u64::from(LEAST) * 2 + DIVIDED;
    for number in 0..room + 10 {
        let _ = log.record(number, CPU, Event::new(AuditKind::Attention, None));
        log.sent();
    }
    assert_eq!(log.read(0).unwrap().sequence, 10);
    assert_eq!(log.read(room - 1).unwrap().sequence, room + 9);
    assert_eq!(log.read(room), None);
    log.consume(3);
    assert_eq!(log.read(0).unwrap().sequence, 13);
    log.consume(u64::MAX);
    assert_eq!(log.read(0), None);
}

#[test]
fn a_vm_that_does_not_exist_has_no_room_in_the_log() {
    let mut log = Log::new(&[1]);
    assert_eq!(log.record(0, CPU, denied(1)), Outcome::Full);
    assert_eq!(log.record(0, CPU, denied(u32::MAX)), Outcome::Full);
    assert_eq!(log.unsent(), None);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Deny(u32),
    Other(u32),
    Send(u8),
    Pass(u64),
    Settle(u32),
    SettleDue,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_u32).prop_map(Step::Deny),
        2 => (0..3_u32).prop_map(Step::Other),
        2 => any::<u8>().prop_map(Step::Send),
        1 => (0..STORM_NS * 2).prop_map(Step::Pass),
        1 => (0..3_u32).prop_map(Step::Settle),
        1 => Just(Step::SettleDue),
    ]
}

proptest! {
    #[test]
    fn every_event_is_counted_once_and_the_chain_never_breaks(steps in prop::collection::vec(step(), 0..400)) {
        let mut log = Log::new(&[1, 2, 3]);
        let mut caused: BTreeMap<u32, u64> = BTreeMap::new();
        let mut sent = Vec::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Deny(vm) => {
                    *caused.entry(vm).or_default() += 1;
                    let _ = log.record(now, CPU, denied(vm));
                }
                Step::Other(vm) => {
                    *caused.entry(vm).or_default() += 1;
                    let _ = log.record(now, CPU, Event::new(AuditKind::QuotaHit, Some(VmId(vm))));
                }
                Step::Send(count) => {
                    for _ in 0..count {
                        sent.extend(log.unsent().copied());
                        log.sent();
                    }
                }
                Step::Pass(time) => now += time,
                Step::Settle(vm) => log.settle(now, CPU, Some(VmId(vm))),
                Step::SettleDue => log.settle_due(now, CPU),
            }
        }
        // Room for all, then what was counted, then one record each to carry what was lost.
        sent.extend(send(&mut log));
        for vm in 0..3 {
            log.settle(now, CPU, Some(VmId(vm)));
            *caused.entry(vm).or_default() += 1;
            let _ = log.record(now, CPU, Event::new(AuditKind::VmEnded, Some(VmId(vm))));
        }
        sent.extend(send(&mut log));
        prop_assert!(continues(&sent, FIRST, 0));
        for (vm, caused) in caused {
            let told: u64 = sent.iter().filter(|record| record.subject == vm).map(|record| record.count + record.lost).sum();
            prop_assert_eq!(told, caused, "VM {}", vm);
        }
    }
}

#[test]
fn the_room_is_divided_by_shares_and_nobody_has_too_little() {
    let fill = |log: &mut Log, vm| {
        let event = Event::new(AuditKind::QuotaHit, Some(VmId(vm)));
        (0..).take_while(|_| matches!(log.record(0, CPU, event), Outcome::Recorded(_))).count()
    };
    let mut log = Log::new(&[1, 1000, 0]);
    let filled: Vec<usize> = (0..3).map(|vm| fill(&mut log, vm)).collect();
    assert_eq!(filled, [16, 16 + 47, 16]);
    assert!(continues(&send(&mut log), FIRST, 0));
}
