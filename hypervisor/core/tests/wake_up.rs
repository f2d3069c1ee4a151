//! Model check: an event or a kick that comes while a vCPU goes to sleep is never lost, and none ends two
//! sleeps.
//!
//! The checker walks every interleaving of one vCPU that takes events and blocks, one that sends
//! events to it (set the bit, then tell the scheduler), one that kicks it, and interrupts under way
//! between two CPUs. The scheduler is the real one: a state is rebuilt by replaying its steps, and
//! two states are the same when the schedulers' contents are. Three variants have a bug planted that
//! must be found.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "test code: numbers are small, and what is wrong fails the test"
)]

use std::hash::{Hash, Hasher};

use hv_core::addr::CpuId;
use hv_core::sched::{Block, RunState, Scheduler, VcpuKey};
use protocol::{VcpuId, VmId};
use stateright::{Checker, Model, Property};

/// How the calling code uses the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// As its documentation says.
    Correct,
    /// `block` looks for pending events before it takes the scheduler's lock.
    LooksBeforeTheLock,
    /// A kick of a vCPU that does not sleep is dropped.
    ForgetsKicks,
    /// The sender tells the scheduler without a look at what became of its event.
    WakesUnlooked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// The receiver looks, without the lock.
    Look,
    /// The receiver takes the lock, looks, and blocks if there is nothing.
    Block,
    /// The receiver's CPU picks after its block.
    LeaveCpu,
    /// The sender sets the pending bit.
    SetBit,
    /// The sender takes the lock, looks whether the event is still there, and tells the scheduler.
    Wake,
    /// The kicker kicks.
    Kick,
    /// A CPU takes its interrupt and picks.
    Interrupt(CpuId),
}

/// Everything, rebuilt from the steps that led here.
#[derive(Debug)]
struct World {
    scheduler: Scheduler,
    pending: bool,
    sends_left: u8,
    bit_set: bool,
    kicks_left: u8,
    /// A kick that no block has returned for.
    kicked: bool,
    /// What the receiver saw when it looked.
    looked: Option<bool>,
    /// The CPU that has to pick because the receiver blocked on it.
    leaving: Option<CpuId>,
    interrupts: Vec<CpuId>,
    slept: bool,
    /// A sleep ended without an event or a kick.
    woke_for_nothing: bool,
}

const RECEIVER: VcpuKey = VcpuKey { vm: VmId(0), vcpu: VcpuId(0) };
const OTHER: VcpuKey = VcpuKey { vm: VmId(1), vcpu: VcpuId(0) };
const CPUS: [CpuId; 2] = [CpuId(0), CpuId(1)];
const NEVER: u64 = u64::MAX;

impl World {
    fn new(others: u32) -> World {
        let mut scheduler = Scheduler::new(CPUS.len(), 2);
        scheduler.add_vm(VmId(0), 1, 1, 0).unwrap();
        let _first = scheduler.start(RECEIVER, 0).unwrap();
        let _choice = scheduler.pick(CPUS[0], 0);
        if others > 0 {
            scheduler.add_vm(VmId(1), 1, 1, 0).unwrap();
            let _first = scheduler.start(OTHER, 0).unwrap();
        }
        let _choice = scheduler.pick(CPUS[1], 0);
        World {
            scheduler,
            pending: false,
            sends_left: 2,
            bit_set: false,
            kicks_left: 2,
            kicked: false,
            looked: None,
            leaving: None,
            interrupts: Vec::new(),
            slept: false,
            woke_for_nothing: false,
        }
    }

    /// The CPU on which the receiver executes.
    fn runs_on(&self) -> Option<CpuId> {
        let running = CPUS.map(RunState::Running).into_iter();
        let state = self.scheduler.state(RECEIVER);
        let on = running.zip(CPUS).find(|(running, _)| state == Some(*running));
        on.map(|(_, cpu)| cpu).filter(|_| self.leaving.is_none())
    }

    fn is_asleep(&self) -> bool {
        self.scheduler.state(RECEIVER) == Some(RunState::Blocked)
    }

    fn steps(&self, variant: Variant) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.runs_on().is_some() {
            let looks = variant == Variant::LooksBeforeTheLock && self.looked.is_none();
            steps.push(if looks { Step::Look } else { Step::Block });
        }
        if self.leaving.is_some() {
            steps.push(Step::LeaveCpu);
        }
        if self.bit_set {
            steps.push(Step::Wake);
        } else if self.sends_left > 0 {
            steps.push(Step::SetBit);
        }
        if self.kicks_left > 0 {
            steps.push(Step::Kick);
        }
        steps.extend(CPUS.map(Step::Interrupt));
        steps
    }

    fn apply(&mut self, step: Step, variant: Variant) {
        match step {
            Step::Look => self.looked = Some(std::mem::take(&mut self.pending)),
            Step::Block => self.block(variant),
            Step::LeaveCpu => {
                if let Some(cpu) = self.leaving.take() {
                    self.pick(cpu);
                }
            }
            Step::SetBit => {
                self.sends_left -= 1;
                self.pending = true;
                self.bit_set = true;
            }
            Step::Wake => {
                self.bit_set = false;
                let before = self.scheduler.state(RECEIVER);
                if self.pending || variant == Variant::WakesUnlooked {
                    let cpu = self.scheduler.wake(RECEIVER, 0);
                    self.interrupt(cpu);
                }
                self.woke_for_nothing |= before == Some(RunState::Blocked) && !self.is_asleep() && !self.pending;
                self.note_wake(before);
            }
            Step::Kick => {
                self.kicks_left -= 1;
                self.kicked = true;
                let before = self.scheduler.state(RECEIVER);
                if self.is_asleep() || variant != Variant::ForgetsKicks {
                    let cpu = self.scheduler.kick(RECEIVER, 0).unwrap();
                    self.interrupt(cpu);
                }
                self.note_wake(before);
            }
            Step::Interrupt(cpu) => {
                self.interrupts.retain(|other| *other != cpu);
                if self.leaving == Some(cpu) {
                    self.leaving = None;
                }
                self.pick(cpu);
            }
        }
    }

    fn block(&mut self, variant: Variant) {
        let Some(cpu) = self.runs_on() else {
            return;
        };
        let seen = match variant {
            Variant::LooksBeforeTheLock => self.looked.take().unwrap_or(false),
            Variant::Correct | Variant::ForgetsKicks | Variant::WakesUnlooked => std::mem::take(&mut self.pending),
        };
        if seen {
            return;
        }
        match self.scheduler.block(RECEIVER, NEVER, 0) {
            Block::Returned => self.kicked = false,
            Block::Asleep => {
                self.slept = true;
                self.leaving = Some(cpu);
            }
        }
    }

    /// A block ended, for whatever reason.
    fn note_wake(&mut self, before: Option<RunState>) {
        if before == Some(RunState::Blocked) && !self.is_asleep() {
            self.kicked = false;
        }
    }

    fn interrupt(&mut self, cpu: Option<CpuId>) {
        if let Some(cpu) = cpu.filter(|cpu| !self.interrupts.contains(cpu)) {
            self.interrupts.push(cpu);
            self.interrupts.sort();
        }
    }

    fn pick(&mut self, cpu: CpuId) {
        let choice = self.scheduler.pick(cpu, 0);
        self.interrupt(choice.interrupt);
    }

    /// Nothing is under way that could still wake the receiver.
    fn is_quiet(&self) -> bool {
        !self.bit_set && self.interrupts.is_empty() && self.leaving.is_none()
    }

    fn has_lost_news(&self) -> bool {
        self.is_quiet() && self.is_asleep() && (self.pending || self.kicked)
    }

    /// It is awake, somebody idles, and nobody will run it.
    fn is_forgotten(&self) -> bool {
        let idles = CPUS.iter().any(|cpu| self.scheduler.current(*cpu).is_none());
        let ready = self.scheduler.state(RECEIVER) == Some(RunState::Ready);
        self.is_quiet() && idles && ready
    }
}

/// The steps that led to a world; the world's text decides whether two are the same.
#[derive(Debug, Clone)]
struct Path {
    steps: Vec<Step>,
    world: String,
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        self.world == other.world
    }
}

impl Eq for Path {}

impl Hash for Path {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.world.hash(state);
    }
}

struct WakeUp {
    variant: Variant,
    others: u32,
}

impl WakeUp {
    fn world(&self, path: &Path) -> World {
        let mut world = World::new(self.others);
        for step in &path.steps {
            world.apply(*step, self.variant);
        }
        world
    }

    fn check(variant: Variant, others: u32) -> impl Checker<WakeUp> {
        WakeUp { variant, others }.checker().spawn_bfs().join()
    }
}

impl Model for WakeUp {
    type State = Path;
    type Action = Step;

    fn init_states(&self) -> Vec<Path> {
        vec![Path { steps: Vec::new(), world: format!("{:?}", World::new(self.others)) }]
    }

    fn actions(&self, path: &Path, actions: &mut Vec<Step>) {
        actions.extend(self.world(path).steps(self.variant));
    }

    fn next_state(&self, path: &Path, step: Step) -> Option<Path> {
        let mut world = self.world(path);
        world.apply(step, self.variant);
        let mut steps = path.steps.clone();
        steps.push(step);
        Some(Path { steps, world: format!("{world:?}") })
    }

    fn properties(&self) -> Vec<Property<WakeUp>> {
        vec![
            Property::always("no news is lost", |model: &WakeUp, path| !model.world(path).has_lost_news()),
            Property::always("no sleep ends for nothing", |model: &WakeUp, path| !model.world(path).woke_for_nothing),
            Property::always("no cpu idles past a ready vcpu", |model: &WakeUp, path| {
                !model.world(path).is_forgotten()
            }),
            Property::always("it runs once", |model: &WakeUp, path| !model.world(path).scheduler.is_broken()),
            Property::sometimes("all is sent and taken", |model: &WakeUp, path| {
                let world = model.world(path);
                let sent = world.sends_left == 0 && world.kicks_left == 0;
                sent && world.is_quiet() && world.slept && !world.pending && !world.kicked
            }),
        ]
    }
}

#[test]
fn no_interleaving_of_block_wake_and_kick_loses_anything() {
    for others in [0, 1] {
        let checker = WakeUp::check(Variant::Correct, others);
        checker.assert_properties();
        assert!(checker.unique_state_count() > 500);
    }
}

#[test]
fn looking_before_the_lock_is_found_to_lose_an_event() {
    let checker = WakeUp::check(Variant::LooksBeforeTheLock, 0);
    assert!(checker.discovery("no news is lost").is_some());
}

#[test]
fn forgetting_kicks_of_the_awake_is_found() {
    let checker = WakeUp::check(Variant::ForgetsKicks, 0);
    assert!(checker.discovery("no news is lost").is_some());
}

#[test]
fn waking_without_a_look_is_found_to_end_a_later_sleep() {
    let checker = WakeUp::check(Variant::WakesUnlooked, 0);
    assert!(checker.discovery("no sleep ends for nothing").is_some());
}
