//! Model check: no CPU has the root of a space loaded that is gone.
//!
//! vCPUs of one VM run on any CPU, start and stop each other, change spaces, destroy and create one,
//! and end the VM. A step is what one CPU does between two moments at which others can see it: a lock
//! taken, a root loaded, a choice of the scheduler. What must hold is that a CPU that gives up a vCPU
//! leaves its root before it unlocks the vCPU's saved state, and that whoever moves a vCPU that is not
//! loaded to another space takes that lock first (`docs/soundness.md`, TLB). The check also finds out
//! whether CPUs can wait for each other for ever. Each guard is taken away once, and must be missed.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "test code: numbers are small and a wrong one fails the test"
)]

use stateright::{Checker, HasDiscoveries, Model, Property};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Nothing: as the hypervisor does it.
    None,
    /// A CPU unlocks the saved state before it leaves the root.
    UnlocksFirst,
    /// `vcpu_start` does not take the lock.
    StartTakesNoLock,
    /// `vcpu_stop` does not take the lock.
    StopTakesNoLock,
    /// `vcpu_stop` does not look whether the vCPU was started anew.
    StopLooksNoMore,
    /// A vCPU that stops itself leaves its space and stays in its root.
    StopsInItsRoot,
    /// `vcpu_stop` waits even when its own vCPU is told to stop.
    WaitsForEver,
    /// `vcpu_stop` waits on when the vCPU was started anew meanwhile.
    WaitsForTheNextStop,
    /// `space_destroy` does not count who is in the space.
    DestroysBusy,
    /// The VM is taken apart while CPUs are on their way out of it.
    TearsDownEarly,
}

const CPUS: usize = 3;
const VCPUS: usize = 3;
/// The space that each VM has, and one that comes and goes.
const SPACES: usize = 2;
const FIRST: usize = 0;
const SECOND: usize = 1;

/// What the scheduler knows of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Run {
    Stopped,
    Ready,
    On,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Vcpu {
    run: Run,
    /// It stops when its CPU picks.
    stopping: bool,
    /// It was told to stop, and not started anew since.
    is_told: bool,
    /// Nothing once its VM is taken apart.
    space: Option<usize>,
    /// The CPU that has its saved state locked.
    saved: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Space {
    is_there: bool,
    /// vCPUs that are in it.
    active: usize,
}

/// Where a CPU is. The number is the vCPU that it has loaded, loads or leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Idle,
    /// It waits for the saved state.
    Loads(usize),
    /// It has read the saved state, and loads the root.
    LoadsRoot(usize),
    Runs(usize),
    /// It waits for the saved state, to give the vCPU up.
    GivesUp(usize),
    /// It has the saved state, and asks the scheduler.
    Picks(usize),
    /// It leaves the vCPU for another, or for none: the root, then the lock (or the other way round).
    Leaves(usize, Option<usize>),
    Unlocks(usize, Option<usize>),
    LeavesLate(Option<usize>),
    /// `vcpu_start` has the memory; has the scheduler too, and moves the vCPU.
    StartLocks(usize, usize),
    Starts(usize, usize),
    /// `vcpu_stop` waits for the other CPU; for the memory; has it; has the scheduler too; moves it.
    StopWaits(usize, usize),
    StopLocks(usize, usize),
    StopLooks(usize, usize),
    StopTakesSaved(usize, usize),
    StopMoves(usize, usize),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    cpus: [At; CPUS],
    /// The space whose root a CPU has loaded; nothing: the machine's own.
    roots: [Option<usize>; CPUS],
    /// CPUs that may have a root of the VM loaded, as the VM knows it.
    loaded: [bool; CPUS],
    vcpus: [Vcpu; VCPUS],
    spaces: [Space; SPACES],
    memory: Option<usize>,
    scheduler: Option<usize>,
    calls_left: u8,
    has_ended: bool,
    is_gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// An idle CPU picks a vCPU.
    Pick {
        cpu: usize,
        vcpu: usize,
    },
    /// A CPU is interrupted and has to pick.
    Interrupt {
        cpu: usize,
    },
    /// A CPU that picks leaves its vCPU for another, or stays.
    Leave {
        cpu: usize,
        next: Option<usize>,
    },
    Stay {
        cpu: usize,
    },
    /// A CPU goes on with what it does.
    Go {
        cpu: usize,
    },
    /// Calls of the vCPU that runs on a CPU.
    Switch {
        cpu: usize,
        space: usize,
    },
    Destroy {
        cpu: usize,
    },
    Create {
        cpu: usize,
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
    /// The VM that has ended is taken apart.
    TearDown,
}

struct System {
    flaw: Flaw,
    calls: u8,
    cpus: usize,
    vcpus: usize,
}

impl State {
    /// Moves a vCPU to another space, under the lock of the memory.
    fn move_to(&mut self, vcpu: usize, space: usize) {
        if let Some(left) = self.vcpus[vcpu].space.replace(space) {
            self.spaces[space].active += 1;
            self.spaces[left].active -= 1;
        }
    }

    /// Has the scheduler stop a vCPU. Whether that is for its CPU to do.
    fn stop(&mut self, vcpu: usize) -> Option<bool> {
        let vcpu = &mut self.vcpus[vcpu];
        if vcpu.run == Run::Stopped {
            return None;
        }
        vcpu.is_told = true;
        match vcpu.run {
            Run::Stopped => None,
            Run::Ready => {
                vcpu.run = Run::Stopped;
                Some(false)
            }
            Run::On => {
                vcpu.stopping = true;
                Some(true)
            }
        }
    }

    /// Takes a lock, if it is free.
    fn lock(lock: &mut Option<usize>, cpu: usize) -> Option<()> {
        lock.is_none().then(|| *lock = Some(cpu))
    }

    /// The vCPU that makes calls on a CPU.
    fn caller(&self, cpu: usize) -> Option<usize> {
        if let At::Runs(vcpu) = self.cpus[cpu] { Some(vcpu) } else { None }
    }

    /// A call: it costs one of those that are left.
    fn call(&mut self, cpu: usize) -> Option<usize> {
        self.calls_left = self.calls_left.checked_sub(1)?;
        self.caller(cpu)
    }

    fn is_between(&self, cpu: usize) -> bool {
        !matches!(self.cpus[cpu], At::Idle | At::Runs(_))
    }
}

impl System {
    fn new(flaw: Flaw, calls: u8) -> System {
        System { flaw, calls, cpus: CPUS, vcpus: VCPUS }
    }

    /// Where a CPU goes on after it gave up a vCPU.
    fn after(next: Option<usize>) -> At {
        next.map_or(At::Idle, At::Loads)
    }

    /// Steps of CPUs that load a vCPU or give one up.
    fn switch_step(&self, state: &mut State, cpu: usize) -> Option<()> {
        state.cpus[cpu] = match state.cpus[cpu] {
            At::Loads(vcpu) => {
                // Locked and unlocked again: the last CPU has saved it.
                state.vcpus[vcpu].saved.is_none().then_some(())?;
                state.loaded[cpu] = true;
                At::LoadsRoot(vcpu)
            }
            At::LoadsRoot(vcpu) => {
                state.roots[cpu] = state.vcpus[vcpu].space;
                At::Runs(vcpu)
            }
            At::GivesUp(vcpu) => {
                State::lock(&mut state.vcpus[vcpu].saved, cpu)?;
                At::Picks(vcpu)
            }
            At::Leaves(vcpu, next) if self.flaw == Flaw::UnlocksFirst => {
                state.vcpus[vcpu].saved = None;
                At::LeavesLate(next)
            }
            At::Leaves(vcpu, next) => {
                state.roots[cpu] = None;
                At::Unlocks(vcpu, next)
            }
            At::Unlocks(vcpu, next) => {
                state.vcpus[vcpu].saved = None;
                state.loaded[cpu] = next.is_some();
                System::after(next)
            }
            At::LeavesLate(next) => {
                state.roots[cpu] = None;
                state.loaded[cpu] = next.is_some();
                System::after(next)
            }
            _ => return None,
        };
        Some(())
    }

    fn start_step(&self, state: &mut State, cpu: usize) -> Option<()> {
        let unlock = |state: &mut State, caller| {
            (state.memory, state.scheduler) = (None, None);
            At::Runs(caller)
        };
        state.cpus[cpu] = match state.cpus[cpu] {
            At::StartLocks(caller, vcpu) => {
                State::lock(&mut state.scheduler, cpu)?;
                let is_stopped = state.vcpus[vcpu].run == Run::Stopped;
                if is_stopped { At::Starts(caller, vcpu) } else { unlock(state, caller) }
            }
            At::Starts(caller, vcpu) => {
                let takes_lock = self.flaw != Flaw::StartTakesNoLock;
                (!takes_lock || state.vcpus[vcpu].saved.is_none()).then_some(())?;
                state.move_to(vcpu, state.vcpus[caller].space?);
                state.vcpus[vcpu].run = Run::Ready;
                state.vcpus[vcpu].is_told = false;
                unlock(state, caller)
            }
            _ => return None,
        };
        Some(())
    }

    fn stop_step(&self, state: &mut State, cpu: usize) -> Option<()> {
        state.cpus[cpu] = match state.cpus[cpu] {
            At::StopWaits(caller, vcpu) => {
                let gives_up = state.vcpus[caller].is_told && self.flaw != Flaw::WaitsForEver;
                let is_started = !state.vcpus[vcpu].is_told && self.flaw != Flaw::WaitsForTheNextStop;
                let has_stopped = state.scheduler.is_none() && state.vcpus[vcpu].run == Run::Stopped;
                (has_stopped || is_started || gives_up).then_some(At::StopLocks(caller, vcpu))?
            }
            At::StopLocks(caller, vcpu) => {
                State::lock(&mut state.memory, cpu)?;
                At::StopLooks(caller, vcpu)
            }
            At::StopLooks(caller, vcpu) => {
                State::lock(&mut state.scheduler, cpu)?;
                match self.flaw {
                    Flaw::StopLooksNoMore => At::StopTakesSaved(caller, vcpu),
                    _ if state.vcpus[vcpu].run != Run::Stopped => {
                        (state.memory, state.scheduler) = (None, None);
                        At::Runs(caller)
                    }
                    Flaw::StopTakesNoLock => At::StopMoves(caller, vcpu),
                    _ => At::StopTakesSaved(caller, vcpu),
                }
            }
            At::StopTakesSaved(caller, vcpu) => {
                state.vcpus[vcpu].saved.is_none().then_some(())?;
                At::StopMoves(caller, vcpu)
            }
            At::StopMoves(caller, vcpu) => {
                state.move_to(vcpu, FIRST);
                (state.memory, state.scheduler) = (None, None);
                At::Runs(caller)
            }
            _ => return None,
        };
        Some(())
    }

    /// What the scheduler does when a CPU picks: whom it leaves, and for whom.
    fn pick(state: &mut State, cpu: usize, next: Option<usize>) -> Option<()> {
        state.scheduler.is_none().then_some(())?;
        let At::Picks(vcpu) = state.cpus[cpu] else { return None };
        if let Some(next) = next {
            (state.vcpus[next].run == Run::Ready).then_some(())?;
            state.vcpus[next].run = Run::On;
        }
        let left = &mut state.vcpus[vcpu];
        left.run = if std::mem::take(&mut left.stopping) { Run::Stopped } else { Run::Ready };
        state.cpus[cpu] = At::Leaves(vcpu, next);
        Some(())
    }

    fn stop_call(&self, state: &mut State, cpu: usize, vcpu: usize) -> Option<()> {
        let caller = state.call(cpu)?;
        if caller == vcpu {
            (state.memory.is_none() && state.scheduler.is_none()).then_some(())?;
            state.move_to(vcpu, FIRST);
            if self.flaw != Flaw::StopsInItsRoot {
                state.roots[cpu] = Some(FIRST);
            }
            state.stop(vcpu);
            state.cpus[cpu] = At::GivesUp(vcpu);
            return Some(());
        }
        state.scheduler.is_none().then_some(())?;
        let on_cpu = state.stop(vcpu)?;
        state.cpus[cpu] = if on_cpu { At::StopWaits(caller, vcpu) } else { At::StopLocks(caller, vcpu) };
        Some(())
    }

    fn call_step(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Switch { cpu, space } => {
                let caller = state.call(cpu)?;
                (state.memory.is_none() && state.spaces[space].is_there).then_some(())?;
                state.move_to(caller, space);
                state.roots[cpu] = Some(space);
            }
            Step::Destroy { cpu } => {
                state.call(cpu)?;
                let busy = state.spaces[SECOND].active > 0 && self.flaw != Flaw::DestroysBusy;
                (state.memory.is_none() && state.spaces[SECOND].is_there && !busy).then_some(())?;
                state.spaces[SECOND].is_there = false;
            }
            Step::Create { cpu } => {
                state.call(cpu)?;
                (state.memory.is_none() && !state.spaces[SECOND].is_there).then_some(())?;
                state.spaces[SECOND].is_there = true;
            }
            Step::Start { cpu, vcpu } => {
                let caller = state.call(cpu)?;
                State::lock(&mut state.memory, cpu)?;
                state.cpus[cpu] = At::StartLocks(caller, vcpu);
            }
            Step::Stop { cpu, vcpu } => self.stop_call(state, cpu, vcpu)?,
            Step::End { cpu } => {
                let caller = state.call(cpu)?;
                (!state.has_ended && state.scheduler.is_none()).then_some(())?;
                state.has_ended = true;
                for vcpu in 0..self.vcpus {
                    state.stop(vcpu);
                }
                state.cpus[cpu] = At::GivesUp(caller);
            }
            _ => return None,
        }
        Some(())
    }

    fn tear_down(&self, state: &mut State) -> Option<()> {
        let all_stopped = state.vcpus.iter().all(|vcpu| vcpu.run == Run::Stopped);
        let is_loaded = state.loaded.contains(&true) && self.flaw != Flaw::TearsDownEarly;
        let is_due = state.has_ended && !state.is_gone && all_stopped && !is_loaded;
        (is_due && state.memory.is_none() && state.scheduler.is_none()).then_some(())?;
        for vcpu in &mut state.vcpus {
            vcpu.space = None;
        }
        state.spaces = [Space { is_there: false, active: 0 }; SPACES];
        state.is_gone = true;
        Some(())
    }

    fn apply(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Pick { cpu, vcpu } => {
                let is_due = state.cpus[cpu] == At::Idle && state.scheduler.is_none();
                (is_due && state.vcpus[vcpu].run == Run::Ready).then_some(())?;
                state.vcpus[vcpu].run = Run::On;
                state.cpus[cpu] = At::Loads(vcpu);
                Some(())
            }
            Step::Interrupt { cpu } => {
                state.cpus[cpu] = At::GivesUp(state.caller(cpu)?);
                Some(())
            }
            Step::Leave { cpu, next } => System::pick(state, cpu, next),
            Step::Stay { cpu } => {
                let At::Picks(vcpu) = state.cpus[cpu] else { return None };
                (state.scheduler.is_none() && !state.vcpus[vcpu].stopping).then_some(())?;
                state.vcpus[vcpu].saved = None;
                state.cpus[cpu] = At::Runs(vcpu);
                Some(())
            }
            Step::Go { cpu } => self
                .switch_step(state, cpu)
                .or_else(|| self.start_step(state, cpu))
                .or_else(|| self.stop_step(state, cpu)),
            Step::TearDown => self.tear_down(state),
            call => self.call_step(state, call),
        }
    }

    fn steps(&self) -> impl Iterator<Item = Step> {
        let vcpus = self.vcpus;
        let of_cpu = move |cpu| {
            let with_vcpu = move |vcpu| {
                [
                    Step::Pick { cpu, vcpu },
                    Step::Leave { cpu, next: Some(vcpu) },
                    Step::Start { cpu, vcpu },
                    Step::Stop { cpu, vcpu },
                ]
            };
            let alone = [
                Step::Interrupt { cpu },
                Step::Leave { cpu, next: None },
                Step::Stay { cpu },
                Step::Go { cpu },
                Step::Switch { cpu, space: FIRST },
                Step::Switch { cpu, space: SECOND },
                Step::Destroy { cpu },
                Step::Create { cpu },
                Step::End { cpu },
            ];
            alone.into_iter().chain((0..vcpus).flat_map(with_vcpu))
        };
        (0..self.cpus).flat_map(of_cpu).chain([Step::TearDown])
    }

    /// Some CPUs are in the middle of something, and none of them can get on, nor does an interrupt
    /// come that would help.
    fn is_stuck(&self, state: &State) -> bool {
        let goes_on = |cpu| {
            let mut steps = vec![Step::Go { cpu }, Step::Stay { cpu }, Step::Leave { cpu, next: None }];
            if state.caller(cpu).is_some_and(|vcpu| state.vcpus[vcpu].stopping) {
                steps.push(Step::Interrupt { cpu });
            }
            steps.into_iter().any(|step| self.apply(&mut state.clone(), step).is_some())
        };
        (0..self.cpus).any(|cpu| state.is_between(cpu)) && !(0..self.cpus).any(goes_on)
    }
}

impl Model for System {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let vcpu = Vcpu { run: Run::Stopped, stopping: false, is_told: false, space: Some(FIRST), saved: None };
        let mut state = State {
            cpus: [At::Idle; CPUS],
            roots: [None; CPUS],
            loaded: [false; CPUS],
            vcpus: [vcpu; VCPUS],
            spaces: [Space { is_there: true, active: VCPUS }, Space { is_there: true, active: 0 }],
            memory: None,
            scheduler: None,
            calls_left: self.calls,
            has_ended: false,
            is_gone: false,
        };
        // Every vCPU runs, and one is in the second space: the calls are for what is hard.
        state.move_to(1, SECOND);
        for number in 0..self.vcpus.min(self.cpus) {
            state.vcpus[number].run = Run::On;
            state.cpus[number] = At::Runs(number);
            state.roots[number] = state.vcpus[number].space;
            state.loaded[number] = true;
        }
        vec![state]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Step>) {
        actions.extend(self.steps());
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, step)?;
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<System>> {
        vec![
            Property::always(ROOTS, |_, state: &State| {
                state.roots.iter().flatten().all(|space| state.spaces[*space].is_there)
            }),
            Property::always(OWN, |_, state: &State| {
                let mut cpus = state.cpus.iter().zip(state.roots);
                cpus.all(|(at, root)| !matches!(at, At::Runs(vcpu) if state.vcpus[*vcpu].space != root))
            }),
            Property::always(PROGRESS, |system: &System, state: &State| !system.is_stuck(state)),
            Property::always("a space has as many vCPUs as it counts", |_, state: &State| {
                let within = |space| state.vcpus.iter().filter(|vcpu| vcpu.space == Some(space)).count();
                (0..SPACES).all(|space| state.spaces[space].active == within(space))
            }),
            Property::always("a vCPU is on one CPU at most", |_, state: &State| {
                let runs = |vcpu| state.cpus.iter().filter(|at| **at == At::Runs(vcpu)).count();
                (0..VCPUS).all(|vcpu| runs(vcpu) <= 1)
            }),
            Property::sometimes("the space goes", |_, state: &State| !state.is_gone && !state.spaces[SECOND].is_there),
            Property::sometimes("a vCPU is started anew while another waits for its stop", |_, state: &State| {
                state.cpus.iter().any(|at| matches!(at, At::StopLooks(_, vcpu) if state.vcpus[*vcpu].run == Run::On))
            }),
            Property::sometimes("the VM is taken apart", |_, state: &State| state.is_gone),
        ]
    }
}

const ROOTS: &str = "no CPU has a root loaded whose space is gone";
const OWN: &str = "a vCPU that runs is in the space whose root is loaded";
const PROGRESS: &str = "no CPUs wait for each other for ever";

#[test]
fn no_interleaving_of_starts_stops_and_switches_leaves_a_root_of_a_space_that_is_gone() {
    let checker = System::new(Flaw::None, 2).checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000);
}

/// As above, farther: `cargo test --release -p hv-core --test roots -- --ignored --nocapture`.
#[test]
#[ignore = "minutes, and gigabytes of memory"]
fn no_longer_interleaving_does_either() {
    let checker = System::new(Flaw::None, 4).checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn each_guard_that_is_missing_is_found() {
    for (flaw, calls, claim) in [
        (Flaw::UnlocksFirst, 2, ROOTS),
        (Flaw::StartTakesNoLock, 3, ROOTS),
        (Flaw::StopTakesNoLock, 2, ROOTS),
        (Flaw::StopLooksNoMore, 3, OWN),
        (Flaw::StopsInItsRoot, 2, ROOTS),
        (Flaw::DestroysBusy, 1, ROOTS),
        (Flaw::TearsDownEarly, 1, ROOTS),
        (Flaw::WaitsForEver, 2, PROGRESS),
        (Flaw::WaitsForTheNextStop, 2, PROGRESS),
    ] {
        let model = System::new(flaw, calls).checker().threads(2);
        let checker = model.finish_when(HasDiscoveries::AnyOf([claim].into())).spawn_bfs().join();
        assert!(checker.discovery(claim).is_some(), "{flaw:?} is not found");
    }
}
