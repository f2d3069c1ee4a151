//! Random calls of three vCPUs, restarted in any order, with CPUs that walk and write meanwhile.

use super::specification::{Call, Use};
use super::world::{FRAMES, SLOTS, VCPUS, World, with_world};
use super::{FIRST, FREE, HYPERVISORS, L, LIST, OTHERS, SHARED};
use crate::frame::typed::Level;
use crate::paging::Progress;
use proptest::prelude::*;

/// What happens next on a vCPU.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// It goes on with its call, or makes this one. A CPU sets these bits meanwhile.
    Call(Call, u64),
    /// Something interrupts its call for good.
    Abandon,
    Populate(u64),
    TakeReadable(u64),
    DropReadable(usize),
    /// Its CPU reads an entry.
    Walk(usize, usize),
    /// The guest writes.
    Write(usize, usize, u64),
}

/// The level that a frame is meant for: two frames each, from the roots on.
fn level(frame: u64) -> Option<Level> {
    L.into_iter().rev().nth(usize::try_from(frame.checked_sub(FIRST)? / 2).ok()?)
}

fn frame() -> impl Strategy<Value = u64> {
    prop_oneof![
        20 => FIRST..FIRST + FRAMES,
        1 => FIRST + FRAMES..FIRST + FRAMES + 4,
        1 => prop::sample::select(vec![0, SHARED.0, OTHERS.0, HYPERVISORS.0, FREE.0, LIST[0], LIST[3], 1 << 39]),
    ]
}

/// Mostly tables of level 1.
fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![8 => FIRST + 6..FIRST + 8, 1 => frame()]
}

fn slot() -> impl Strategy<Value = usize> {
    prop::sample::select(SLOTS.to_vec())
}

/// A word for a table: mostly one that leads to a frame of the level below.
fn entry(table: u64) -> BoxedStrategy<u64> {
    let fitting = match table.checked_sub(FIRST) {
        Some(number) if number < 8 => FIRST + (number / 2 + 1) * 2,
        _ => FIRST + 8,
    };
    let target = prop_oneof![8 => fitting..fitting + 2, 1 => FIRST + 8..FIRST + FRAMES, 1 => frame()];
    let flags = prop_oneof![
        6 => Just(0x63_u64),
        3 => Just(0x61),
        2 => Just(0x67),
        2 => Just(0x7),
        1 => Just(1 << 63 | 0x65),
        1 => Just(1 << 52 | 0xe07),
        1 => Just(0x163),
        1 => prop::sample::select(vec![0x67_u64 | 8, 0x67 | 16, 0x67 | 0x80, 0x1e, 0]),
    ];
    prop_oneof![8 => (target, flags).prop_map(|(target, flags)| target << 12 | flags), 3 => Just(0)].boxed()
}

/// A frame and one of its entries with a new word.
fn change() -> impl Strategy<Value = (u64, usize, u64)> {
    frame().prop_flat_map(|frame| (Just(frame), slot(), entry(frame)))
}

fn descriptor() -> impl Strategy<Value = u64> {
    prop::sample::select(vec![0, 0x00af_9b00_0000_ffff, 0x00cf_f300_0000_ffff, 0x8b00_0000_0000, 0x8c00_0000_0000])
}

fn call() -> impl Strategy<Value = Call> {
    let fitting = frame().prop_map(|frame| (frame, level(frame).unwrap_or(Level::L4)));
    let typed = prop_oneof![6 => fitting, 1 => (frame(), prop::sample::select(L.to_vec()))];
    let used = prop::sample::select(vec![Use::Writable, Use::Descriptors]);
    let command = prop_oneof![8 => Just(0_u64), 4 => Just(2), 1 => 0_u64..8];
    let flip = prop_oneof![4 => Just(2_u64), 1 => Just(1), 1 => Just(0x40), 1 => Just(1 << 12), 1 => any::<u64>()];
    prop_oneof![
        6 => typed.prop_map(|(frame, level)| Call::Pin(frame, level)),
        4 => frame().prop_map(Call::Unpin),
        3 => (FIRST..FIRST + 3).prop_map(Call::TakeRoot),
        2 => (frame(), used.clone()).prop_map(|(frame, used)| Call::Take(frame, used)),
        2 => (frame(), used).prop_map(|(frame, used)| Call::Drop(frame, used)),
        12 => (change(), command).prop_map(|((frame, slot, word), command)| Call::Update(frame, slot, command, word)),
        6 => (pages(), slot(), entry(FIRST + 6)).prop_map(|(frame, slot, word)| Call::Set(frame, slot, word)),
        3 => (pages(), slot(), flip).prop_map(|(frame, slot, mask)| Call::Flip(frame, slot, mask)),
        1 => (frame(), slot(), descriptor()).prop_map(|(frame, slot, word)| Call::Descriptor(frame, slot, word)),
        2 => frame().prop_map(Call::Release),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let race = prop_oneof![3 => Just(0_u64), 1 => Just(0x20), 1 => Just(0x60)];
    prop_oneof![
        20 => (call(), race).prop_map(|(call, race)| Action::Call(call, race)),
        1 => Just(Action::Abandon),
        1 => any::<u64>().prop_map(Action::Populate),
        1 => frame().prop_map(Action::TakeReadable),
        1 => (0_usize..4).prop_map(Action::DropReadable),
        8 => (0_usize..8, slot()).prop_map(|(pick, slot)| Action::Walk(pick, slot)),
        3 => (0_usize..4, slot(), entry(FIRST + 6)).prop_map(|(pick, slot, word)| Action::Write(pick, slot, word)),
    ]
}

/// A world and what each vCPU has not finished.
pub(super) struct Play<'m> {
    pub(super) world: World<'m>,
    pub(super) calls: [Option<Call>; VCPUS],
}

impl<'m> Play<'m> {
    /// Nothing happened yet.
    pub(super) const fn empty(world: World<'m>) -> Play<'m> {
        Play { world, calls: [None; VCPUS] }
    }

    /// Two trees of tables in memory that is nothing yet.
    pub(super) fn new(mut world: World<'m>) -> Play<'m> {
        for (from, slot, to, flags) in [
            (0, 0, 2, 0x67),
            (2, 0, 4, 0x67),
            (4, 0, 6, 0x67),
            (6, 0, 8, 0x63),
            (6, 1, 6, 0x61),
            (1, 511, 3, 0x67),
            (1, 0, 2, 0x63),
            (3, 1, 5, 0x67),
            (5, 1, 7, 0x67),
            (7, 1, 9, 0x67),
        ] {
            let call = Call::Update(FIRST + from, slot, 0, (FIRST + to) << 12 | flags);
            world.finish(0, call).unwrap();
        }
        Play::empty(world)
    }

    /// Loads a root.
    pub(super) fn load(&mut self, vcpu: usize, root: u64) {
        self.world.finish(vcpu, Call::TakeRoot(root)).unwrap();
        self.world.roots[vcpu] = Some(root);
    }

    /// Does one thing and looks at everything.
    pub(super) fn act(&mut self, vcpu: usize, action: Action) {
        let world = &mut self.world;
        match action {
            Action::Call(call, race) => self.step(vcpu, call, race),
            // What has to be dropped is dropped.
            Action::Abandon if matches!(self.calls[vcpu], Some(Call::Drop(..))) => {}
            Action::Abandon => self.calls[vcpu] = None,
            // While a validation is cut, whether it fails would depend on where.
            Action::Populate(_) if world.spec.pending.is_some() => {}
            Action::Populate(number) => {
                let taken = world.paging.populate(world.machine, number).map(|frame| frame.0);
                assert_eq!(taken, world.spec.populate(number));
            }
            Action::TakeReadable(frame) => {
                let taken = world.paging.take_readable(world.machine, crate::addr::Mfn(frame));
                assert_eq!(taken.is_ok(), world.spec.is_own(frame));
                world.spec.readers.extend(taken.map(|()| frame));
            }
            Action::DropReadable(pick) if pick < world.spec.readers.len() => {
                let frame = world.spec.readers.remove(pick);
                world.paging.drop_readable(world.machine, crate::addr::Mfn(frame));
            }
            Action::DropReadable(_) => {}
            Action::Walk(pick, slot) => world.walk(vcpu, pick, slot),
            Action::Write(pick, slot, word) => world.write(vcpu, pick, slot, word),
        }
        self.world.check();
    }

    /// A vCPU goes on with its call, or makes a new one.
    fn step(&mut self, vcpu: usize, call: Call, race: u64) {
        let world = &mut self.world;
        let call = self.calls[vcpu].unwrap_or(call);
        // The hypervisor drops only what it took.
        let is_held = |frame, used| world.spec.holds.contains(&(frame, used));
        if matches!(call, Call::Drop(frame, used) if !is_held(frame, used)) {
            return;
        }
        let answer = world.call(vcpu, call, race);
        self.calls[vcpu] = (answer == Ok(Progress::Again)).then_some(call);
        if let (Call::TakeRoot(root), Ok(Progress::Done(()))) = (call, answer) {
            world.machine.tables.forget(vcpu);
            let old = world.roots[vcpu].replace(root);
            self.calls[vcpu] = old.map(|old| Call::Drop(old, Use::Table(Level::L4)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn calls_do_what_the_specification_says(
        work in prop::sample::select(vec![37_u32, 200, 600, 1100, 8192]),
        loaded in 0..VCPUS,
        actions in prop::collection::vec((0..VCPUS, action()), 1..150),
    ) {
        with_world(work, |world| {
            let mut play = Play::new(world);
            for (vcpu, root) in (FIRST..).enumerate().take(loaded) {
                play.load(vcpu, root);
            }
            for (vcpu, action) in actions {
                play.act(vcpu, action);
            }
        });
    }
}

/// More with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256)
}
