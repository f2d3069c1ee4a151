//! Model check: no event is lost between its sender and the guest, and no upcall comes while the guest
//! has masked them.
//!
//! CPUs of the hypervisor raise ports of one vCPU (`hv-arch`: `SharedPage::raise`, `hv`: `events::alert`),
//! which runs, is preempted and sleeps (`run`, `deliver`, `block`), while its guest masks and unmasks
//! upcalls and single ports and takes what is pending (the SDK's `event`). A step is one access to the
//! page that both share; what the guest stores plainly waits in its CPU's store buffer. Each order that
//! matters is reversed once, and must be missed.
#![expect(
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "test code: numbers are small and a wrong one fails the test"
)]

use stateright::{Checker, HasDiscoveries, Model, Property};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Nothing: as the hypervisor and the SDK do it.
    None,
    /// A raise looks whether the port is masked before it sets the bit.
    RaiseLooksFirst,
    /// A raise sets `events_pending` before the bit.
    RaiseTellsFirst,
    /// A sender looks where the vCPU is before it sets `events_pending`.
    AlertsFirst,
    /// A block looks for events before it is seen as blocked.
    BlockLooksFirst,
    /// A vCPU that is loaded looks for events before it is seen as running.
    LoadLooksFirst,
    /// A resume does not look for events.
    ResumeLooksNot,
    /// An upcall is made whatever the mask.
    IgnoresMask,
    /// The guest unmasks and does not look.
    UnmaskLooksNot,
    /// The guest clears `events_pending` after it has looked at the bits.
    ClearsLate,
    /// The guest clears bits that it has not seen.
    ClearsAll,
    /// The guest unmasks a port by a plain store.
    PortByPlainStore,
    /// The guest unmasks a port and does not look.
    PortLooksNot,
}

const PORTS: u8 = 2;
const SENDERS: usize = 2;

/// Where a sender is; the number is its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sender {
    Idle,
    SetsBit(u8),
    LooksAtMask(u8),
    Tells(u8),
    LooksWhere(u8),
    /// It takes the scheduler's lock and wakes the vCPU.
    Wakes,
    /// For flaws: what it saw before.
    Saw(u8, bool),
}

/// Where the vCPU is, as senders see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Presence {
    Running,
    Away,
    Blocked,
}

/// Where the guest goes on when it has taken its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Then {
    Unmask,
    Masked,
    Resume,
}

/// Where the guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Guest {
    /// Anywhere in its code, with upcalls unmasked, or masked.
    Open,
    Masked,
    /// It has unmasked, and looks.
    UnmaskLooks,
    /// It has masked again, to take what came.
    Takes(Then),
    LooksAtBits(Then),
    ClearsBits(Then, u8),
    /// The flaw: it clears `events_pending` last.
    ClearsPending(Then),
    /// It has unmasked a port, and looks; with upcalls unmasked or not.
    PortLooks(u8, bool),
    /// It says itself that there is something.
    PortTells(bool),
    /// Its handler has taken all; it is in `resume`.
    UpcallEnds,
    Resumes,
    /// In `block`: it is seen as blocked; it has looked; it is about to leave its CPU.
    BlockLooks,
    BlockSleeps(bool),
    Leaves,
    Asleep,
}

/// What a guest's plain store changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Store {
    Mask(bool),
    Ports(u8),
    Pending,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    pending: u8,
    /// Events that the guest has not taken.
    news: u8,
    masked: u8,
    events_masked: bool,
    events_pending: bool,
    /// Stores of the guest that others do not see yet, oldest first.
    buffer: Vec<Store>,
    presence: Presence,
    /// Loaded on its CPU; preempted, or about to be loaded, otherwise.
    is_loaded: bool,
    /// It looks for events before it goes on.
    has_work: bool,
    /// The scheduler has it asleep.
    is_asleep: bool,
    scheduler_locked: bool,
    interrupt: bool,
    guest: Guest,
    /// What an upcall interrupted.
    interrupted: Option<Guest>,
    senders: [Sender; SENDERS],
    sends_left: u8,
    /// What the guest may still do to masks, and how often it may be preempted.
    changes_left: u8,
    preemptions_left: u8,
    blocks_left: u8,
    is_wrong: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Send(usize, u8),
    Sender(usize),
    /// The oldest store becomes seen.
    Drain,
    /// The guest goes on.
    Guest,
    Mask,
    Unmask,
    /// It takes what is pending, with upcalls masked.
    Poll,
    MaskPort(u8),
    UnmaskPort(u8),
    Block,
    Interrupt,
    Preempt,
    Load,
    Look,
}

struct System {
    flaw: Flaw,
    sends: u8,
    changes: u8,
    preemptions: u8,
    blocks: u8,
}

impl State {
    /// The guest's own view: its stores are done for it.
    fn mask_of_guest(&self) -> bool {
        let own = self.buffer.iter().rev().find_map(|store| if let Store::Mask(to) = store { Some(*to) } else { None });
        own.unwrap_or(self.events_masked)
    }

    fn ports_of_guest(&self) -> u8 {
        let own =
            self.buffer.iter().rev().find_map(|store| if let Store::Ports(to) = store { Some(*to) } else { None });
        own.unwrap_or(self.masked)
    }

    fn pending_of_guest(&self) -> bool {
        self.events_pending || self.buffer.contains(&Store::Pending)
    }

    fn drain(&mut self) -> Option<()> {
        (!self.buffer.is_empty()).then_some(())?;
        match self.buffer.remove(0) {
            Store::Mask(to) => self.events_masked = to,
            Store::Ports(to) => self.masked = to,
            Store::Pending => self.events_pending = true,
        }
        Some(())
    }

    /// A locked instruction of the guest, or an entry to ring 0: all stores are done first.
    fn drain_all(&mut self) {
        while self.drain().is_some() {}
    }

    /// Ring 0 does not let the guest execute now.
    fn in_ring_0(&self) -> bool {
        let calls = matches!(
            self.guest,
            Guest::BlockLooks | Guest::BlockSleeps(_) | Guest::Leaves | Guest::Asleep | Guest::Resumes
        );
        calls || !self.is_loaded || self.has_work
    }

    fn has_pending(&self) -> bool {
        self.pending & !self.masked != 0
    }

    /// What is done before a guest goes on: `deliver::events`.
    fn look(&mut self, flaw: Flaw) {
        self.has_work = false;
        let open = !self.events_masked || flaw == Flaw::IgnoresMask;
        if self.events_pending && open && self.interrupted.is_none() {
            self.is_wrong |= self.events_masked;
            self.events_masked = true;
            self.interrupted = Some(std::mem::replace(&mut self.guest, Guest::Takes(Then::Resume)));
        }
    }

    /// Nothing is under way but what the guest does.
    fn is_quiet(&self) -> bool {
        let senders_idle = self.senders.iter().all(|sender| *sender == Sender::Idle);
        senders_idle && !self.interrupt && self.buffer.is_empty() && self.is_loaded && !self.has_work
    }

    /// An event waits for a guest that takes it, and nobody tells the guest.
    fn has_lost(&self) -> bool {
        let waits = matches!(self.guest, Guest::Open | Guest::Asleep);
        self.is_quiet() && waits && self.news & !self.masked != 0
    }
}

impl System {
    /// A sender's next access. First the bit, then the mask, then `events_pending`, then where the
    /// vCPU is.
    fn sender(&self, state: &mut State, number: usize) -> Option<()> {
        state.senders[number] = match (state.senders[number], self.flaw) {
            (Sender::Idle, _) => return None,
            (Sender::SetsBit(port), Flaw::RaiseLooksFirst) => Sender::Saw(port, state.masked & port == 0),
            (Sender::Saw(port, is_open), Flaw::RaiseLooksFirst) => {
                state.pending |= port;
                state.news |= port;
                if is_open { Sender::Tells(port) } else { Sender::Idle }
            }
            (Sender::SetsBit(port), Flaw::RaiseTellsFirst) => {
                state.events_pending = true;
                Sender::Saw(port, true)
            }
            (Sender::Saw(port, _), Flaw::RaiseTellsFirst) => {
                state.pending |= port;
                state.news |= port;
                Sender::LooksWhere(port)
            }
            (Sender::SetsBit(port), _) => {
                state.pending |= port;
                state.news |= port;
                Sender::LooksAtMask(port)
            }
            (Sender::LooksAtMask(port), _) if state.masked & port != 0 => Sender::Idle,
            (Sender::LooksAtMask(port), Flaw::AlertsFirst) => Sender::LooksWhere(port),
            (Sender::LooksAtMask(port), _) => Sender::Tells(port),
            (Sender::Tells(port), Flaw::AlertsFirst) => {
                state.events_pending = true;
                let _ = port;
                Sender::Idle
            }
            (Sender::Tells(port), _) => {
                state.events_pending = true;
                Sender::LooksWhere(port)
            }
            (Sender::LooksWhere(port), flaw) => {
                let done = if flaw == Flaw::AlertsFirst { Sender::Tells(port) } else { Sender::Idle };
                match state.presence {
                    Presence::Running => state.interrupt = true,
                    Presence::Away => {}
                    Presence::Blocked if flaw == Flaw::AlertsFirst => state.interrupt = true,
                    Presence::Blocked => {
                        state.senders[number] = Sender::Wakes;
                        return Some(());
                    }
                }
                done
            }
            (Sender::Wakes, _) => {
                (!state.scheduler_locked).then_some(())?;
                let was_asleep = std::mem::replace(&mut state.is_asleep, false);
                // One that has not left its CPU yet goes on; one that is awake is interrupted.
                state.interrupt |= !was_asleep || state.guest == Guest::Asleep;
                Sender::Idle
            }
            (Sender::Saw(..), _) => return None,
        };
        Some(())
    }

    /// The guest takes what is pending: `dispatch`.
    fn take_step(&self, state: &mut State) -> Option<()> {
        state.guest = match state.guest {
            Guest::Takes(then) if self.flaw == Flaw::ClearsLate => {
                if state.pending_of_guest() {
                    Guest::LooksAtBits(then)
                } else {
                    System::taken(state, then)
                }
            }
            Guest::Takes(then) => {
                state.drain_all();
                let came = std::mem::replace(&mut state.events_pending, false);
                if came { Guest::LooksAtBits(then) } else { System::taken(state, then) }
            }
            Guest::LooksAtBits(then) => {
                let bits = state.pending & !state.ports_of_guest();
                let next = if self.flaw == Flaw::ClearsLate { Guest::ClearsPending(then) } else { Guest::Takes(then) };
                if bits == 0 { next } else { Guest::ClearsBits(then, bits) }
            }
            Guest::ClearsBits(then, bits) => {
                state.drain_all();
                state.pending &= if self.flaw == Flaw::ClearsAll { 0 } else { !bits };
                state.news &= !bits;
                if self.flaw == Flaw::ClearsLate { Guest::ClearsPending(then) } else { Guest::Takes(then) }
            }
            Guest::ClearsPending(then) => {
                state.drain_all();
                state.events_pending = false;
                Guest::Takes(then)
            }
            _ => return None,
        };
        Some(())
    }

    /// All is taken.
    fn taken(state: &mut State, then: Then) -> Guest {
        match then {
            Then::Masked => Guest::Masked,
            Then::Resume => Guest::UpcallEnds,
            Then::Unmask => {
                state.buffer.push(Store::Mask(false));
                Guest::UnmaskLooks
            }
        }
    }

    /// What ring 0 does for the guest: `resume` and `block`.
    fn call_step(&self, state: &mut State) -> Option<()> {
        match state.guest {
            Guest::Resumes => {
                state.guest = state.interrupted.take()?;
                state.events_masked = false;
                state.has_work = state.events_pending && self.flaw != Flaw::ResumeLooksNot;
            }
            Guest::BlockLooks => {
                state.guest = Guest::BlockSleeps(state.has_pending());
            }
            Guest::BlockSleeps(seen) => {
                state.scheduler_locked = false;
                state.is_asleep = !seen;
                state.presence = if seen { Presence::Running } else { Presence::Blocked };
                state.has_work = seen;
                state.guest = if seen { Guest::Takes(Then::Masked) } else { Guest::Leaves };
            }
            Guest::Leaves => {
                (!state.scheduler_locked).then_some(())?;
                state.guest = if state.is_asleep { Guest::Asleep } else { Guest::Takes(Then::Masked) };
                if !state.is_asleep {
                    state.presence = Presence::Running;
                    state.has_work = true;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// The guest goes on with what it does.
    fn guest(&self, state: &mut State) -> Option<()> {
        if !state.is_loaded || state.has_work {
            return None;
        }
        state.guest = match state.guest {
            Guest::UnmaskLooks if state.pending_of_guest() && self.flaw != Flaw::UnmaskLooksNot => {
                state.buffer.push(Store::Mask(true));
                Guest::Takes(Then::Unmask)
            }
            Guest::UnmaskLooks => Guest::Open,
            Guest::UpcallEnds => {
                state.drain_all();
                Guest::Resumes
            }
            Guest::PortLooks(port, is_open) => {
                let came = state.pending & port != 0 && self.flaw != Flaw::PortLooksNot;
                match (came, is_open) {
                    (true, _) => Guest::PortTells(is_open),
                    (false, true) => Guest::Open,
                    (false, false) => Guest::Masked,
                }
            }
            Guest::PortTells(is_open) => {
                state.buffer.push(Store::Pending);
                if is_open { Guest::UnmaskLooks } else { Guest::Masked }
            }
            _ => return self.take_step(state).or_else(|| self.call_step(state)),
        };
        Some(())
    }

    /// The guest chooses to do something.
    fn choose(&self, state: &mut State, step: Step) -> Option<()> {
        (!state.in_ring_0()).then_some(())?;
        let is_open = state.guest == Guest::Open;
        (is_open || state.guest == Guest::Masked).then_some(())?;
        if step == Step::Block {
            state.blocks_left = state.blocks_left.checked_sub(1)?;
        } else {
            state.changes_left = state.changes_left.checked_sub(1)?;
        }
        match (step, is_open) {
            (Step::Mask, true) => {
                state.buffer.push(Store::Mask(true));
                state.guest = Guest::Masked;
            }
            (Step::Unmask, false) => {
                state.buffer.push(Store::Mask(false));
                state.guest = Guest::UnmaskLooks;
            }
            (Step::Poll, false) => state.guest = Guest::Takes(Then::Masked),
            (Step::MaskPort(port), _) => {
                state.drain_all();
                state.masked |= port;
            }
            (Step::UnmaskPort(port), _) if self.flaw == Flaw::PortByPlainStore => {
                let to = state.ports_of_guest() & !port;
                state.buffer.push(Store::Ports(to));
                state.guest = Guest::PortLooks(port, is_open);
            }
            (Step::UnmaskPort(port), _) => {
                state.drain_all();
                state.masked &= !port;
                state.guest = Guest::PortLooks(port, is_open);
            }
            (Step::Block, false) => {
                (!state.scheduler_locked).then_some(())?;
                state.drain_all();
                state.scheduler_locked = true;
                if self.flaw != Flaw::BlockLooksFirst {
                    state.presence = Presence::Blocked;
                }
                state.guest = Guest::BlockLooks;
            }
            _ => return None,
        }
        Some(())
    }

    /// What comes from outside to the CPU of the vCPU.
    fn machine(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Drain => state.drain()?,
            Step::Interrupt if state.guest == Guest::Asleep => {
                state.interrupt.then_some(())?;
                state.interrupt = false;
                if !state.is_asleep {
                    state.presence = Presence::Running;
                    state.guest = Guest::Takes(Then::Masked);
                    state.has_work = true;
                }
            }
            Step::Interrupt => {
                // Ring 0 takes none; what runs instead of the vCPU does, and nothing comes of it.
                (state.interrupt && (!state.in_ring_0() || !state.is_loaded)).then_some(())?;
                state.interrupt = false;
                state.drain_all();
                state.has_work |= state.is_loaded;
            }
            Step::Preempt => {
                (!state.in_ring_0()).then_some(())?;
                state.preemptions_left = state.preemptions_left.checked_sub(1)?;
                state.drain_all();
                state.is_loaded = false;
                state.presence = Presence::Away;
            }
            Step::Load => {
                (!state.is_loaded).then_some(())?;
                if self.flaw == Flaw::LoadLooksFirst {
                    if !state.has_work {
                        state.look(self.flaw);
                        state.has_work = true;
                        return Some(());
                    }
                    state.has_work = false;
                } else {
                    state.has_work = true;
                }
                state.is_loaded = true;
                state.presence = Presence::Running;
            }
            Step::Look => {
                (state.is_loaded && state.has_work).then_some(())?;
                state.look(self.flaw);
            }
            _ => return None,
        }
        Some(())
    }

    fn apply(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Send(number, port) => {
                (state.senders[number] == Sender::Idle).then_some(())?;
                state.sends_left = state.sends_left.checked_sub(1)?;
                state.senders[number] = Sender::SetsBit(1 << port);
                Some(())
            }
            Step::Sender(number) => self.sender(state, number),
            Step::Guest => self.guest(state),
            Step::Drain | Step::Interrupt | Step::Preempt | Step::Load | Step::Look => self.machine(state, step),
            choice => self.choose(state, choice),
        }
    }
}

impl Model for System {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            pending: 0,
            news: 0,
            masked: 0,
            events_masked: false,
            events_pending: false,
            buffer: Vec::new(),
            presence: Presence::Running,
            is_loaded: true,
            has_work: false,
            is_asleep: false,
            scheduler_locked: false,
            interrupt: false,
            guest: Guest::Open,
            interrupted: None,
            senders: [Sender::Idle; SENDERS],
            sends_left: self.sends,
            changes_left: self.changes,
            preemptions_left: self.preemptions,
            blocks_left: self.blocks,
            is_wrong: false,
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Step>) {
        for number in 0..SENDERS {
            actions.push(Step::Sender(number));
            actions.extend((0..PORTS).map(|port| Step::Send(number, port)));
        }
        actions.extend((0..PORTS).flat_map(|port| [Step::MaskPort(1 << port), Step::UnmaskPort(1 << port)]));
        actions.extend([Step::Drain, Step::Guest, Step::Mask, Step::Unmask, Step::Poll, Step::Block]);
        actions.extend([Step::Interrupt, Step::Preempt, Step::Load, Step::Look]);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, step)?;
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<System>> {
        vec![
            Property::always(LOST, |_, state: &State| !state.has_lost()),
            Property::always(MASKED, |_, state: &State| !state.is_wrong),
            Property::always("what the guest thinks of its mask is so", |_, state: &State| {
                let wanted = match state.guest {
                    Guest::Open | Guest::UnmaskLooks => false,
                    Guest::PortLooks(_, is_open) | Guest::PortTells(is_open) => !is_open,
                    _ => true,
                };
                state.mask_of_guest() == wanted
            }),
            Property::sometimes("all is sent and taken", |system: &System, state: &State| {
                state.sends_left == 0 && state.is_quiet() && state.news == 0 && system.sends > 0
            }),
            Property::sometimes("an upcall comes", |_, state: &State| state.interrupted == Some(Guest::Open)),
            Property::sometimes("it is woken before it has left its CPU", |_, state: &State| {
                state.guest == Guest::Leaves && !state.is_asleep
            }),
        ]
    }
}

const LOST: &str = "no event waits for a guest that would take it";
const MASKED: &str = "no upcall comes while they are masked";

fn check(flaw: Flaw, [sends, changes, preemptions, blocks]: [u8; 4], until: HasDiscoveries) -> impl Checker<System> {
    let model = System { flaw, sends, changes, preemptions, blocks }.checker().threads(2);
    model.finish_when(until).spawn_bfs().join()
}

#[test]
fn no_interleaving_of_raise_mask_and_delivery_loses_an_event() {
    let checker = check(Flaw::None, [2, 2, 1, 1], HasDiscoveries::All);
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000);
}

/// As above, farther: `cargo test --release -p hv-core --test upcalls -- --ignored --nocapture`.
#[test]
#[ignore = "minutes"]
fn no_longer_interleaving_does_either() {
    let checker = check(Flaw::None, [3, 5, 2, 2], HasDiscoveries::All);
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn each_order_that_is_reversed_is_missed() {
    for (flaw, claim) in [
        (Flaw::RaiseLooksFirst, LOST),
        (Flaw::RaiseTellsFirst, LOST),
        (Flaw::AlertsFirst, LOST),
        (Flaw::BlockLooksFirst, LOST),
        (Flaw::LoadLooksFirst, LOST),
        (Flaw::ResumeLooksNot, LOST),
        (Flaw::IgnoresMask, MASKED),
        (Flaw::UnmaskLooksNot, LOST),
        (Flaw::ClearsLate, LOST),
        (Flaw::ClearsAll, LOST),
        (Flaw::PortByPlainStore, LOST),
        (Flaw::PortLooksNot, LOST),
    ] {
        let checker = check(flaw, [2, 2, 1, 1], HasDiscoveries::AnyOf([claim].into()));
        assert!(checker.discovery(claim).is_some(), "{flaw:?} is not found");
    }
}
