//! All sequences of calls of a small world, up to a depth: a fixed tree down to level 2, three frames that
//! can be anything, two vCPUs whose calls are cut, and CPUs that walk and write meanwhile.

use super::FIRST;
use super::machine::Saved;
use super::random::{Action, Play};
use super::specification::{Call, Use};
use super::world::{VCPUS, with_world};
use crate::frame::typed::Level;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The table of level 2 of the fixed tree.
const UPPER: u64 = FIRST + 2;
/// What can be anything.
const ANY: [u64; 3] = [FIRST + 3, FIRST + 4, FIRST + 5];
/// So a validation of one table is one call, of a table and one below two.
const WORK: u32 = 600;

/// Everything, to go back to.
#[derive(Clone)]
struct State {
    records: Vec<u64>,
    memory: Saved,
    paging: super::Paging,
    spec: super::specification::Spec,
    roots: [Option<u64>; VCPUS],
    calls: [Option<Call>; VCPUS],
}

impl State {
    fn save(play: &Play<'_>) -> State {
        State {
            records: play.world.machine.frames.words(),
            memory: play.world.machine.tables.save(),
            paging: play.world.paging.clone(),
            spec: play.world.spec.clone(),
            roots: play.world.roots,
            calls: play.calls,
        }
    }

    fn restore(&self, play: &mut Play<'_>) {
        play.world.machine.frames.restore(&self.records);
        play.world.machine.tables.restore(&self.memory);
        play.world.paging = self.paging.clone();
        play.world.spec = self.spec.clone();
        play.world.roots = self.roots;
        play.calls = self.calls;
    }

    /// Tells states apart. The specification is not in it: it agrees.
    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.records, &self.memory, self.roots, self.paging.references.stale).hash(&mut hasher);
        format!("{:?} {:?} {:?}", self.paging.job, self.paging.held, self.calls).hash(&mut hasher);
        hasher.finish()
    }
}

/// All that can happen.
fn actions() -> Vec<(usize, Action)> {
    let mut calls = Vec::new();
    let mut by_both = Vec::new();
    let words = |frames: &[u64]| {
        let words = frames.iter().flat_map(|frame| [frame << 12 | 0x63 | 4, frame << 12 | 0x61 | 4]);
        words.chain([0]).collect::<Vec<_>>()
    };
    by_both.extend(words(&ANY).into_iter().map(|word| Call::Update(UPPER, 0, 0, word)));
    for frame in ANY {
        calls.extend(words(&[ANY[0], ANY[1], UPPER]).into_iter().map(|word| Call::Update(frame, 0, 0, word)));
        by_both.extend([Call::Pin(frame, Level::L1), Call::Pin(frame, Level::L2)]);
        by_both.push(Call::Unpin(frame));
        calls.extend([Use::Writable, Use::Descriptors].map(|used| Call::Take(frame, used)));
        calls.extend([Use::Writable, Use::Descriptors].map(|used| Call::Drop(frame, used)));
        calls.push(Call::Release(frame));
    }
    let act = |vcpu, call| (vcpu, Action::Call(call, 0));
    let mut actions: Vec<_> = calls.iter().chain(&by_both).map(|call| act(0, *call)).collect();
    actions.extend(by_both.iter().map(|call| act(1, *call)));
    actions.push((0, Action::Populate(7)));
    actions.extend([0, 1].map(|vcpu| (vcpu, Action::Abandon)));
    for cpu in [0, 1] {
        actions.extend((0..6).map(|pick| (cpu, Action::Walk(pick, 0))));
        actions.extend((0..2).map(|pick| (cpu, Action::Write(pick, 0, UPPER << 12 | 0x63))));
    }
    actions
}

/// Tries all actions in all states up to a depth. Returns states and actions tried.
fn explore(depth: usize) -> (usize, u64) {
    with_world(WORK, |world| {
        let mut play = Play::empty(world);
        for (from, to) in [(FIRST, FIRST + 1), (FIRST + 1, UPPER)] {
            play.world.finish(0, Call::Update(from, 0, 0, to << 12 | 0x67)).unwrap();
        }
        for vcpu in [0, 1] {
            play.load(vcpu, FIRST);
        }
        play.world.check();
        // With how many steps to go each state was tried.
        let mut tried: HashMap<u64, usize> = HashMap::new();
        let mut count = 0;
        let mut stack = vec![(State::save(&play), depth)];
        let actions = actions();
        while let Some((state, left)) = stack.pop() {
            for (vcpu, action) in &actions {
                state.restore(&mut play);
                play.act(*vcpu, *action);
                count += 1;
                let next = State::save(&play);
                let best = tried.entry(next.key()).or_insert(0);
                let is_new = *best < left;
                *best = left.max(*best);
                if is_new && left > 1 {
                    stack.push((next, left - 1));
                }
            }
        }
        (tried.len(), count)
    })
}

#[test]
fn all_short_sequences_agree() {
    let (states, count) = explore(2);
    assert!(states > 500 && count > 3_000, "{states} {count}");
}

#[test]
#[ignore = "minutes: cargo test --release -p hv-core all_sequences -- --ignored --nocapture"]
fn all_sequences_agree() {
    let depth = std::env::var("DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(5);
    let (states, count) = explore(depth);
    println!("depth {depth}: {states} states, {count} actions compared");
    assert!(depth < 5 || count > 7_000_000, "{states} {count}");
}
