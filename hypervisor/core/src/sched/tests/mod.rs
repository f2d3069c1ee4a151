//! Refusals and transitions of the scheduler, each once. Shares over time are in `simulation`,
//! random sequences in `model`.

mod model;
mod partition;
mod simulation;

use super::cap::{Cap, PERIOD};
use super::dispatch::least;
use super::{Block, Expired, QUANTUM, RunState, Scheduler, Stop, VcpuKey};
use crate::addr::CpuId;
use protocol::{Status, VcpuId, VmId};

const NEVER: u64 = u64::MAX;
const CPU: CpuId = CpuId(0);
const OTHER: CpuId = CpuId(1);
const MS: u64 = 1_000_000;

fn key(vm: u32, vcpu: u32) -> VcpuKey {
    VcpuKey { vm: VmId(vm), vcpu: VcpuId(vcpu) }
}

/// Two VMs of two vCPUs and equal weight.
fn two_vms(cpus: usize) -> Scheduler {
    let mut scheduler = Scheduler::new(cpus, 4);
    scheduler.add_vm(VmId(0), 2, 100, 0).unwrap();
    scheduler.add_vm(VmId(1), 2, 100, 0).unwrap();
    scheduler
}

#[test]
fn a_vm_number_is_taken_once_and_free_again_after_removal() {
    let mut scheduler = two_vms(1);
    assert_eq!(scheduler.add_vm(VmId(0), 1, 1, 0), Err(Status::WrongState));
    assert_eq!(scheduler.add_vm(VmId(9), 1, 1, 0), Err(Status::WrongState));
    assert_eq!(scheduler.start(key(0, 0), 0), Ok(None));
    assert_eq!(scheduler.remove_vm(VmId(0)), Err(Status::Busy));
    assert_eq!(scheduler.stop(key(0, 0)), Ok(Stop::Done));
    assert_eq!(scheduler.remove_vm(VmId(0)), Ok(()));
    assert_eq!(scheduler.state(key(0, 0)), None);
    assert_eq!(scheduler.add_vm(VmId(0), 1, 1, 0), Ok(()));
    assert_eq!(scheduler.pick(CPU, 0).vcpu, None);
}

#[test]
fn a_vcpu_that_is_not_there_is_refused() {
    let mut scheduler = two_vms(1);
    for absent in [key(0, 2), key(0, 16), key(2, 0), key(63, 15), key(u32::MAX, u32::MAX)] {
        assert_eq!(scheduler.start(absent, 0), Err(Status::NotFound));
        assert_eq!(scheduler.stop(absent), Err(Status::NotFound));
        assert_eq!(scheduler.kick(absent, 0), Err(Status::NotFound));
        assert_eq!(scheduler.wake(absent, 0), None);
        assert_eq!(scheduler.block(absent, NEVER, 0), Block::Returned);
        assert_eq!(scheduler.state(absent), None);
    }
}

#[test]
fn only_a_stopped_vcpu_starts_and_only_another_stops() {
    let mut scheduler = two_vms(1);
    assert_eq!(scheduler.stop(key(0, 0)), Err(Status::WrongState));
    assert_eq!(scheduler.kick(key(0, 0), 0), Err(Status::WrongState));
    assert_eq!(scheduler.start(key(0, 0), 0), Ok(None));
    assert_eq!(scheduler.start(key(0, 0), 0), Err(Status::WrongState));
    assert_eq!(scheduler.stop(key(0, 0)), Ok(Stop::Done));
    assert_eq!(scheduler.stop(key(0, 0)), Err(Status::WrongState));
    assert_eq!(scheduler.pick(CPU, 0).vcpu, None);
}

#[test]
fn a_running_vcpu_stops_when_its_cpu_picks() {
    let mut scheduler = two_vms(2);
    assert_eq!(scheduler.start(key(0, 0), 0), Ok(None));
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.stop(key(0, 0)), Ok(Stop::OnCpu(CPU)));
    // On its way out it is stopped for nobody yet.
    assert_eq!(scheduler.stop(key(0, 0)), Ok(Stop::OnCpu(CPU)));
    assert_eq!(scheduler.kick(key(0, 0), 1), Ok(None));
    assert_eq!(scheduler.start(key(0, 0), 1), Err(Status::WrongState));
    assert_eq!(scheduler.state(key(0, 0)), Some(RunState::Running(CPU)));
    let choice = scheduler.pick(CPU, 7);
    assert_eq!((choice.previous, choice.vcpu), (Some(key(0, 0)), None));
    assert_eq!(scheduler.state(key(0, 0)), Some(RunState::Stopped));
    assert_eq!(scheduler.usage(key(0, 0), 99).run_time_ns, 7);
}

#[test]
fn a_blocked_vcpu_stops_at_once_and_forgets_its_deadline() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.block(key(0, 0), 50, 1), Block::Asleep);
    assert_eq!(scheduler.pick(CPU, 1).timer, 50);
    assert_eq!(scheduler.stop(key(0, 0)), Ok(Stop::Done));
    assert_eq!(scheduler.expired(CPU, 100), None);
    assert_eq!(scheduler.timer(CPU), NEVER);
    assert_eq!(scheduler.state(key(0, 0)), Some(RunState::Stopped));
}

#[test]
fn a_stop_between_block_and_pick_waits_for_the_pick() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.block(key(0, 0), NEVER, 1), Block::Asleep);
    assert_eq!(scheduler.stop(key(0, 0)), Ok(Stop::OnCpu(CPU)));
    assert_eq!(scheduler.pick(CPU, 2).vcpu, None);
    assert_eq!(scheduler.state(key(0, 0)), Some(RunState::Stopped));
}

#[test]
fn a_kick_makes_the_next_block_return_and_only_that_one() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.kick(key(0, 0), 1), Ok(None));
    assert_eq!(scheduler.block(key(0, 0), NEVER, 2), Block::Returned);
    assert_eq!(scheduler.block(key(0, 0), NEVER, 2), Block::Asleep);
    assert_eq!(scheduler.pick(CPU, 2).vcpu, None);
    assert_eq!(scheduler.kick(key(0, 0), 3), Ok(Some(CPU)));
    assert_eq!(scheduler.pick(CPU, 3).vcpu, Some(key(0, 0)));
}

#[test]
fn a_block_returns_at_its_deadline_and_at_once_when_that_has_passed() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 10).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.block(key(0, 0), 10, 10), Block::Returned);
    assert_eq!(scheduler.block(key(0, 0), 0, 10), Block::Returned);
    assert_eq!(scheduler.block(key(0, 0), 30, 10), Block::Asleep);
    assert_eq!(scheduler.pick(CPU, 10).timer, 30);
    assert_eq!(scheduler.expired(CPU, 29), None);
    assert_eq!(scheduler.state(key(0, 0)), Some(RunState::Blocked));
    assert_eq!(scheduler.expired(CPU, 30), None);
    assert_eq!(scheduler.pick(CPU, 30).vcpu, Some(key(0, 0)));
}

#[test]
fn a_wake_between_block_and_pick_lets_the_vcpu_go_on() {
    let mut scheduler = two_vms(2);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.block(key(0, 0), NEVER, 1), Block::Asleep);
    assert_eq!(scheduler.wake(key(0, 0), 1), None);
    assert_eq!(scheduler.pick(OTHER, 1).vcpu, None);
    assert_eq!(scheduler.pick(CPU, 1).vcpu, Some(key(0, 0)));
}

#[test]
fn a_wake_of_a_running_vcpu_names_its_cpu_for_the_upcall() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.wake(key(0, 0), 0), None, "it is ready already");
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.wake(key(0, 0), 1), Some(CPU));
}

#[test]
fn deadlines_at_the_edges_of_time_are_harmless() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 5).vcpu, Some(key(0, 0)));
    for past in [0, 1, 5] {
        assert!(scheduler.set_timer(key(0, 0), past) <= 5);
        assert_eq!(scheduler.expired(CPU, 5), Some(Expired::Timer(key(0, 0))));
        assert_eq!(scheduler.expired(CPU, 5), None);
    }
    assert_eq!(scheduler.set_timer(key(0, 0), NEVER), NEVER);
    assert_eq!(scheduler.expired(CPU, NEVER), None);
    assert_eq!(scheduler.set_timer(key(0, 0), NEVER - 1), NEVER - 1);
    assert_eq!(scheduler.expired(CPU, NEVER - 2), None);
}

#[test]
fn a_timer_follows_its_vcpu_and_a_dropped_deadline_finds_nothing() {
    let mut scheduler = two_vms(2);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.set_timer(key(0, 0), 100), 100);
    assert!(scheduler.set_timer(key(0, 0), 200) <= 200);
    assert_eq!(scheduler.expired(CPU, 100), None);
    assert_eq!(scheduler.timer(CPU), 200);
    scheduler.start(key(1, 0), 100).unwrap();
    scheduler.yield_now(CPU);
    assert_eq!(scheduler.pick(CPU, 100).vcpu, Some(key(1, 0)));
    assert_eq!(scheduler.timer(CPU), 200, "it waits for a CPU");
    assert_eq!(scheduler.pick(OTHER, 100).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.timer(OTHER), 200);
    assert_eq!(scheduler.expired(CPU, 200), None);
    assert_eq!(scheduler.expired(OTHER, 199), None);
    assert_eq!(scheduler.expired(OTHER, 200), Some(Expired::Timer(key(0, 0))));
}

#[test]
fn a_block_that_ends_by_itself_may_be_for_another_cpu() {
    let mut scheduler = two_vms(2);
    for cpu in [CPU, OTHER] {
        scheduler.start(key(0, cpu.0), 0).unwrap();
        assert_eq!(scheduler.pick(cpu, 0).vcpu, Some(key(0, cpu.0)));
    }
    assert_eq!(scheduler.block(key(0, 0), 50, 1), Block::Asleep);
    scheduler.start(key(1, 0), 1).unwrap();
    assert_eq!(scheduler.pick(CPU, 1).vcpu, Some(key(1, 0)));
    assert_eq!(scheduler.block(key(0, 1), NEVER, 2), Block::Asleep);
    assert_eq!(scheduler.pick(OTHER, 2).vcpu, None);
    assert_eq!(scheduler.expired(CPU, 50), Some(Expired::Interrupt(OTHER)));
    assert_eq!(scheduler.expired(CPU, 50), None);
    assert_eq!(scheduler.pick(CPU, 50).vcpu, Some(key(1, 0)));
    assert_eq!(scheduler.pick(OTHER, 50).vcpu, Some(key(0, 0)));
}

#[test]
fn nothing_ticks_while_nothing_waits() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 0).timer, NEVER);
    let asked = scheduler.start(key(1, 0), MS).unwrap();
    assert_eq!(asked, Some(CPU), "a CPU without a tick learns that somebody waits");
    assert_eq!(scheduler.pick(CPU, MS).vcpu, Some(key(1, 0)), "it has not run yet");
    assert_eq!(scheduler.timer(CPU), MS + QUANTUM);
}

#[test]
fn a_waking_vcpu_takes_the_cpu_of_one_that_ran_long() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.block(key(0, 0), NEVER, 1), Block::Asleep);
    scheduler.start(key(1, 0), 1).unwrap();
    assert_eq!(scheduler.pick(CPU, 1).vcpu, Some(key(1, 0)));
    scheduler.start(key(1, 1), 2).unwrap();
    let _ticking = scheduler.pick(CPU, 2);
    assert_eq!(scheduler.wake(key(0, 0), 3 * MS), Some(CPU));
    assert_eq!(scheduler.pick(CPU, 3 * MS).vcpu, Some(key(0, 0)));
}

#[test]
fn an_idle_cpu_is_told_once_and_the_last_one_first() {
    let mut scheduler = two_vms(2);
    assert_eq!(scheduler.pick(CPU, 0).vcpu, None);
    assert_eq!(scheduler.pick(OTHER, 0).vcpu, None);
    assert_eq!(scheduler.start(key(0, 0), 0), Ok(Some(CPU)));
    assert_eq!(scheduler.start(key(1, 0), 0), Ok(Some(OTHER)));
    assert_eq!(scheduler.start(key(1, 1), 0), Ok(None), "both are on their way");
    assert!(scheduler.pick(OTHER, 0).vcpu.is_some());
    assert!(scheduler.pick(CPU, 0).vcpu.is_some());
    assert_eq!(scheduler.timer(CPU), QUANTUM);
}

#[test]
fn a_cpu_that_picks_tells_the_next_that_somebody_waits() {
    let mut scheduler = two_vms(2);
    scheduler.start(key(0, 0), 0).unwrap();
    scheduler.start(key(1, 0), 0).unwrap();
    assert!(scheduler.pick(CPU, 0).vcpu.is_some());
    assert!(scheduler.pick(OTHER, 0).vcpu.is_some());
    let now = QUANTUM + MS;
    assert_eq!(scheduler.pick(CPU, now).timer, NEVER);
    let first = scheduler.start(key(0, 1), now).unwrap().unwrap();
    let second = scheduler.pick(first, now).interrupt.unwrap();
    assert_ne!(first, second);
    assert_eq!(scheduler.pick(second, now).interrupt, None);
    assert!(scheduler.timer(first) < NEVER && scheduler.timer(second) < NEVER);
}

#[test]
fn a_yield_gives_way_to_anybody_and_is_nothing_when_alone() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    scheduler.yield_now(CPU);
    assert_eq!(scheduler.pick(CPU, 1).vcpu, Some(key(0, 0)));
    assert_eq!(scheduler.usage(key(0, 0), 1).switches, 1);
    scheduler.start(key(0, 1), 1).unwrap();
    scheduler.yield_now(CPU);
    assert_eq!(scheduler.pick(CPU, 2).vcpu, Some(key(0, 1)));
    scheduler.yield_now(CPU);
    assert_eq!(scheduler.pick(CPU, 3).vcpu, Some(key(0, 0)));
}

#[test]
fn time_that_was_waited_is_counted_apart_from_time_that_was_run() {
    let mut scheduler = two_vms(1);
    scheduler.start(key(0, 0), 0).unwrap();
    scheduler.start(key(1, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 10).vcpu, Some(key(0, 0)));
    let end = 10 + QUANTUM;
    assert_eq!(scheduler.pick(CPU, end).vcpu, Some(key(1, 0)));
    let usage = scheduler.usage(key(0, 0), end + 5);
    assert_eq!((usage.run_time_ns, usage.steal_ns), (QUANTUM, 15));
    let usage = scheduler.usage(key(1, 0), end + 5);
    assert_eq!((usage.run_time_ns, usage.steal_ns), (5, end));
}

#[test]
fn a_vcpu_that_would_run_twice_is_noticed() {
    let mut scheduler = two_vms(2);
    scheduler.start(key(0, 0), 0).unwrap();
    assert_eq!(scheduler.pick(CPU, 0).vcpu, Some(key(0, 0)));
    scheduler.put_back(key(0, 0));
    assert_eq!(scheduler.pick(OTHER, 0).vcpu, None);
    assert!(scheduler.is_broken());
}

#[test]
fn what_was_reserved_before_a_period_ended_is_not_paid_twice() {
    let mut cap = Cap::of_percent(10).unwrap();
    cap.roll(0);
    assert_eq!(cap.reserve(QUANTUM), QUANTUM);
    cap.settle(QUANTUM, QUANTUM);
    assert_eq!(cap.reserve(QUANTUM), QUANTUM, "reaches into the next period");
    cap.roll(PERIOD);
    cap.settle(QUANTUM, QUANTUM);
    assert_eq!(cap.reserve(PERIOD), 10 * MS);
    assert!(cap.is_exhausted());
}

#[test]
fn the_vcpus_of_one_vm_do_not_take_all_cpus_at_once() {
    let mut scheduler = two_vms(2);
    for vm in 0..2 {
        for vcpu in 0..2 {
            let _cpu = scheduler.start(key(vm, vcpu), 0).unwrap();
        }
    }
    let first = scheduler.pick(CPU, 0).vcpu.unwrap();
    let second = scheduler.pick(OTHER, 0).vcpu.unwrap();
    assert_ne!(first.vm, second.vm);
}

#[test]
fn the_least_virtual_time_is_found_also_across_the_wrap() {
    let base = u64::MAX - 500;
    for start in 0..1000 {
        let times = [3, 700, 2, 999, 2].map(|offset| base.wrapping_add(start + offset));
        assert_eq!(least(times.into_iter().zip(0..)), Some(2));
    }
    assert_eq!(least(std::iter::empty()), None);
}
