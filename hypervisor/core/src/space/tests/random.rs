//! Random sequences of calls against the model, with everything recounted after each.

use proptest::prelude::*;

use super::audit::{Seen, View, audit};
use super::{FRAMES, TestMachine, foreign_frame, frame_of, with_memory};
use crate::addr::Mfn;
use crate::fakes::space::{Model, Page};
use crate::space::{Covered, Flush, Memory};
use protocol::call::{Map, Pair, Protect, Unmap};
use protocol::flags::MapFlags;
use protocol::layout::{self, KERNEL_END, KERNEL_START, LOWER_END, PAGE_SIZE};
use protocol::{Gfn, GuestVirt, SpaceId, Status};

const POOL: u64 = 24;
const LARGE_SIZE: u64 = 512 * PAGE_SIZE;

#[derive(Debug, Clone)]
enum Step {
    Map(Map),
    Unmap(Unmap),
    Protect(Protect),
    Translate(SpaceId, GuestVirt),
    Release(Gfn, u64),
    Reclaim(Gfn, u64),
    Create,
    Destroy(SpaceId),
    Enter(SpaceId),
    Leave(SpaceId),
    Pin(Gfn),
    Unpin(usize),
    Install(SpaceId, GuestVirt, bool, u8),
    Remove(usize),
}

fn space() -> impl Strategy<Value = SpaceId> {
    prop_oneof![8 => 0..4_u32, 1 => Just(64), 1 => Just(u32::MAX)].prop_map(SpaceId)
}

/// Mostly addresses that meet again and table borders, and some that no guest has.
fn address() -> impl Strategy<Value = GuestVirt> {
    let base = prop_oneof![
        4 => Just(0),
        4 => Just(LARGE_SIZE),
        2 => Just(LARGE_SIZE - 2 * PAGE_SIZE),
        1 => Just((1 << 30) - 2 * PAGE_SIZE),
        1 => Just(LOWER_END - 2 * PAGE_SIZE),
        4 => Just(KERNEL_START),
        2 => Just(layout::PHYSMAP.0),
        1 => Just(KERNEL_END - 2 * PAGE_SIZE),
        1 => Just(layout::HYPERVISOR_START),
        1 => Just(LOWER_END + 1),
    ];
    let page = prop_oneof![3 => Just(0), 3 => 0..6_u64, 1 => Just(512)];
    let odd = prop_oneof![20 => Just(0), 1 => Just(1), 1 => Just(0x800)];
    (base, page, odd)
        .prop_map(|(base, page, odd)| GuestVirt(u64::wrapping_add(base, page * PAGE_SIZE).wrapping_add(odd)))
}

fn frame() -> impl Strategy<Value = Gfn> {
    let special = layout::CHANNEL_FRAMES.0 + layout::CHANNEL_FRAME_STRIDE;
    prop_oneof![
        4 => 0..8_u64,
        2 => Just(512),
        4 => 1022..FRAMES + 2,
        1 => Just(layout::TIME_PAGE_FRAME.0),
        1 => special..special + 5,
        1 => Just(layout::CHANNEL_FRAMES.0),
        1 => Just(u64::MAX),
    ]
    .prop_map(Gfn)
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..6_u64, 2 => Just(512), 1 => Just(511), 1 => Just(513), 1 => Just(u64::MAX)]
}

fn flags() -> impl Strategy<Value = MapFlags> {
    prop_oneof![3 => 0..4_u64, 2 => 4..8_u64].prop_map(MapFlags::from_bits_retain)
}

fn map() -> impl Strategy<Value = Step> {
    (space(), address(), frame(), count(), flags()).prop_map(|(space, address, frame, count, flags)| {
        // A large page with several pages is refused at once; mostly something better is asked.
        let is_large = flags.contains(MapFlags::LARGE);
        let count = if is_large && count % 4 > 0 { 1 } else { count };
        Step::Map(Map { space, address, frame, count, flags })
    })
}

fn step() -> impl Strategy<Value = Step> {
    let ranges = || (space(), address(), count());
    prop_oneof![
        8 => map(),
        4 => ranges().prop_map(|(space, address, count)| Step::Unmap(Unmap { space, address, count })),
        3 => (ranges(), flags()).prop_map(|((space, address, count), flags)| {
            Step::Protect(Protect { space, address, count, flags })
        }),
        2 => (space(), address()).prop_map(|(space, address)| Step::Translate(space, address)),
        2 => (frame(), 0..70_u64).prop_map(|(frame, count)| Step::Release(frame, count)),
        2 => (frame(), 0..70_u64).prop_map(|(frame, count)| Step::Reclaim(frame, count)),
        2 => Just(Step::Create),
        2 => space().prop_map(Step::Destroy),
        1 => space().prop_map(Step::Enter),
        1 => space().prop_map(Step::Leave),
        1 => frame().prop_map(Step::Pin),
        1 => any::<usize>().prop_map(Step::Unpin),
        1 => (space(), address(), any::<bool>(), any::<u8>())
            .prop_map(|(space, address, writable, tag)| Step::Install(space, address, writable, tag)),
        1 => any::<usize>().prop_map(Step::Remove),
    ]
}

struct World<'m> {
    machine: TestMachine<'m>,
    memory: Memory,
    model: Model,
    foreign: Mfn,
    pins: Vec<Mfn>,
    before: View,
}

impl World<'_> {
    fn together(&self, first: Gfn) -> bool {
        let Some(start) = frame_of(self.machine, &self.memory, first) else {
            return false;
        };
        let follows = |offset| {
            let frame = Gfn(first.0.saturating_add(offset));
            frame_of(self.machine, &self.memory, frame) == Some(start.offset(offset))
        };
        start.0 % 512 == 0 && (0..512).all(follows)
    }

    /// Compares a range call with the model and settles what it owes.
    fn covered(&mut self, covered: Result<Covered, Status>, expected: Result<u64, Status>) {
        let mut paid = None;
        let pages = covered.map(|covered| {
            self.memory.settle(self.machine, covered.flush, |flush| paid = Some(flush));
            covered.pages
        });
        assert_eq!(pages, expected);
        self.check(paid);
    }

    /// Recounts all, compares with the model, and checks that what a CPU may still hold is flushed.
    fn check(&mut self, paid: Option<Flush>) {
        let view = audit(self.machine, &self.memory, &self.model.pinned);
        assert_eq!(self.memory.pool_frames(), self.model.pool);
        self.compare(&view);
        for ((space, address), old) in &self.before {
            let still = view
                .get(&(*space, *address))
                .is_some_and(|new| new.frame == old.frame && new.flags.contains(old.flags));
            let gone = space.is_some_and(|space| !self.model.spaces.contains_key(&space));
            assert!(
                still || gone || paid.as_ref().is_some_and(|paid| paid.contains(address)),
                "{address:#x} not flushed"
            );
        }
        self.before = view;
    }

    fn compare(&self, view: &View) {
        let mut pages = self.model.pages.clone();
        for ((space, address), seen) in view {
            let size = if seen.flags.contains(MapFlags::LARGE) { 512 } else { 1 };
            for part in 0..size {
                let key = (*space, address + part * PAGE_SIZE);
                let page = pages.remove(&key).expect("the model has no such page");
                assert_eq!(page.flags, seen.flags);
                self.compare_frame(page.number, seen, part);
            }
        }
        assert!(pages.is_empty(), "only the model has {pages:?}");
    }

    fn compare_frame(&self, number: u64, seen: &Seen, part: u64) {
        let frame = Mfn(seen.frame + part);
        if number < FRAMES {
            assert_eq!(frame_of(self.machine, &self.memory, Gfn(number)), Some(frame));
        } else if number >> 62 == 1 {
            assert_eq!(frame, self.foreign);
        } else if number == layout::TIME_PAGE_FRAME.0 {
            assert_eq!(frame, self.memory.time_page);
        } else {
            let within = number - layout::CHANNEL_FRAMES.0 - layout::CHANNEL_FRAME_STRIDE;
            let region = self.memory.channels[1].unwrap();
            assert_eq!(frame, region.first.offset(within));
        }
    }

    fn run(&mut self, step: Step) {
        let machine = self.machine;
        match step {
            Step::Map(call) => {
                let together = self.together(call.frame);
                let expected = self.model.map(call, together);
                let covered = self.memory.map(machine, call);
                return self.covered(covered, expected);
            }
            Step::Unmap(call) => {
                let expected = self.model.unmap(call);
                let covered = self.memory.unmap(machine, call);
                return self.covered(covered, expected);
            }
            Step::Protect(call) => {
                let expected = self.model.protect(call);
                let covered = self.memory.protect(machine, call);
                return self.covered(covered, expected);
            }
            Step::Translate(space, address) => {
                let expected = self.model.translate(space, address);
                let found = self.memory.translate(machine, space, address);
                let expected = expected.map(|page| Pair(page.number, page.flags.bits()));
                assert_eq!(found, expected);
            }
            Step::Release(frame, count) => {
                let expected = self.model.release(frame, count);
                assert_eq!(self.memory.release(machine, frame, count), expected);
            }
            Step::Reclaim(frame, count) => {
                let expected = self.model.reclaim(frame, count);
                assert_eq!(self.memory.reclaim(machine, frame, count), expected);
                for done in 0..expected.unwrap_or(0) {
                    let filled = frame_of(machine, &self.memory, Gfn(frame.0 + done)).unwrap();
                    assert!(machine.tables.is_clear(filled));
                }
            }
            other => self.run_space(other),
        }
        self.check(None);
    }

    fn run_space(&mut self, step: Step) {
        let machine = self.machine;
        match step {
            Step::Create => {
                let expected = self.model.create();
                assert_eq!(self.memory.space_create(machine), expected);
            }
            Step::Destroy(space) => {
                let expected = self.model.destroy(space);
                let mut result = self.memory.space_destroy(machine, space);
                while result == Err(Status::Retry) {
                    assert_eq!(self.memory.enter(space), Err(Status::NotFound));
                    result = self.memory.space_destroy(machine, space);
                }
                assert_eq!(result, expected);
            }
            Step::Enter(space) => {
                let users = self.model.spaces.get_mut(&space);
                assert_eq!(self.memory.enter(space).is_ok(), users.is_some());
                users.into_iter().for_each(|users| *users += 1);
            }
            Step::Leave(space) => {
                if let Some(users) = self.model.spaces.get_mut(&space).filter(|users| **users > 0) {
                    *users -= 1;
                    self.memory.leave(space);
                }
            }
            Step::Pin(frame) => {
                let expected = self.model.pin(frame);
                let pinned = self.memory.pin(machine, frame);
                assert_eq!(pinned.map(|frame| self.pins.push(frame)), expected);
            }
            Step::Unpin(which) if !self.pins.is_empty() => {
                let which = which % self.pins.len();
                self.model.pinned.remove(which);
                let frame = self.pins.remove(which);
                self.memory.unpin(machine, frame);
            }
            Step::Install(space, address, writable, tag) => {
                let mut flags = MapFlags::empty();
                flags.set(MapFlags::WRITE, writable);
                let number = (1 << 62) | u64::from(tag);
                let expected = self.model.install(space, address, Page { number, flags });
                let result = self.memory.install_grant(machine, space, address, (self.foreign, tag), flags);
                assert_eq!(result, expected);
            }
            Step::Remove(which) => self.remove(which),
            _ => {}
        }
    }

    fn remove(&mut self, which: usize) {
        let grants = self.model.grants();
        if grants.is_empty() {
            return;
        }
        let (space, address) = grants[which % grants.len()];
        let key = ((address.0 < KERNEL_START).then_some(space), address.0);
        // The low bits of its number.
        let tag = self.model.pages[&key].number.to_le_bytes()[0];
        let wrong = (self.foreign, tag ^ 1);
        let refused = self.memory.remove_grant(self.machine, space, address, wrong);
        assert_eq!(refused, Err(Status::NotMapped));
        self.model.remove(space, address);
        let owed = self.memory.remove_grant(self.machine, space, address, (self.foreign, tag));
        let covered = Covered { pages: 1, stopped: None, flush: owed.unwrap() };
        self.covered(Ok(covered), Ok(1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_calls_answer_as_the_model_and_every_recount_agrees(steps in prop::collection::vec(step(), 1..50)) {
        with_memory(POOL, |machine, memory| {
            let foreign = foreign_frame(machine);
            let model = Model::with_pool(POOL);
            let mut world = World { machine, memory, model, foreign, pins: Vec::new(), before: View::new() };
            world.run(Step::Create);
            world.run(Step::Create);
            for step in steps {
                world.run(step);
            }
        });
    }
}
