//! Each VM gets its slots, all of them and nothing else, at instants that depend on nothing.

use proptest::prelude::*;
use protocol::VmId;
use protocol::policy::{Schedule, Slot};

use super::{CPU, MS, key};
use crate::sched::partition::{Plan, switch_time};
use crate::sched::{Block, Expired, Scheduler};

fn plan(slots: &[(u64, &[u32])]) -> Plan {
    let slots =
        slots.iter().map(|(ms, vms)| Slot { duration_ns: ms * MS, vms: vms.iter().map(|vm| VmId(*vm)).collect() });
    Plan::new(&Schedule { slots: slots.collect() })
}

#[test]
fn slots_follow_each_other_and_guests_stop_before_their_end() {
    let plan = plan(&[(10, &[0]), (20, &[1, 2]), (10, &[]), (5, &[0])]);
    assert_eq!((plan.frame(), plan.slots()), (45 * MS, 4));
    assert_eq!(plan.partitions().len(), 3, "the first and the last slot are of one partition");
    assert_eq!([0, 1, 2].map(|vm| plan.partition_of(VmId(vm))), [0, 1, 1]);
    let window = plan.window(5);
    assert_eq!((window.partition, window.begin, window.end), (1, 55 * MS, 75 * MS - switch_time(2)));
    assert_eq!(plan.window(7).partition, 0);
    assert_eq!([0, 10 * MS - 1, 10 * MS, 44 * MS, 45 * MS].map(|now| plan.at(now)), [0, 0, 1, 3, 4]);
}

#[test]
fn after_a_slot_comes_the_next_unless_that_is_over_too() {
    let plan = plan(&[(10, &[0]), (10, &[1])]);
    assert_eq!(plan.after(0, 9_900_000).number, 1);
    assert_eq!(plan.after(0, 12 * MS).number, 1, "late, but not over");
    let missed = plan.after(0, 20 * MS - switch_time(1));
    assert_eq!((missed.number, missed.begin), (2, 20 * MS));
    assert_eq!(plan.after(0, 1_005 * MS).number, 100);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_instant_lies_in_one_slot_and_slots_neither_overlap_nor_leave_gaps(
        durations in prop::collection::vec(1_u64..1000, 1..10),
        now in 0..(1_u64 << 50),
    ) {
        let slots: Vec<Slot> = durations.iter().zip(0..).map(|(ms, vm)| Slot { duration_ns: ms * MS, vms: vec![VmId(vm)] }).collect();
        let plan = Plan::new(&Schedule { slots });
        let number = plan.at(now);
        let (window, next) = (plan.window(number), plan.window(number + 1));
        prop_assert!(window.begin <= now && now < next.begin);
        prop_assert_eq!(window.end + switch_time(1), next.begin.max(window.begin + switch_time(1)));
        prop_assert_eq!(usize::try_from(number).unwrap() % durations.len(), window.partition);
    }
}

/// What VM 1 does with its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Neighbour {
    Busy,
    Sleepy,
}

/// What VM 0 sees of its CPU time: when it runs, and its times. VM 1 has the other slots.
fn history(neighbour: Neighbour) -> Vec<(u64, u64, u64)> {
    let plan = plan(&[(10, &[0]), (7, &[1])]);
    let mut schedulers = [0, 1].map(|vm| {
        let mut scheduler = Scheduler::new(1, 2);
        scheduler.add_vm(VmId(vm), 1, 100, 0).unwrap();
        let _ = scheduler.start(key(vm, 0), 0);
        scheduler
    });
    let mut seen = Vec::new();
    for number in 0..40 {
        let window = plan.window(number);
        let scheduler = &mut schedulers[window.partition];
        while let Some(expired) = scheduler.expired(CPU, window.begin) {
            assert_ne!(expired, Expired::Interrupt(CPU));
        }
        let choice = scheduler.pick(CPU, window.begin);
        if window.partition == 0 {
            let usage = scheduler.usage(key(0, 0), window.begin);
            seen.push((window.begin, usage.run_time_ns, usage.steal_ns));
        } else if neighbour == Neighbour::Sleepy && choice.vcpu.is_some() {
            assert_eq!(scheduler.block(key(1, 0), window.begin + 30 * MS, window.begin + 1), Block::Asleep);
        }
        scheduler.park(CPU, window.end);
        assert_eq!(scheduler.current(CPU), None);
    }
    seen
}

#[test]
fn what_one_partition_does_is_not_in_the_times_of_another() {
    let seen = history(Neighbour::Busy);
    assert_eq!(seen, history(Neighbour::Sleepy));
    let run = 10 * MS - switch_time(1);
    for (slot, (begin, run_time, steal)) in (0..).zip(seen) {
        assert_eq!((begin, run_time, steal), (slot * 17 * MS, slot * run, slot * (17 * MS - run)));
    }
}
