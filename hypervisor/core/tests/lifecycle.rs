//! Model check: the life of vCPUs over the real scheduler, as `hv` uses it.
//!
//! vCPUs of one VM start, stop, kick and block each other and themselves, arm timers and end their VM,
//! which is taken apart and built again, while a vCPU of another VM takes CPU time. A step is one call of
//! the scheduler, or what a CPU does between two (`hv`: `run`, `calls/scheduling.rs`, `teardown.rs`).
//! Whatever is stopped executes nothing, nothing that wakes is lost, and who is ready gets a turn.
//! Each duty of the scheduler's callers is neglected once, and must be missed.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "test code: numbers are small and a wrong one fails the test"
)]

use hv_core::addr::CpuId;
use hv_core::sched::{Block, Expired, QUANTUM, RunState, Scheduler, Stop, VcpuKey};
use protocol::{VcpuId, VmId};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Nothing: as the hypervisor does it.
    None,
    /// A CPU loads a vCPU that another still saves.
    LoadsUnsaved,
    /// `vcpu_stop` does not wait for the other CPU.
    StopWaitsNot,
    /// A CPU that picked tells no other.
    TellsNobody,
    /// A kick interrupts nobody.
    KickInterruptsNot,
    /// A CPU that picked does not arm its timer.
    ArmsNothing,
    /// A timer that fires wakes nobody.
    TimerWakesNot,
    /// A vCPU goes on that was to sleep.
    GoesOnAsleep,
    /// A VM is taken apart while CPUs are on their way out of it.
    TearsDownEarly,
    /// A vCPU is started though its VM has ended.
    StartsTheEnded,
}

const CPUS: usize = 2;
/// vCPUs of the VM, and one of the other.
const VCPUS: usize = 2;
const ALL: usize = VCPUS + 1;
const NEVER: u64 = u64::MAX;

/// Where a CPU is. The numbers are vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Halted,
    Executes(usize),
    /// It was interrupted or has to pick: first its deadlines, then the choice.
    Fires(Option<usize>),
    Picks(Option<usize>),
    /// It saves one, and loads another then.
    Saves(usize, Option<usize>),
    Loads(usize),
    /// `vcpu_stop` waits.
    StopWaits(usize, usize),
    /// It ends the VM, and stops this vCPU of it next.
    Ends(usize, usize),
}

/// What is known of a vCPU beside the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Vcpu {
    /// An event that it has not taken.
    pending: bool,
    /// A kick that no block has returned for.
    kicked: bool,
    /// When its block and its timer end.
    wakes: Option<u64>,
    timer: Option<u64>,
    /// It was told to stop, and not started anew since.
    is_told: bool,
    /// The CPU that saves it.
    saved: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    scheduler: Scheduler,
    now: u64,
    cpus: [At; CPUS],
    interrupts: [bool; CPUS],
    armed: [u64; CPUS],
    vcpus: [Vcpu; ALL],
    calls_left: u8,
    ticks_left: u8,
    ends_left: u8,
    has_ended: bool,
    comes_back: bool,
    is_gone: bool,
    is_wrong: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Go(usize),
    Interrupt(usize),
    /// The one-shot interrupt of a CPU is due.
    Timer(usize),
    Tick,
    Block {
        cpu: usize,
        until: u64,
    },
    Yield {
        cpu: usize,
    },
    SetTimer {
        cpu: usize,
    },
    Kick {
        cpu: usize,
        vcpu: usize,
    },
    Start {
        cpu: usize,
        vcpu: usize,
    },
    Stop {
        cpu: usize,
        vcpu: usize,
    },
    End {
        cpu: usize,
    },
    TearDown,
    Rebuild,
}

struct System {
    flaw: Flaw,
    calls: u8,
    ticks: u8,
    ends: u8,
}

fn key(vcpu: usize) -> VcpuKey {
    let (vm, number) = if vcpu < VCPUS { (0, vcpu) } else { (1, 0) };
    VcpuKey { vm: VmId(vm), vcpu: VcpuId(u32::try_from(number).unwrap()) }
}

fn number(key: VcpuKey) -> usize {
    if key.vm == VmId(0) { usize::try_from(key.vcpu.0).unwrap() } else { VCPUS }
}

fn id(cpu: usize) -> CpuId {
    CpuId(u32::try_from(cpu).unwrap())
}

impl At {
    fn has(self, vcpu: usize) -> bool {
        match self {
            At::Halted => false,
            At::Executes(own) | At::StopWaits(own, _) | At::Ends(own, _) | At::Loads(own) => own == vcpu,
            At::Fires(own) | At::Picks(own) => own == Some(vcpu),
            At::Saves(left, next) => left == vcpu || next == Some(vcpu),
        }
    }
}

impl State {
    fn interrupt(&mut self, cpu: Option<CpuId>) {
        if let Some(CpuId(cpu)) = cpu {
            self.interrupts[usize::try_from(cpu).unwrap()] = true;
        }
    }

    fn run(&self, vcpu: usize) -> Option<RunState> {
        self.scheduler.state(key(vcpu))
    }

    /// What a stop or the end of a block takes away, by what the scheduler said before.
    fn note(&mut self, before: &State) {
        for number in 0..ALL {
            let (was, is) = (before.run(number), self.run(number));
            let vcpu = &mut self.vcpus[number];
            if matches!(is, None | Some(RunState::Stopped)) {
                (vcpu.timer, vcpu.wakes, vcpu.kicked) = (None, None, false);
            }
            if was == Some(RunState::Blocked) && is != was {
                (vcpu.wakes, vcpu.kicked) = (None, false);
            }
        }
    }

    fn is_executed(&self, vcpu: usize) -> bool {
        self.cpus.contains(&At::Executes(vcpu))
    }

    /// Nothing happens by itself any more until time goes on.
    fn is_quiet(&self) -> bool {
        let rest = |at: &At| matches!(at, At::Halted | At::Executes(_));
        self.cpus.iter().all(rest) && !self.interrupts.contains(&true) && self.armed.iter().all(|at| *at > self.now)
    }

    /// Somebody sleeps for whom there is news, or a deadline has passed and nothing came of it.
    fn has_lost(&self) -> bool {
        let due = |deadline: Option<u64>| deadline.is_some_and(|deadline| deadline <= self.now);
        let lost = |number: usize| {
            let vcpu = self.vcpus[number];
            let asleep = self.run(number) == Some(RunState::Blocked);
            asleep && (vcpu.pending || vcpu.kicked || due(vcpu.wakes)) || due(vcpu.timer)
        };
        self.is_quiet() && (0..ALL).any(lost)
    }

    /// Somebody is ready, and a CPU halts, or goes on with something else, for ever.
    fn passes_over(&self) -> bool {
        let ready = (0..ALL).any(|vcpu| self.run(vcpu) == Some(RunState::Ready));
        self.is_quiet() && ready && self.armed.contains(&NEVER)
    }

    /// All vCPUs of a VM that has ended were told to stop, and one was started again, or does not stop: so the VM
    /// never goes.
    fn has_risen(&self) -> bool {
        let is_over = self.has_ended && !self.cpus.iter().any(|at| matches!(at, At::Ends(..)));
        let is_there = |vcpu: usize| !matches!(self.run(vcpu), None | Some(RunState::Stopped));
        is_over && (0..VCPUS).any(|vcpu| is_there(vcpu) && (!self.vcpus[vcpu].is_told || self.is_quiet()))
    }

    /// Each CPU executes what the scheduler thinks that it does.
    fn executes_right(&self) -> bool {
        let mut cpus = (0..CPUS).zip(self.cpus);
        let right = |(cpu, at)| match at {
            At::Executes(vcpu) => self.run(vcpu) == Some(RunState::Running(id(cpu))),
            _ => true,
        };
        cpus.all(right) && !self.scheduler.is_broken()
    }
}

impl System {
    /// A CPU fires timers, picks, saves and loads.
    fn go(&self, state: &mut State, cpu: usize) -> Option<()> {
        state.cpus[cpu] = match state.cpus[cpu] {
            At::Fires(previous) => self.fire(state, cpu, previous),
            At::Picks(previous) => self.pick(state, cpu, previous)?,
            At::Saves(left, next) => {
                state.vcpus[left].saved = None;
                next.map_or(At::Halted, At::Loads)
            }
            At::Loads(vcpu) => {
                let unsaved = state.vcpus[vcpu].saved.is_some();
                (!unsaved || self.flaw == Flaw::LoadsUnsaved).then_some(())?;
                state.is_wrong |= unsaved;
                At::Executes(vcpu)
            }
            At::StopWaits(own, other) => {
                let has_stopped = state.run(other) == Some(RunState::Stopped);
                let goes_on = has_stopped || !state.vcpus[other].is_told || state.vcpus[own].is_told;
                (goes_on || self.flaw == Flaw::StopWaitsNot).then_some(())?;
                // Unless it gave up, the other executes nothing more, or was started anew.
                state.is_wrong |= !state.vcpus[own].is_told && state.vcpus[other].is_told && state.is_executed(other);
                At::Executes(own)
            }
            At::Ends(own, vcpu) => System::stop_next(state, own, vcpu),
            At::Halted | At::Executes(_) => return None,
        };
        Some(())
    }

    fn fire(&self, state: &mut State, cpu: usize, previous: Option<usize>) -> At {
        match state.scheduler.expired(id(cpu), state.now) {
            None => return At::Picks(previous),
            Some(Expired::Interrupt(other)) => state.interrupt(Some(other)),
            Some(Expired::Timer(key)) => {
                let vcpu = &mut state.vcpus[number(key)];
                // It fires once, and not too early.
                state.is_wrong |= vcpu.timer.take().is_none_or(|deadline| deadline > state.now);
                vcpu.pending = true;
                if self.flaw != Flaw::TimerWakesNot {
                    let on = state.scheduler.wake(key, state.now);
                    state.interrupt(on);
                }
            }
        }
        At::Fires(previous)
    }

    fn pick(&self, state: &mut State, cpu: usize, previous: Option<usize>) -> Option<At> {
        if let Some(left) = previous {
            state.vcpus[left].saved.is_none().then_some(())?;
        }
        let choice = state.scheduler.pick(id(cpu), state.now);
        if self.flaw != Flaw::ArmsNothing {
            state.armed[cpu] = choice.timer;
        }
        if self.flaw != Flaw::TellsNobody {
            state.interrupt(choice.interrupt);
        }
        let next = choice.vcpu.map(number);
        Some(match (previous, next) {
            (Some(left), Some(next)) if left == next => At::Executes(next),
            (Some(left), next) => {
                state.vcpus[left].saved = Some(cpu);
                At::Saves(left, next)
            }
            (None, next) => next.map_or(At::Halted, At::Loads),
        })
    }

    /// An interrupt of a CPU that takes one.
    fn interrupted(state: &mut State, cpu: usize) -> Option<()> {
        state.cpus[cpu] = match state.cpus[cpu] {
            At::Halted => At::Fires(None),
            At::Executes(vcpu) => At::Fires(Some(vcpu)),
            _ => return None,
        };
        Some(())
    }

    /// The vCPU that makes a call on a CPU: it costs one of those that are left.
    fn call(state: &mut State, cpu: usize) -> Option<usize> {
        let At::Executes(vcpu) = state.cpus[cpu] else { return None };
        (vcpu < VCPUS).then_some(())?;
        state.calls_left = state.calls_left.checked_sub(1)?;
        Some(vcpu)
    }

    fn block(&self, state: &mut State, cpu: usize, until: u64) -> Option<()> {
        let vcpu = System::call(state, cpu)?;
        if std::mem::take(&mut state.vcpus[vcpu].pending) {
            return Some(());
        }
        match state.scheduler.block(key(vcpu), until, state.now) {
            Block::Returned => state.vcpus[vcpu].kicked = false,
            Block::Asleep => {
                state.vcpus[vcpu].wakes = (until != NEVER).then_some(until);
                if self.flaw != Flaw::GoesOnAsleep {
                    state.cpus[cpu] = At::Fires(Some(vcpu));
                }
            }
        }
        Some(())
    }

    fn start(&self, state: &mut State, cpu: usize, vcpu: usize) -> Option<()> {
        System::call(state, cpu)?;
        (!state.has_ended || self.flaw == Flaw::StartsTheEnded).then_some(())?;
        let on = state.scheduler.start(key(vcpu), state.now).ok()?;
        // `prepare` waits for the CPU that it stopped on.
        state.vcpus[vcpu].saved.is_none().then_some(())?;
        state.vcpus[vcpu].is_told = false;
        state.interrupt(on);
        Some(())
    }

    fn stop(state: &mut State, cpu: usize, vcpu: usize) -> Option<()> {
        let caller = System::call(state, cpu)?;
        let stop = state.scheduler.stop(key(vcpu)).ok()?;
        state.vcpus[vcpu].is_told = true;
        if let Stop::OnCpu(on) = stop {
            state.cpus[cpu] = if caller == vcpu { At::Fires(Some(vcpu)) } else { At::StopWaits(caller, vcpu) };
            state.interrupt(Some(on).filter(|_| caller != vcpu));
        }
        Some(())
    }

    /// The VM ends itself, and comes back; or a CPU that runs another one ends it for the person at the console.
    fn end(state: &mut State, cpu: usize) -> Option<()> {
        let At::Executes(own) = state.cpus[cpu] else { return None };
        (!state.has_ended).then_some(())?;
        state.ends_left = state.ends_left.checked_sub(1)?;
        (state.has_ended, state.comes_back) = (true, own < VCPUS);
        state.cpus[cpu] = At::Ends(own, 0);
        Some(())
    }

    /// It stops a vCPU: others do what they like between two.
    fn stop_next(state: &mut State, own: usize, vcpu: usize) -> At {
        if let Ok(stop) = state.scheduler.stop(key(vcpu)) {
            state.vcpus[vcpu].is_told = true;
            if let Stop::OnCpu(on) = stop {
                state.interrupt(Some(on));
            }
        }
        match vcpu.checked_add(1).filter(|next| *next < VCPUS) {
            Some(next) => At::Ends(own, next),
            None => At::Fires(Some(own)),
        }
    }

    fn call_step(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Block { cpu, until } => self.block(state, cpu, until)?,
            Step::Yield { cpu } => {
                let vcpu = System::call(state, cpu)?;
                state.scheduler.yield_now(id(cpu));
                state.cpus[cpu] = At::Fires(Some(vcpu));
            }
            Step::SetTimer { cpu } => {
                let vcpu = System::call(state, cpu)?;
                let deadline = state.now.checked_add(QUANTUM)?;
                state.armed[cpu] = state.scheduler.set_timer(key(vcpu), deadline);
                state.vcpus[vcpu].timer = Some(deadline);
            }
            Step::Kick { cpu, vcpu } => {
                System::call(state, cpu)?;
                let was_asleep = state.run(vcpu) == Some(RunState::Blocked);
                let on = state.scheduler.kick(key(vcpu), state.now).ok()?;
                state.vcpus[vcpu].kicked = !was_asleep;
                state.interrupt(on.filter(|_| self.flaw != Flaw::KickInterruptsNot));
            }
            Step::Start { cpu, vcpu } => self.start(state, cpu, vcpu)?,
            Step::Stop { cpu, vcpu } => System::stop(state, cpu, vcpu)?,
            Step::End { cpu } => System::end(state, cpu)?,
            _ => return None,
        }
        Some(())
    }

    fn tear_down(&self, state: &mut State) -> Option<()> {
        let is_loaded = state.cpus.iter().any(|at| (0..VCPUS).any(|vcpu| at.has(vcpu)));
        let is_due = state.has_ended && !state.is_gone && (!is_loaded || self.flaw == Flaw::TearsDownEarly);
        is_due.then_some(())?;
        state.scheduler.remove_vm(VmId(0)).ok()?;
        state.is_gone = true;
        Some(())
    }

    fn rebuild(state: &mut State) -> Option<()> {
        (state.is_gone && state.comes_back).then_some(())?;
        add_vm(&mut state.scheduler, 0);
        state.vcpus[..VCPUS].fill(Vcpu::default());
        (state.is_gone, state.has_ended) = (false, false);
        let on = state.scheduler.start(key(0), state.now).ok()?;
        state.interrupt(on);
        Some(())
    }

    fn apply(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Go(cpu) => self.go(state, cpu),
            Step::Interrupt(cpu) => {
                std::mem::take(&mut state.interrupts[cpu]).then_some(())?;
                System::interrupted(state, cpu)
            }
            Step::Timer(cpu) => {
                (state.armed[cpu] <= state.now).then_some(())?;
                state.armed[cpu] = NEVER;
                System::interrupted(state, cpu)
            }
            Step::Tick => {
                state.ticks_left = state.ticks_left.checked_sub(1)?;
                state.now = state.now.checked_add(QUANTUM)?;
                Some(())
            }
            Step::TearDown => self.tear_down(state),
            Step::Rebuild => System::rebuild(state),
            call => self.call_step(state, call),
        }
    }
}

fn add_vm(scheduler: &mut Scheduler, vm: u32) {
    let vcpus = if vm == 0 { VCPUS } else { 1 };
    scheduler.add_vm(VmId(vm), u32::try_from(vcpus).unwrap(), 1, 0).unwrap();
}

impl Model for System {
    type State = State;
    type Action = Step;

    /// The VM's first vCPU is ready, and so is the other VM's.
    fn init_states(&self) -> Vec<State> {
        let mut scheduler = Scheduler::new(CPUS, 2);
        for vm in [0, 1] {
            add_vm(&mut scheduler, vm);
        }
        for vcpu in [0, VCPUS] {
            let _first = scheduler.start(key(vcpu), 0).unwrap();
        }
        vec![State {
            scheduler,
            now: 0,
            cpus: [At::Picks(None); CPUS],
            interrupts: [false; CPUS],
            armed: [NEVER; CPUS],
            vcpus: [Vcpu::default(); ALL],
            calls_left: self.calls,
            ticks_left: self.ticks,
            ends_left: self.ends,
            has_ended: false,
            comes_back: false,
            is_gone: false,
            is_wrong: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for cpu in 0..CPUS {
            actions.extend([Step::Go(cpu), Step::Interrupt(cpu), Step::Timer(cpu)]);
            actions.extend([NEVER, state.now.saturating_add(QUANTUM)].map(|until| Step::Block { cpu, until }));
            actions.extend([Step::Yield { cpu }, Step::SetTimer { cpu }, Step::End { cpu }]);
            for vcpu in 0..VCPUS {
                actions.extend([Step::Kick { cpu, vcpu }, Step::Start { cpu, vcpu }, Step::Stop { cpu, vcpu }]);
            }
        }
        actions.extend([Step::Tick, Step::TearDown, Step::Rebuild]);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, step)?;
        state.note(last);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<System>> {
        vec![
            Property::always(LOST, |_, state: &State| !state.has_lost()),
            Property::always(TURN, |_, state: &State| !state.passes_over()),
            Property::always(ONCE, |_, state: &State| state.executes_right()),
            Property::always(ORDER, |_, state: &State| !state.is_wrong),
            Property::always(ENDED, |_, state: &State| !state.has_risen()),
            Property::always(GONE, |_, state: &State| {
                !state.is_gone || !state.cpus.iter().any(|at| (0..VCPUS).any(|vcpu| at.has(vcpu)))
            }),
            Property::sometimes("a timer has woken a vCPU", |_, state: &State| state.vcpus[0].pending),
            Property::sometimes("the VM was built again", |system: &System, state: &State| {
                state.ends_left < system.ends && !state.has_ended && state.is_executed(0)
            }),
        ]
    }
}

const LOST: &str = "no event, kick or deadline is lost";
const TURN: &str = "who is ready gets a turn on every CPU";
const ONCE: &str = "what a CPU executes runs on that CPU";
const ORDER: &str = "stops, saved states and timers come in their order";
const ENDED: &str = "what was stopped for good stays stopped";
const GONE: &str = "no CPU has a vCPU of a VM that is gone";

fn check(flaw: Flaw, [calls, ticks, ends]: [u8; 3], until: HasDiscoveries) -> impl Checker<System> {
    let model = System { flaw, calls, ticks, ends }.checker().threads(2);
    model.finish_when(until).spawn_bfs().join()
}

#[test]
fn no_interleaving_of_lives_loses_or_keeps_anything() {
    let checker = check(Flaw::None, [3, 1, 1], HasDiscoveries::All);
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000);
}

/// As above, farther: `cargo test --release -p hv-core --test lifecycle -- --ignored --nocapture`.
#[test]
#[ignore = "minutes, and gigabytes of memory"]
fn no_longer_interleaving_does_either() {
    let checker = check(Flaw::None, [4, 2, 1], HasDiscoveries::All);
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn each_duty_that_is_neglected_is_missed() {
    for (flaw, limits, claim) in [
        (Flaw::LoadsUnsaved, [1, 1, 0], ORDER),
        (Flaw::StopWaitsNot, [2, 1, 0], ORDER),
        (Flaw::TellsNobody, [2, 1, 0], TURN),
        (Flaw::KickInterruptsNot, [3, 1, 0], TURN),
        (Flaw::ArmsNothing, [1, 1, 0], LOST),
        (Flaw::TimerWakesNot, [2, 1, 0], LOST),
        (Flaw::GoesOnAsleep, [1, 0, 0], ONCE),
        (Flaw::TearsDownEarly, [1, 0, 1], GONE),
        (Flaw::StartsTheEnded, [3, 1, 1], ENDED),
    ] {
        let checker = check(flaw, limits, HasDiscoveries::AnyOf([claim].into()));
        assert!(checker.discovery(claim).is_some(), "{flaw:?} is not found");
    }
}
