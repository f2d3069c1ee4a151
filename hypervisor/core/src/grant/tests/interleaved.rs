//! Model check: whoever reaches a granted frame does so by a grant that stands, whatever happens
//! meanwhile, and all accounts agree in the end.
//!
//! One VM grants a frame to two others, which map, unmap and copy it; it revokes, and each VM may end
//! and be built again. A step is what one CPU does between two moments at which others can see it: the
//! halves of calls (`hv`: `calls/grants.rs`, `teardown.rs`) with the locks that they hold. The table is
//! the real one; memories are a page for each place and what CPUs may remember of it. Each rule is
//! broken once, and must be missed.
#![expect(clippy::wildcard_enum_match_arm, reason = "test code: what a step does not deal with, it refuses")]

use std::sync::LazyLock;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::super::{Attempt, Change, GrantTable, Place, Slot};
use crate::addr::Mfn;
use crate::policy::tests::monitor;
use crate::policy::{Monitor, Operation, Permit};
use protocol::label::Label;
use protocol::{GrantRef, GuestVirt, SpaceId, VmId};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Nothing: as the hypervisor does it.
    None,
    /// A page is taken out whose frame is right, whatever grant it is for.
    TakesOutAnyGrant,
    /// A revoke gives the reference back before the page is out.
    UnpinsFirst,
    /// A revoke goes on before all CPUs have forgotten.
    FlushesNothing,
    /// A map lets go of its memory between its halves.
    MapUnlocks,
    /// An unmap tells the table before the page is out.
    UnmapEndsFirst,
    /// A copy lets go of the table before all is copied.
    CopyUnlocks,
    /// The end of a VM leaves what it mapped in the tables of others.
    KeepsMappings,
    /// The end of a VM leaves what it granted.
    KeepsGrants,
    /// A VM is taken apart while a call of it is under way.
    TearsDownEarly,
}

const VMS: usize = 3;
const OWNER: usize = 0;
/// Room in the owner's table.
const SLOTS: usize = 3;
const PLACES: usize = 2;
/// CPUs that run vCPUs, and one that takes VMs apart.
const CPUS: usize = 4;
const KEEPER: usize = CPUS - 1;
const FRAME: Mfn = Mfn(7);

/// A change that was begun, as the model keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Begun {
    grant: GrantRef,
    peer: usize,
    place: Option<usize>,
}

/// Where a CPU is. Whoever maps or unmaps has the memory of its VM locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    Guest,
    /// The frame is pinned, and the owner's memory locked.
    Creates(usize),
    /// It waits for the memory of the peer; has it, and the page is out; waits for the owner's; is
    /// about to free the slot.
    Revokes(Begun),
    RevokeFlushes(Begun),
    RevokeUnpins(Begun),
    RevokeEnds(Begun),
    MapInstalls(Begun),
    MapEnds(Begun, bool),
    MapTakesOut(Begun),
    MapFlushes(Begun),
    UnmapTakesOut(Begun),
    UnmapFlushes(Begun),
    UnmapEnds(Begun),
    /// Bytes move, and the table is locked.
    Copies(Begun),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Memory {
    lock: Option<usize>,
    is_there: bool,
    /// What the tables show at each place, and what CPUs may remember.
    pages: [Option<GrantRef>; PLACES],
    remembered: [Option<GrantRef>; PLACES],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    slots: [Slot; SLOTS],
    /// The CPU that has the table locked while others may act.
    table: Option<usize>,
    /// References of grants to the frame.
    pins: usize,
    memories: [Memory; VMS],
    cpus: [At; CPUS],
    is_ending: [bool; VMS],
    calls_left: u8,
    ends_left: u8,
    /// A VM was taken apart whose frame somebody holds.
    is_broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A CPU goes on with what it does.
    Go(usize),
    /// A guest touches a page, and its CPU remembers the way.
    Touch {
        vm: usize,
        place: usize,
    },
    Create {
        cpu: usize,
        peer: usize,
    },
    Revoke {
        cpu: usize,
        slot: usize,
    },
    Map {
        cpu: usize,
        slot: usize,
        place: usize,
    },
    Unmap {
        cpu: usize,
        slot: usize,
    },
    Copy {
        cpu: usize,
        slot: usize,
    },
    End {
        cpu: usize,
    },
    /// The keeper does the next step for a VM that ends.
    TearDown {
        vm: usize,
    },
}

/// Which CPU runs whose vCPU, and how much is done.
struct System {
    flaw: Flaw,
    vms: [usize; KEEPER],
    calls: u8,
    ends: u8,
}

static MONITOR: LazyLock<Monitor> = LazyLock::new(|| monitor(&[Label::default(); VMS]));

fn vm_id(vm: usize) -> VmId {
    VmId(u32::try_from(vm).unwrap())
}

fn permit(subject: usize, operation: Operation, object: usize) -> Permit {
    MONITOR.decide(vm_id(subject), operation, vm_id(object)).unwrap()
}

fn place(number: usize) -> Place {
    Place { space: SpaceId(0), address: GuestVirt(number as u64) }
}

impl Begun {
    fn of(change: &Change) -> Begun {
        let place = change.place.map(|place| place.address.0 as usize);
        Begun { grant: change.grant, peer: change.peer.0 as usize, place }
    }

    fn change(self) -> Change {
        Change { grant: self.grant, peer: vm_id(self.peer), machine: FRAME, place: self.place.map(place) }
    }
}

impl State {
    /// Does something with the real table, under its lock.
    fn with_table<R>(&mut self, act: impl FnOnce(&mut GrantTable) -> R) -> Option<R> {
        self.table.is_none().then_some(())?;
        let mut table = GrantTable { owner: vm_id(OWNER), slots: Box::new(self.slots) };
        let result = act(&mut table);
        self.slots.copy_from_slice(&table.slots);
        Some(result)
    }

    fn lock(&mut self, vm: usize, cpu: usize) -> Option<()> {
        let lock = &mut self.memories[vm].lock;
        lock.is_none().then(|| *lock = Some(cpu))
    }

    /// Lets go of a memory and goes on.
    fn unlock(&mut self, vm: usize, next: At) -> At {
        self.memories[vm].lock = None;
        next
    }

    /// Takes a page out as `remove_grant` does. Whether it was there.
    fn take_out(&mut self, flaw: Flaw, begun: Begun) -> bool {
        let Some(page) = begun.place.map(|place| &mut self.memories[begun.peer].pages[place]) else { return false };
        // The page tells the slot only.
        let is_it = |shown: GrantRef| shown.0 as u8 == begun.grant.0 as u8 || flaw == Flaw::TakesOutAnyGrant;
        page.take_if(|shown| is_it(*shown)).is_some()
    }

    fn flush(&mut self, begun: Begun) {
        if let Some(place) = begun.place {
            self.memories[begun.peer].remembered[place] = None;
        }
    }

    fn reference(&self, slot: usize) -> GrantRef {
        self.slots[slot].reference(slot as u32)
    }

    fn stands(&self, grant: GrantRef) -> bool {
        (0..SLOTS).any(|slot| self.slots[slot].grant.is_some() && self.reference(slot) == grant)
    }

    /// Grants by which others reach the frame now.
    fn in_use(&self) -> Vec<GrantRef> {
        let pages = self.memories.iter().flat_map(|memory| memory.pages.iter().chain(&memory.remembered));
        let copied =
            self.cpus.iter().filter_map(|at| if let At::Copies(begun) = at { Some(begun.grant) } else { None });
        let mut all: Vec<_> = pages.flatten().copied().chain(copied).collect();
        all.sort();
        all.dedup();
        all
    }

    fn is_quiet(&self) -> bool {
        self.cpus.iter().all(|at| *at == At::Guest) && !self.is_ending.contains(&true)
    }

    /// What the table says is what there is.
    fn agrees(&self) -> bool {
        let grants = || self.slots.iter().filter_map(|slot| slot.grant);
        let as_said = |slot: usize| {
            self.slots[slot].grant.is_none_or(|grant| {
                let shown = grant.place.map(|place| place.address.0 as usize);
                let page = shown.map(|place| self.memories[grant.peer.0 as usize].pages[place]);
                !grant.is_revoked
                    && shown.is_some() == grant.is_mapped
                    && page.is_none_or(|page| page == Some(self.reference(slot)))
            })
        };
        let pages = self.memories.iter().flat_map(|memory| &memory.pages).flatten().count();
        (0..SLOTS).all(as_said)
            && grants().count() == self.pins
            && grants().filter(|grant| grant.is_mapped).count() == pages
    }
}

impl System {
    /// A revoke after it has begun.
    fn revoking(&self, state: &mut State, begun: Begun) -> At {
        if self.flaw == Flaw::UnpinsFirst {
            state.pins -= 1;
        }
        if begun.place.is_some() { At::Revokes(begun) } else { At::RevokeUnpins(begun) }
    }

    fn revoke_step(&self, state: &mut State, cpu: usize) -> Option<()> {
        state.cpus[cpu] = match state.cpus[cpu] {
            At::Revokes(begun) if !state.memories[begun.peer].is_there => At::RevokeUnpins(begun),
            At::Revokes(begun) => {
                state.lock(begun.peer, cpu)?;
                let was_there = state.take_out(self.flaw, begun) && self.flaw != Flaw::FlushesNothing;
                if was_there { At::RevokeFlushes(begun) } else { state.unlock(begun.peer, At::RevokeUnpins(begun)) }
            }
            At::RevokeFlushes(begun) => {
                state.flush(begun);
                state.unlock(begun.peer, At::RevokeUnpins(begun))
            }
            At::RevokeUnpins(begun) => {
                state.memories[OWNER].lock.is_none().then_some(())?;
                if self.flaw != Flaw::UnpinsFirst {
                    state.pins -= 1;
                }
                At::RevokeEnds(begun)
            }
            At::RevokeEnds(begun) => {
                state.with_table(|table| table.finish_revoke(begun.change()))?;
                At::Guest
            }
            _ => return None,
        };
        Some(())
    }

    fn map_step(&self, state: &mut State, cpu: usize) -> Option<()> {
        state.cpus[cpu] = match state.cpus[cpu] {
            At::MapInstalls(begun) => {
                if self.flaw == Flaw::MapUnlocks {
                    state.lock(begun.peer, cpu)?;
                }
                let page = &mut state.memories[begun.peer].pages[begun.place?];
                let is_free = page.is_none();
                page.get_or_insert(begun.grant);
                At::MapEnds(begun, is_free)
            }
            At::MapEnds(begun, is_in) => {
                let attempt = if is_in { Attempt::Mapped } else { Attempt::Refused };
                let finished = state.with_table(|table| table.finish_map(begun.change(), attempt))?;
                if is_in && finished.is_err() { At::MapTakesOut(begun) } else { state.unlock(begun.peer, At::Guest) }
            }
            At::MapTakesOut(begun) => {
                state.take_out(self.flaw, begun);
                At::MapFlushes(begun)
            }
            At::MapFlushes(begun) => {
                state.flush(begun);
                state.unlock(begun.peer, At::Guest)
            }
            At::UnmapTakesOut(begun) => {
                state.take_out(self.flaw, begun);
                At::UnmapFlushes(begun)
            }
            At::UnmapFlushes(begun) => {
                state.flush(begun);
                At::UnmapEnds(begun)
            }
            At::UnmapEnds(begun) => {
                state.with_table(|table| table.finish_unmap(begun.change()))?;
                state.unlock(begun.peer, At::Guest)
            }
            _ => return None,
        };
        Some(())
    }

    fn go(&self, state: &mut State, cpu: usize) -> Option<()> {
        match state.cpus[cpu] {
            At::Creates(peer) => {
                let permit = permit(OWNER, Operation::GrantCreateWrite, peer);
                if state.with_table(|table| table.create(permit, FRAME))?.is_err() {
                    state.pins -= 1;
                }
                state.cpus[cpu] = state.unlock(OWNER, At::Guest);
            }
            At::Copies(_) => {
                state.table.take_if(|holder| *holder == cpu);
                state.cpus[cpu] = At::Guest;
            }
            _ => return self.revoke_step(state, cpu).or_else(|| self.map_step(state, cpu)),
        }
        Some(())
    }

    /// The VM whose vCPU makes a call on a CPU: it costs one of those that are left.
    fn call(&self, state: &mut State, cpu: usize) -> Option<usize> {
        let vm = *self.vms.get(cpu)?;
        (state.cpus[cpu] == At::Guest && !state.is_ending[vm]).then_some(())?;
        state.calls_left = state.calls_left.checked_sub(1)?;
        Some(vm)
    }

    /// As [`System::call`], of a VM to which the owner grants.
    fn peer_call(&self, state: &mut State, cpu: usize) -> Option<usize> {
        self.call(state, cpu).filter(|vm| *vm != OWNER)
    }

    fn call_step(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Create { cpu, peer } => {
                (self.call(state, cpu)? == OWNER && peer != OWNER).then_some(())?;
                state.lock(OWNER, cpu)?;
                state.pins += 1;
                state.cpus[cpu] = At::Creates(peer);
            }
            Step::Revoke { cpu, slot } => {
                (self.call(state, cpu)? == OWNER).then_some(())?;
                let grant = state.reference(slot);
                let begun = Begun::of(&state.with_table(|table| table.begin_revoke(grant))?.ok()?);
                state.cpus[cpu] = self.revoking(state, begun);
            }
            Step::Map { cpu, slot, place: to } => {
                let vm = self.peer_call(state, cpu)?;
                state.lock(vm, cpu)?;
                let (grant, permit) = (state.reference(slot), permit(vm, Operation::GrantMapWrite, OWNER));
                let change = state.with_table(|table| table.begin_map(permit, grant, place(to)))?.ok()?;
                state.cpus[cpu] = At::MapInstalls(Begun::of(&change));
                if self.flaw == Flaw::MapUnlocks {
                    state.memories[vm].lock = None;
                }
            }
            Step::Unmap { cpu, slot } => {
                let vm = self.peer_call(state, cpu)?;
                state.lock(vm, cpu)?;
                let grant = state.reference(slot);
                let change = state.with_table(|table| table.begin_unmap(vm_id(vm), grant))?.ok()?;
                state.cpus[cpu] = At::UnmapTakesOut(Begun::of(&change));
                if self.flaw == Flaw::UnmapEndsFirst {
                    state.with_table(|table| table.finish_unmap(change))?;
                }
            }
            Step::Copy { cpu, slot } => {
                let vm = self.peer_call(state, cpu)?;
                let (grant, permit) = (state.reference(slot), permit(vm, Operation::GrantCopyTo, OWNER));
                state.with_table(|table| table.copy(permit, grant, 0, 1))?.ok()?;
                state.table = (self.flaw != Flaw::CopyUnlocks).then_some(cpu);
                state.cpus[cpu] = At::Copies(Begun { grant, peer: vm, place: None });
            }
            _ => return None,
        }
        Some(())
    }

    /// The next step for a VM that ends, as `teardown::step_of`.
    fn tear_down(&self, state: &mut State, vm: usize) -> Option<()> {
        let calls = self.vms.iter().zip(state.cpus).any(|(of, at)| *of == vm && at != At::Guest);
        let is_due = state.is_ending[vm] && state.cpus[KEEPER] == At::Guest;
        (is_due && (!calls || self.flaw == Flaw::TearsDownEarly)).then_some(())?;
        // Every CPU has left its roots.
        state.memories[vm].remembered = [None; PLACES];
        let given = state.with_table(|table| table.any_given())?;
        if let Some(grant) = given.filter(|_| vm == OWNER && self.flaw != Flaw::KeepsGrants) {
            let begun = Begun::of(&state.with_table(|table| table.begin_revoke(grant))?.ok()?);
            state.cpus[KEEPER] = self.revoking(state, begun);
            return Some(());
        }
        if !state.memories[vm].is_there {
            // Built again.
            state.memories[vm].is_there = true;
            state.is_ending[vm] = false;
            return Some(());
        }
        state.lock(vm, KEEPER)?;
        let mapped = state.with_table(|table| table.any_mapped_by(vm_id(vm)))?;
        if let Some(change) = mapped.filter(|_| self.flaw != Flaw::KeepsMappings) {
            state.cpus[KEEPER] = At::UnmapTakesOut(Begun::of(&change));
            return Some(());
        }
        state.is_broken |= vm == OWNER && state.pins > 0;
        let nothing = [None; PLACES];
        state.memories[vm] = Memory { lock: None, is_there: false, pages: nothing, remembered: nothing };
        Some(())
    }

    fn apply(&self, state: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Go(cpu) => self.go(state, cpu),
            Step::Touch { vm, place } => {
                let Memory { pages, remembered, .. } = &mut state.memories[vm];
                (!state.is_ending[vm] && remembered[place].is_none()).then_some(())?;
                remembered[place] = pages[place];
                Some(())
            }
            Step::End { cpu } => {
                let vm = self.call(state, cpu)?;
                state.ends_left = state.ends_left.checked_sub(1)?;
                state.calls_left += 1;
                state.is_ending[vm] = true;
                Some(())
            }
            Step::TearDown { vm } => self.tear_down(state, vm),
            call => self.call_step(state, call),
        }
    }

    /// Some CPUs are in the middle of something, and none of them can get on.
    fn is_stuck(&self, state: &State) -> bool {
        let goes_on = |cpu| self.go(&mut state.clone(), cpu).is_some();
        state.cpus.iter().any(|at| *at != At::Guest) && !(0..CPUS).any(goes_on)
    }
}

impl Model for System {
    type State = State;
    type Action = Step;

    /// Two grants of the frame to the first peer, one of them mapped, and one to the second.
    fn init_states(&self) -> Vec<State> {
        let nothing = [None; PLACES];
        let memory = Memory { lock: None, is_there: true, pages: nothing, remembered: nothing };
        let mut state = State {
            slots: [Slot::default(); SLOTS],
            table: None,
            pins: SLOTS,
            memories: std::array::from_fn(|_| memory.clone()),
            cpus: [At::Guest; CPUS],
            is_ending: [false; VMS],
            calls_left: self.calls,
            ends_left: self.ends,
            is_broken: false,
        };
        state.with_table(|table| {
            let given =
                [1, 1, 2].map(|peer| table.create(permit(OWNER, Operation::GrantCreateWrite, peer), FRAME).unwrap());
            let mapping = table.begin_map(permit(1, Operation::GrantMapWrite, OWNER), given[0], place(0)).unwrap();
            table.finish_map(mapping, Attempt::Mapped).unwrap();
        });
        state.memories[1].pages[0] = Some(state.reference(0));
        vec![state]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Step>) {
        for cpu in 0..CPUS {
            actions.push(Step::Go(cpu));
            actions.push(Step::End { cpu });
            actions.extend((0..VMS).map(|peer| Step::Create { cpu, peer }));
            for slot in 0..SLOTS {
                actions.extend([Step::Revoke { cpu, slot }, Step::Unmap { cpu, slot }, Step::Copy { cpu, slot }]);
                actions.extend((0..PLACES).map(|place| Step::Map { cpu, slot, place }));
            }
        }
        for vm in 0..VMS {
            actions.push(Step::TearDown { vm });
            actions.extend((0..PLACES).map(|place| Step::Touch { vm, place }));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, step)?;
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<System>> {
        vec![
            Property::always(REACH, |_, state: &State| {
                let used = state.in_use();
                used.len() <= state.pins && used.iter().all(|grant| state.stands(*grant))
            }),
            Property::always(AGREE, |_, state: &State| !state.is_quiet() || state.agrees()),
            Property::always(APART, |_, state: &State| !state.is_broken),
            Property::always("no CPUs wait for each other for ever", |system: &System, state| !system.is_stuck(state)),
            Property::sometimes("a grant is revoked while it is being mapped", |_, state: &State| {
                state.cpus.iter().any(|at| matches!(at, At::MapTakesOut(_)))
            }),
            Property::sometimes("a mapper is gone when its page is to be taken out", |_, state: &State| {
                state.cpus.iter().any(|at| matches!(at, At::Revokes(begun) if !state.memories[begun.peer].is_there))
            }),
            Property::sometimes("the owner is taken apart", |_, state: &State| !state.memories[OWNER].is_there),
        ]
    }
}

const REACH: &str = "whoever reaches the frame does so by a grant that stands and pins it";
const AGREE: &str = "when nothing is under way, table, pages and references agree";
const APART: &str = "nothing holds the frame of a VM that is taken apart";

fn check(flaw: Flaw, vms: [usize; KEEPER], [calls, ends]: [u8; 2], until: HasDiscoveries) -> impl Checker<System> {
    let model = System { flaw, vms, calls, ends }.checker().threads(2);
    model.finish_when(until).spawn_bfs().join()
}

#[test]
#[cfg_attr(miri, ignore = "many states: too long for an interpreter")]
fn no_interleaving_of_calls_and_ends_leaves_a_frame_in_reach() {
    for vms in [[OWNER, 1, 2], [OWNER, OWNER, 1], [OWNER, 1, 1]] {
        let checker = check(Flaw::None, vms, [3, 1], HasDiscoveries::All);
        println!("CPUs of VMs {vms:?}: {} states", checker.unique_state_count());
        checker.assert_properties();
        assert!(checker.unique_state_count() > 10_000);
    }
}

/// As above, farther: `cargo test --release -p hv-core --lib interleaved -- --ignored --nocapture`.
#[test]
#[ignore = "minutes"]
fn no_longer_interleaving_does_either() {
    for vms in [[OWNER, 1, 2], [OWNER, OWNER, 1], [OWNER, 1, 1]] {
        let checker = check(Flaw::None, vms, [4, 2], HasDiscoveries::All);
        println!("CPUs of VMs {vms:?}: {} states", checker.unique_state_count());
        checker.assert_properties();
    }
}

#[test]
#[cfg_attr(miri, ignore = "many states: too long for an interpreter")]
fn each_rule_that_is_broken_is_missed() {
    let (mappers, owners) = ([OWNER, 1, 2], [OWNER, OWNER, 1]);
    for (flaw, vms, limits, claim) in [
        (Flaw::TakesOutAnyGrant, mappers, [3, 0], AGREE),
        (Flaw::UnpinsFirst, mappers, [3, 0], REACH),
        (Flaw::FlushesNothing, mappers, [1, 0], REACH),
        (Flaw::MapUnlocks, mappers, [2, 0], REACH),
        (Flaw::UnmapEndsFirst, mappers, [2, 0], REACH),
        (Flaw::CopyUnlocks, mappers, [2, 0], REACH),
        (Flaw::KeepsMappings, mappers, [1, 1], AGREE),
        (Flaw::KeepsGrants, mappers, [1, 1], APART),
        (Flaw::TearsDownEarly, owners, [2, 1], APART),
    ] {
        let checker = check(flaw, vms, limits, HasDiscoveries::AnyOf([claim].into()));
        assert!(checker.discovery(claim).is_some(), "{flaw:?} is not found");
    }
}
