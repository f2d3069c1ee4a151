//! Shares of CPU time in a simulated machine: virtual time, no interrupt latency, programs that
//! compute, sleep, yield and cheat.

use std::collections::BTreeMap;

use super::{CPU, MS, NEVER, key};
use crate::addr::CpuId;
use crate::sched::{Block, Expired, QUANTUM, RunState, Scheduler, VcpuKey};
use protocol::VmId;

const SECOND: u64 = 1_000 * MS;

/// What a vCPU does for ever.
#[derive(Debug, Clone, Copy)]
enum Program {
    Compute,
    /// Runs so long, then sleeps so long.
    Cycle {
        run: u64,
        sleep: u64,
    },
    /// Runs so long, then yields.
    Yield {
        run: u64,
    },
    /// Runs so long, then kicks and wakes itself and goes on.
    KickSelf {
        run: u64,
    },
    /// Sleeps just before the quantum that it was given ends.
    DodgeTick {
        sleep: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Task {
    program: Program,
    /// CPU time until it does what its program says.
    left: u64,
}

struct Machine {
    scheduler: Scheduler,
    now: u64,
    cpus: u32,
    tasks: BTreeMap<VcpuKey, Task>,
    /// Since when each CPU runs what it runs, for `left`.
    since: Vec<u64>,
}

impl Machine {
    /// A machine on which each VM is (weight, cap, programs of its vCPUs).
    fn new(cpus: u32, vms: &[(u32, u32, &[Program])]) -> Machine {
        let mut machine = Machine {
            scheduler: Scheduler::new(cpus as usize, 16),
            now: 0,
            cpus,
            tasks: BTreeMap::new(),
            since: vec![0; cpus as usize],
        };
        for cpu in 0..cpus {
            machine.pick(CpuId(cpu));
        }
        for (number, (weight, cap, programs)) in vms.iter().enumerate() {
            machine.add(number as u32, *weight, *cap, programs);
        }
        machine
    }

    fn add(&mut self, vm: u32, weight: u32, cap: u32, programs: &[Program]) {
        let count = programs.len() as u32;
        self.scheduler.add_vm(VmId(vm), count, weight, cap).unwrap();
        for (vcpu, program) in programs.iter().enumerate() {
            let key = key(vm, vcpu as u32);
            self.tasks.insert(key, Task::new(*program));
            let cpu = self.scheduler.start(key, self.now).unwrap();
            self.interrupt(cpu);
        }
    }

    fn interrupt(&mut self, cpu: Option<CpuId>) {
        if let Some(cpu) = cpu {
            self.pick(cpu);
        }
    }

    fn pick(&mut self, cpu: CpuId) {
        self.account(cpu);
        let choice = self.scheduler.pick(cpu, self.now);
        if let Some(key) = choice.vcpu.filter(|_| choice.vcpu != choice.previous) {
            let task = self.tasks.get_mut(&key).unwrap();
            if let Program::DodgeTick { .. } = task.program {
                task.left = QUANTUM - 1_000;
            }
        }
        self.interrupt(choice.interrupt);
    }

    /// Takes what a CPU ran off what its task has left.
    fn account(&mut self, cpu: CpuId) {
        let since = std::mem::replace(&mut self.since[cpu.0 as usize], self.now);
        if let Some(key) = self.scheduler.current(cpu) {
            let task = self.tasks.get_mut(&key).unwrap();
            task.left = task.left.saturating_sub(self.now - since);
        }
    }

    /// When a CPU does something next.
    fn next(&self, cpu: CpuId) -> u64 {
        let since = self.since[cpu.0 as usize];
        let task = self.scheduler.current(cpu).map(|key| self.tasks[&key].left);
        let acts = task.map_or(NEVER, |left| since.saturating_add(left));
        acts.min(self.scheduler.timer(cpu)).max(self.now)
    }

    fn run(&mut self, span: u64) {
        let end = self.now + span;
        loop {
            let all = (0..self.cpus).map(CpuId);
            let (time, cpu) = all.map(|cpu| (self.next(cpu), cpu)).min().unwrap();
            if time > end {
                break;
            }
            self.now = time;
            self.step(cpu);
            self.check();
        }
        self.now = end;
    }

    fn step(&mut self, cpu: CpuId) {
        self.account(cpu);
        while let Some(expired) = self.scheduler.expired(cpu, self.now) {
            let other = match expired {
                Expired::Timer(key) => self.scheduler.wake(key, self.now),
                Expired::Interrupt(other) => Some(other),
            };
            self.interrupt(other);
        }
        if let Some(key) = self.scheduler.current(cpu)
            && self.tasks[&key].left == 0
        {
            self.act(cpu, key);
        }
        self.pick(cpu);
    }

    fn act(&mut self, cpu: CpuId, key: VcpuKey) {
        let task = self.tasks.get_mut(&key).unwrap();
        *task = Task::new(task.program);
        match task.program {
            Program::Compute => {}
            Program::Cycle { sleep, .. } | Program::DodgeTick { sleep } => {
                let block = self.scheduler.block(key, self.now + sleep, self.now);
                assert_eq!(block, Block::Asleep);
            }
            Program::Yield { .. } => self.scheduler.yield_now(cpu),
            Program::KickSelf { .. } => {
                assert_eq!(self.scheduler.kick(key, self.now), Ok(None));
                assert_eq!(self.scheduler.block(key, NEVER, self.now), Block::Returned);
                assert_eq!(self.scheduler.wake(key, self.now), Some(cpu));
            }
        }
    }

    /// One place for each vCPU, and no CPU idle while a VM waits.
    fn check(&self) {
        assert!(!self.scheduler.is_broken());
        for cpu in (0..self.cpus).map(CpuId) {
            match self.scheduler.current(cpu) {
                Some(key) => {
                    assert_eq!(self.scheduler.state(key), Some(RunState::Running(cpu)));
                }
                None => assert!(self.scheduler.waiting == 0, "idle at {}", self.now),
            }
        }
    }

    /// CPU time of a VM so far.
    fn used(&self, vm: u32) -> u64 {
        let keys = self.tasks.keys().filter(|key| key.vm == VmId(vm));
        keys.map(|key| self.scheduler.usage(*key, self.now).run_time_ns).sum()
    }

    /// CPU times of VMs over the next `span`, as parts of one CPU.
    fn shares(&mut self, span: u64, vms: u32) -> Vec<f64> {
        let before: Vec<u64> = (0..vms).map(|vm| self.used(vm)).collect();
        self.run(span);
        let used = (0..vms).map(|vm| self.used(vm) - before[vm as usize]);
        used.map(|used| used as f64 / span as f64).collect()
    }
}

impl Task {
    fn new(program: Program) -> Task {
        let left = match program {
            Program::Compute => NEVER,
            Program::Cycle { run, .. } | Program::Yield { run } | Program::KickSelf { run } => run,
            Program::DodgeTick { .. } => QUANTUM - 1_000,
        };
        Task { program, left }
    }
}

/// Asserts that shares are as wanted to 2 %.
fn assert_shares(shares: &[f64], wanted: &[f64]) {
    for (share, wanted) in shares.iter().zip(wanted) {
        let error = (share - wanted).abs() / wanted;
        assert!(error <= 0.02, "shares {shares:.4?}, wanted {wanted:?}");
    }
}

const ONE: &[Program] = &[Program::Compute];
const FOUR: &[Program] = &[Program::Compute; 4];

#[test]
fn weights_1_2_4_share_one_cpu_in_that_ratio() {
    let mut machine = Machine::new(1, &[(1, 0, ONE), (2, 0, ONE), (4, 0, ONE)]);
    let shares = machine.shares(10 * SECOND, 3);
    assert_shares(&shares, &[1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0]);
}

#[test]
fn on_two_cpus_a_weight_that_one_vcpu_cannot_use_leaves_the_rest_to_the_others() {
    let mut machine = Machine::new(2, &[(1, 0, ONE), (2, 0, ONE), (4, 0, ONE)]);
    let shares = machine.shares(10 * SECOND, 3);
    assert_shares(&shares, &[1.0 / 3.0, 2.0 / 3.0, 1.0]);
}

#[test]
fn vms_of_many_vcpus_share_two_and_four_cpus_by_weight() {
    let vms = [(100, 0, FOUR), (200, 0, FOUR), (400, 0, FOUR)];
    for cpus in [1, 2, 4] {
        let shares = Machine::new(cpus, &vms).shares(10 * SECOND, 3);
        let part = f64::from(cpus) / 7.0;
        assert_shares(&shares, &[part, 2.0 * part, 4.0 * part]);
    }
}

#[test]
fn the_number_of_vcpus_does_not_change_a_vms_share() {
    let vms = [(100, 0, ONE), (100, 0, FOUR), (100, 0, &[Program::Compute; 16])];
    let shares = Machine::new(1, &vms).shares(10 * SECOND, 3);
    assert_shares(&shares, &[1.0 / 3.0; 3]);
    let shares = Machine::new(2, &vms).shares(10 * SECOND, 3);
    assert_shares(&shares, &[2.0 / 3.0; 3]);
}

#[test]
fn the_vcpus_of_a_vm_get_equal_parts() {
    let mut machine = Machine::new(2, &[(1, 0, FOUR), (3, 0, ONE)]);
    machine.run(10 * SECOND);
    for vcpu in 0..4 {
        let used = machine.scheduler.usage(key(0, vcpu), machine.now).run_time_ns;
        assert_shares(&[used as f64 / (10 * SECOND) as f64], &[0.25]);
    }
}

#[test]
fn a_vcpu_that_slept_for_long_does_not_starve_its_siblings() {
    let sleeper = Program::Cycle { run: 20 * SECOND, sleep: 100 * SECOND };
    let mut machine = Machine::new(1, &[(1, 0, &[sleeper, Program::Compute])]);
    machine.run(50 * SECOND);
    while machine.scheduler.state(key(0, 0)) == Some(RunState::Blocked) {
        machine.run(MS);
    }
    let before = machine.scheduler.usage(key(0, 1), machine.now);
    machine.run(SECOND);
    let after = machine.scheduler.usage(key(0, 1), machine.now);
    let ran = after.run_time_ns - before.run_time_ns;
    assert_shares(&[ran as f64 / SECOND as f64], &[0.5]);
}

#[test]
fn extreme_weights_keep_their_ratio() {
    let mut machine = Machine::new(1, &[(65_535, 0, ONE), (655, 0, ONE)]);
    let shares = machine.shares(100 * SECOND, 2);
    assert_shares(&shares, &[65_535.0 / 66_190.0, 655.0 / 66_190.0]);
}

#[test]
fn a_cap_limits_a_vm_that_is_alone_and_one_that_is_not() {
    for cpus in [1, 2] {
        let vms = [(1, 25, ONE), (1, 0, ONE), (1, 10, FOUR)];
        let mut machine = Machine::new(cpus, &vms);
        let shares = machine.shares(10 * SECOND, 3);
        assert_shares(&[shares[0], shares[2]], &[0.25, 0.10]);
        assert!(shares[1] >= if cpus == 1 { 0.64 } else { 0.92 }, "{shares:?}");
    }
    let shares = Machine::new(2, &[(1, 150, FOUR)]).shares(10 * SECOND, 1);
    assert_shares(&shares, &[1.5]);
    let shares = Machine::new(1, &[(1, 1, ONE)]).shares(10 * SECOND, 1);
    assert_shares(&shares, &[0.01]);
}

#[test]
fn a_cap_holds_for_many_vcpus_that_sleep_and_wake() {
    let cycle = Program::Cycle { run: 700_000, sleep: 300_000 };
    let shares = Machine::new(4, &[(1, 80, &[cycle; 8]), (1, 0, FOUR)]).shares(10 * SECOND, 2);
    assert_shares(&shares, &[0.8, 3.2]);
}

#[test]
fn sleeping_just_before_the_tick_gains_nothing() {
    for sleep in [1_000, 100_000, 2 * MS] {
        let cheat = Program::DodgeTick { sleep };
        let mut machine = Machine::new(1, &[(1, 0, &[cheat]), (1, 0, ONE)]);
        let shares = machine.shares(10 * SECOND, 2);
        assert!(shares[0] <= 0.51 && shares[1] >= 0.49, "{shares:?}");
        let mut machine = Machine::new(2, &[(1, 0, &[cheat; 4]), (1, 0, FOUR)]);
        let shares = machine.shares(10 * SECOND, 2);
        assert!(shares[0] <= 1.02 && shares[1] >= 0.98, "{shares:?}");
    }
}

#[test]
fn storms_of_yields_kicks_and_short_sleeps_gain_nothing() {
    let storms = [
        Program::Yield { run: 1_000 },
        Program::KickSelf { run: 1_000 },
        Program::Cycle { run: 30_000, sleep: 1_000 },
        Program::Cycle { run: 4 * MS, sleep: 10_000 },
    ];
    for storm in storms {
        for cpus in [1, 2] {
            let vms = [(1, 0, &[storm; 2][..]), (1, 0, FOUR)];
            let mut machine = Machine::new(cpus, &vms);
            let shares = machine.shares(SECOND / 2, 2);
            let half = f64::from(cpus) / 2.0;
            assert!(shares[1] >= 0.98 * half, "{cpus} CPUs, {storm:?}: {shares:?}");
        }
    }
}

#[test]
fn one_that_sleeps_much_gets_all_it_asks_for_and_soon() {
    let server = Program::Cycle { run: MS, sleep: 9 * MS };
    for cpus in [1, 2] {
        let vms = [(1, 0, &[server][..]), (1, 0, FOUR), (1, 0, FOUR)];
        let mut machine = Machine::new(cpus, &vms);
        let shares = machine.shares(10 * SECOND, 3);
        assert!(shares[0] >= 0.098, "{shares:?}");
        let usage = machine.scheduler.usage(key(0, 0), machine.now);
        let waits = usage.steal_ns as f64 / usage.switches as f64;
        assert!(waits < 100_000.0, "waited {waits} ns each time");
    }
}

#[test]
fn a_vm_that_ran_alone_for_long_is_not_made_to_wait_for_it() {
    let mut machine = Machine::new(1, &[(1, 0, ONE)]);
    machine.run(3_600 * SECOND);
    machine.add(1, 1, 0, ONE);
    let shares = machine.shares(SECOND, 2);
    assert_shares(&shares, &[0.5, 0.5]);
}

#[test]
fn a_vm_that_slept_for_long_has_saved_up_nothing() {
    let sleeper = Program::Cycle { run: 20 * SECOND, sleep: 100 * SECOND };
    let mut machine = Machine::new(1, &[(1, 0, &[sleeper]), (1, 0, ONE), (1, 0, ONE)]);
    machine.run(200 * SECOND);
    while machine.scheduler.state(key(0, 0)) == Some(RunState::Blocked) {
        machine.run(MS);
    }
    let shares = machine.shares(SECOND, 3);
    assert_shares(&shares, &[1.0 / 3.0; 3]);
}

#[test]
fn a_weight_that_was_infeasible_earns_bounded_credit() {
    let mut machine = Machine::new(2, &[(1, 0, ONE), (2, 0, ONE), (40, 0, ONE)]);
    machine.run(100 * SECOND);
    // From now on 20 of 43 parts of two CPUs would be feasible for nobody but VM 3.
    machine.add(3, 40, 0, &[Program::Compute; 2]);
    let shares = machine.shares(SECOND, 4);
    assert_shares(&shares[2..], &[80.0 / 83.0, 80.0 / 83.0]);
}

#[test]
fn equals_are_not_switched_more_often_than_once_a_quantum() {
    let mut machine = Machine::new(1, &[(1, 0, ONE), (1, 0, ONE)]);
    machine.run(10 * SECOND);
    let switches: u64 = (0..2).map(|vm| machine.scheduler.usage(key(vm, 0), machine.now).switches).sum();
    assert!(switches <= 10 * SECOND / QUANTUM + 1, "{switches} switches");
}

#[test]
fn interrupts_for_other_reasons_do_not_shorten_quanta() {
    let mut machine = Machine::new(1, &[(1, 0, ONE), (1, 0, ONE)]);
    for _ in 0..10_000 {
        machine.run(MS / 10);
        machine.pick(CPU);
    }
    let usage = machine.scheduler.usage(key(0, 0), machine.now);
    assert!(usage.switches <= 101, "{usage:?}");
}
