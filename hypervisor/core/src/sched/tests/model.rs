//! Random sequences of operations against a naive model of the run states.

use proptest::prelude::*;

use super::{NEVER, key};
use crate::addr::CpuId;
use crate::sched::{Block, Expired, QUANTUM, RunState, Scheduler, Stop, VcpuKey};
use protocol::{Status, VmId};

const CPUS: u32 = 3;
const VMS: u32 = 3;
const VCPUS: u32 = 3;

#[derive(Debug, Clone)]
enum Step {
    Start(VcpuKey),
    Stop(VcpuKey),
    Wake(VcpuKey),
    Kick(VcpuKey),
    Block(CpuId, u64),
    Yield(CpuId),
    Timer(CpuId, u64),
    Pick(CpuId),
    /// Handles one interrupt that was asked for.
    Interrupt,
    Advance(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let vcpu = || (0..VMS, 0..VCPUS).prop_map(|(vm, vcpu)| key(vm, vcpu));
    let cpu = || (0..CPUS).prop_map(CpuId);
    let span = || prop_oneof![0..10_000_u64, 0..2 * QUANTUM, Just(NEVER)];
    prop_oneof![
        3 => vcpu().prop_map(Step::Start),
        1 => vcpu().prop_map(Step::Stop),
        2 => vcpu().prop_map(Step::Wake),
        2 => vcpu().prop_map(Step::Kick),
        3 => (cpu(), span()).prop_map(|(cpu, span)| Step::Block(cpu, span)),
        1 => cpu().prop_map(Step::Yield),
        1 => (cpu(), span()).prop_map(|(cpu, span)| Step::Timer(cpu, span)),
        4 => cpu().prop_map(Step::Pick),
        4 => Just(Step::Interrupt),
        3 => span().prop_map(|span| Step::Advance(span.min(3 * QUANTUM))),
    ]
}

#[derive(Debug, Clone, Copy, Default)]
struct Vcpu {
    /// Not stopped.
    started: bool,
    /// Sleeps until then.
    blocked: Option<u64>,
    on: Option<CpuId>,
    stopping: bool,
    kicked: bool,
    timer: Option<u64>,
    /// Whose interrupt serves its deadlines: the CPU that it ran on last.
    home: CpuId,
}

struct Pair {
    scheduler: Scheduler,
    vcpus: std::collections::BTreeMap<VcpuKey, Vcpu>,
    now: u64,
    asked: Vec<CpuId>,
}

impl Pair {
    fn new(cap: u32) -> Pair {
        let mut scheduler = Scheduler::new(CPUS as usize, VMS);
        let mut vcpus = std::collections::BTreeMap::new();
        for vm in 0..VMS {
            let cap = if vm == 0 { cap } else { 0 };
            scheduler.add_vm(VmId(vm), VCPUS, 1 << vm, cap).unwrap();
            vcpus.extend((0..VCPUS).map(|vcpu| (key(vm, vcpu), Vcpu::default())));
        }
        let mut pair = Pair { scheduler, vcpus, now: 0, asked: Vec::new() };
        for cpu in 0..CPUS {
            pair.pick(CpuId(cpu));
        }
        pair
    }

    fn on(&self, cpu: CpuId) -> Option<VcpuKey> {
        let mut all = self.vcpus.iter();
        all.find(|(_, vcpu)| vcpu.on == Some(cpu)).map(|(key, _)| *key)
    }

    fn state(&self, key: VcpuKey) -> RunState {
        match self.vcpus[&key] {
            Vcpu { started: false, .. } => RunState::Stopped,
            Vcpu { blocked: Some(_), .. } => RunState::Blocked,
            Vcpu { on: Some(cpu), .. } => RunState::Running(cpu),
            Vcpu { on: None, .. } => RunState::Ready,
        }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Start(key) => self.start(key),
            Step::Stop(key) => self.stop(key),
            Step::Wake(key) => {
                let running = self.vcpus[&key].on.filter(|_| self.vcpus[&key].blocked.is_none());
                let answer = self.scheduler.wake(key, self.now);
                if let Some(cpu) = running {
                    assert_eq!(answer, Some(cpu));
                } else {
                    self.vcpus.get_mut(&key).unwrap().blocked = None;
                    self.asked.extend(answer);
                }
            }
            Step::Kick(key) => self.kick(key),
            Step::Block(cpu, span) => self.block(cpu, span),
            Step::Yield(cpu) => {
                self.scheduler.yield_now(cpu);
                self.pick(cpu);
            }
            Step::Timer(cpu, span) => {
                if let Some(key) = self.on(cpu) {
                    let deadline = self.now.saturating_add(span);
                    let due = self.scheduler.set_timer(key, deadline);
                    assert!(due <= deadline);
                    self.vcpus.get_mut(&key).unwrap().timer = Some(deadline).filter(|time| *time != NEVER);
                }
            }
            Step::Pick(cpu) => self.pick(cpu),
            Step::Interrupt => {
                if let Some(cpu) = self.asked.pop() {
                    self.pick(cpu);
                }
            }
            Step::Advance(span) => self.advance(span),
        }
    }

    fn start(&mut self, key: VcpuKey) {
        let answer = self.scheduler.start(key, self.now);
        let vcpu = self.vcpus.get_mut(&key).unwrap();
        if vcpu.started {
            assert_eq!(answer, Err(Status::WrongState));
        } else {
            vcpu.started = true;
            self.asked.extend(answer.unwrap());
        }
    }

    fn stop(&mut self, key: VcpuKey) {
        let answer = self.scheduler.stop(key);
        let vcpu = self.vcpus.get_mut(&key).unwrap();
        match (vcpu.started, vcpu.on) {
            (false, _) => assert_eq!(answer, Err(Status::WrongState)),
            (true, None) => {
                assert_eq!(answer, Ok(Stop::Done));
                *vcpu = Vcpu { home: vcpu.home, ..Vcpu::default() };
            }
            (true, Some(cpu)) => {
                assert_eq!(answer, Ok(Stop::OnCpu(cpu)));
                vcpu.stopping = true;
                self.asked.push(cpu);
            }
        }
    }

    fn kick(&mut self, key: VcpuKey) {
        let answer = self.scheduler.kick(key, self.now);
        let vcpu = self.vcpus.get_mut(&key).unwrap();
        if !vcpu.started {
            assert_eq!(answer, Err(Status::WrongState));
            return;
        }
        if vcpu.blocked.take().is_none() {
            vcpu.kicked = true;
        }
        self.asked.extend(answer.unwrap());
    }

    fn block(&mut self, cpu: CpuId, span: u64) {
        let Some(key) = self.on(cpu).filter(|key| self.vcpus[key].blocked.is_none()) else {
            return;
        };
        let deadline = self.now.saturating_add(span);
        let answer = self.scheduler.block(key, deadline, self.now);
        let vcpu = self.vcpus.get_mut(&key).unwrap();
        if std::mem::take(&mut vcpu.kicked) || span == 0 {
            assert_eq!(answer, Block::Returned);
        } else {
            assert_eq!(answer, Block::Asleep);
            vcpu.blocked = Some(deadline);
        }
    }

    fn pick(&mut self, cpu: CpuId) {
        self.asked.retain(|other| *other != cpu);
        let before = self.on(cpu);
        if let Some(key) = before {
            let vcpu = self.vcpus.get_mut(&key).unwrap();
            vcpu.on = None;
            if vcpu.stopping {
                *vcpu = Vcpu { home: vcpu.home, ..Vcpu::default() };
            }
        }
        let choice = self.scheduler.pick(cpu, self.now);
        assert_eq!(choice.previous, before);
        self.asked.extend(choice.interrupt);
        if let Some(key) = choice.vcpu {
            assert_eq!(self.state(key), RunState::Ready, "{key:?} on {cpu:?}");
            let vcpu = self.vcpus.get_mut(&key).unwrap();
            (vcpu.on, vcpu.home) = (Some(cpu), cpu);
        }
    }

    /// Lets time pass and handles the deadlines of all CPUs, but not what they ask for.
    fn advance(&mut self, span: u64) {
        self.now += span;
        let now = self.now;
        for cpu in (0..CPUS).map(CpuId) {
            let mut fired = std::collections::BTreeSet::new();
            while let Some(expired) = self.scheduler.expired(cpu, now) {
                match expired {
                    Expired::Timer(key) => assert!(fired.insert(key), "fired twice"),
                    Expired::Interrupt(other) => self.asked.push(other),
                }
            }
            for (key, vcpu) in &mut self.vcpus {
                let due = vcpu.timer.filter(|time| vcpu.home == cpu && *time <= now);
                assert_eq!(due.is_some(), fired.contains(key));
                vcpu.timer = vcpu.timer.filter(|_| due.is_none());
                if vcpu.home == cpu && vcpu.blocked.is_some_and(|time| time <= now) {
                    vcpu.blocked = None;
                }
            }
            self.pick(cpu);
        }
    }

    fn check(&self) {
        assert!(!self.scheduler.is_broken());
        for key in self.vcpus.keys() {
            assert_eq!(self.scheduler.state(*key), Some(self.state(*key)), "{key:?}");
        }
        for cpu in (0..CPUS).map(CpuId) {
            assert_eq!(self.scheduler.current(cpu), self.on(cpu));
        }
        let uncapped = |key: &&VcpuKey| key.vm != VmId(0);
        let waits = self.vcpus.keys().filter(uncapped).any(|key| self.state(*key) == RunState::Ready);
        let idles = (0..CPUS).map(CpuId).any(|cpu| self.on(cpu).is_none());
        let is_told = !self.asked.is_empty();
        assert!(!waits || !idles || is_told, "a CPU idles past a ready vCPU");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn run_states_agree_with_a_naive_model(
        cap in prop_oneof![Just(0_u32), Just(5), Just(150)],
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut pair = Pair::new(cap);
        for step in &steps {
            pair.apply(step);
            pair.check();
        }
    }
}
