//! Model check: no CPU reaches a frame that has been given another use.
//!
//! CPUs of one VM touch pages whenever they like and fill their TLBs from the page table. One of
//! them makes calls: it maps, unmaps, and then releases the frame, which the pool gives another
//! use. The hypervisor's rule is: under the lock of the VM's memory, first the entry goes, then all
//! CPUs forget it (each answers an interrupt when it gets round to it), and only then is the lock
//! released, so that another call can give the frame away. The check explores every interleaving,
//! and must find the error in two broken variants: no waiting for the other CPUs, and a flush that
//! comes before the entry is gone.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "test code: numbers are small and a wrong one fails the test"
)]

use stateright::{Checker, Model, Property};

/// When the flush of an unmapping happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Entry away, flush, lock released: as the hypervisor does it.
    Correct,
    /// The lock is released before the other CPUs have forgotten.
    NoWait,
    /// Flush, then entry away.
    FlushFirst,
}

const PAGES: usize = 2;
const FRAMES: usize = 2;
/// How often the whole system maps, so that the state space ends.
const MAPS: u8 = 3;

struct System {
    cpus: usize,
    order: Order,
}

/// What a frame is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    /// Memory of the VM, with this many mappings.
    Data(u8),
    /// Another use: in the pool, or a table, or another VM's.
    Other,
}

/// The call that holds the lock of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Call {
    /// An unmapping that has taken the entry away (unless the flush comes first).
    Unmap { page: usize, frame: usize },
    /// One that waits for the CPUs of `flush`.
    Wait { page: usize, frame: usize },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    table: [Option<usize>; PAGES],
    frames: [Use; FRAMES],
    /// Per CPU and page the frame that the TLB holds.
    tlb: Vec<[Option<usize>; PAGES]>,
    /// CPUs that were told to forget a page and have not yet.
    flush: Vec<Option<usize>>,
    lock: Option<Call>,
    maps: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// A CPU uses a page, and its TLB takes the entry.
    Touch {
        cpu: usize,
        page: usize,
    },
    /// A CPU's TLB loses an entry by itself.
    Evict {
        cpu: usize,
        page: usize,
    },
    Map {
        page: usize,
        frame: usize,
    },
    Unmap {
        page: usize,
    },
    /// The call that holds the lock gets on.
    Step,
    /// A CPU answers the interrupt.
    Answer {
        cpu: usize,
    },
    /// The frame leaves the VM's memory.
    Release {
        frame: usize,
    },
    /// It comes back, zeroed.
    Reclaim {
        frame: usize,
    },
}

impl System {
    fn start_flush(&self, state: &mut State, page: usize) {
        for flush in &mut state.flush {
            *flush = Some(page);
        }
    }

    /// What the unmapping does when it takes the entry away.
    fn take_away(state: &mut State, page: usize, frame: usize) {
        state.table[page] = None;
        if let Use::Data(mappings) = &mut state.frames[frame] {
            *mappings -= 1;
        }
    }

    fn unmap(&self, state: &mut State, page: usize) -> Option<()> {
        let frame = state.table[page]?;
        match self.order {
            Order::Correct => {
                Self::take_away(state, page, frame);
                state.lock = Some(Call::Unmap { page, frame });
            }
            Order::NoWait => {
                Self::take_away(state, page, frame);
                self.start_flush(state, page);
            }
            Order::FlushFirst => {
                self.start_flush(state, page);
                state.lock = Some(Call::Wait { page, frame });
            }
        }
        Some(())
    }

    fn step(&self, state: &mut State) -> Option<()> {
        match state.lock? {
            Call::Unmap { page, frame } => {
                self.start_flush(state, page);
                state.lock = Some(Call::Wait { page, frame });
            }
            Call::Wait { page, frame } => {
                if state.flush.iter().any(Option::is_some) {
                    return None;
                }
                if self.order == Order::FlushFirst {
                    Self::take_away(state, page, frame);
                }
                state.lock = None;
            }
        }
        Some(())
    }

    fn call(&self, state: &mut State, action: &Action) -> Option<()> {
        if state.lock.is_some() {
            return None;
        }
        match *action {
            Action::Map { page, frame } => {
                let Use::Data(mappings) = state.frames[frame] else {
                    return None;
                };
                if state.table[page].is_some() || state.maps == MAPS {
                    return None;
                }
                state.maps += 1;
                state.table[page] = Some(frame);
                state.frames[frame] = Use::Data(mappings + 1);
            }
            Action::Unmap { page } => self.unmap(state, page)?,
            Action::Release { frame } if state.frames[frame] == Use::Data(0) => {
                state.frames[frame] = Use::Other;
            }
            Action::Reclaim { frame } if state.frames[frame] == Use::Other => {
                state.frames[frame] = Use::Data(0);
            }
            _ => return None,
        }
        Some(())
    }
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            table: [None; PAGES],
            frames: [Use::Data(0); FRAMES],
            tlb: vec![[None; PAGES]; self.cpus],
            flush: vec![None; self.cpus],
            lock: None,
            maps: 0,
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Step);
        for cpu in 0..self.cpus {
            actions.push(Action::Answer { cpu });
            for page in 0..PAGES {
                actions.extend([Action::Touch { cpu, page }, Action::Evict { cpu, page }]);
            }
        }
        for page in 0..PAGES {
            actions.push(Action::Unmap { page });
            actions.extend((0..FRAMES).map(|frame| Action::Map { page, frame }));
        }
        for frame in 0..FRAMES {
            actions.extend([Action::Release { frame }, Action::Reclaim { frame }]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Touch { cpu, page } => {
                let frame = state.tlb[cpu][page].or(state.table[page])?;
                state.tlb[cpu][page] = Some(frame);
            }
            Action::Evict { cpu, page } => state.tlb[cpu][page] = None,
            Action::Answer { cpu } => {
                let page = state.flush[cpu].take()?;
                state.tlb[cpu][page] = None;
            }
            Action::Step => self.step(&mut state)?,
            Action::Map { .. } | Action::Unmap { .. } | Action::Release { .. } | Action::Reclaim { .. } => {
                self.call(&mut state, &action)?
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no CPU reaches a frame of another use", |_, state: &State| {
                let mut held = state.tlb.iter().flatten().flatten();
                held.all(|frame| state.frames[*frame] != Use::Other)
            }),
            Property::always("a frame has as many mappings as it counts", |_, state: &State| {
                (0..FRAMES).all(|frame| {
                    let mapped = state.table.iter().filter(|entry| **entry == Some(frame));
                    match state.frames[frame] {
                        Use::Data(count) => mapped.count() == usize::from(count),
                        Use::Other => mapped.count() == 0,
                    }
                })
            }),
            Property::sometimes("a frame gets another use", |_, state: &State| state.frames.contains(&Use::Other)),
            Property::sometimes("a CPU holds what the table no longer says", |_, state: &State| {
                state.tlb.iter().any(|tlb| tlb[0].is_some() && state.table[0].is_none())
            }),
        ]
    }
}

const CLAIM: &str = "no CPU reaches a frame of another use";

#[test]
fn with_three_cpus_no_interleaving_reaches_a_frame_of_another_use() {
    let system = System { cpus: 3, order: Order::Correct };
    let checker = system.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.unique_state_count() > 1000);
}

#[test]
fn the_check_finds_a_lock_released_before_every_cpu_has_forgotten() {
    let system = System { cpus: 2, order: Order::NoWait };
    let checker = system.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery(CLAIM).is_some());
}

#[test]
fn the_check_finds_a_flush_that_comes_before_the_entry_is_gone() {
    let system = System { cpus: 2, order: Order::FlushFirst };
    let checker = system.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery(CLAIM).is_some());
}
