//! A VM's memory: any sequence of calls, against the naive model of hv-core's tests and a recount.

use std::cell::RefCell;

use hv_core::addr::Mfn;
use hv_core::fakes::space::{CHANNEL_FRAMES, FRAMES, Fixture, Half, MACHINE_FRAMES, Model, Page, TestMachine, VM};
use hv_core::frame::{Class, Kind};
use hv_core::space::{Covered, Flush, FlushOwed, Memory, Recount, WORK_PAGES};
use protocol::call::{Map, Pair, Protect, Unmap};
use protocol::flags::{MapFlags, MemoryOperation};
use protocol::layout::{self, KERNEL_END, KERNEL_START, LOWER_END, PAGE_SIZE};
use protocol::shared::MemoryBatchEntry;
use protocol::{Gfn, GuestVirt, SpaceId, Status, VmId};

use super::Choices;

const POOL: u64 = 24;
const LARGE_SIZE: u64 = 512 * PAGE_SIZE;
/// Where ranges begin: mostly where they meet again, at borders of tables, and where no guest has any.
const BASES: [u64; 14] = [
    0,
    0,
    0,
    LARGE_SIZE,
    LARGE_SIZE,
    LARGE_SIZE - 2 * PAGE_SIZE,
    (1 << 30) - 2 * PAGE_SIZE,
    LOWER_END - 2 * PAGE_SIZE,
    KERNEL_START,
    KERNEL_START,
    layout::PHYSMAP.0,
    KERNEL_END - 2 * PAGE_SIZE,
    layout::HYPERVISOR_START,
    LOWER_END + 1,
];
/// The first frame of the channel that exists.
const CHANNEL: u64 = layout::CHANNEL_FRAMES.0 + layout::CHANNEL_FRAME_STRIDE;

thread_local! {
    static FIXTURE: RefCell<Fixture> = RefCell::new(Fixture::new(POOL));
}

/// A sequence of calls.
pub fn spaces(bytes: &[u8]) {
    FIXTURE.with_borrow_mut(|fixture| {
        fixture.run(|machine, memory| {
            let foreign = Class::new(Some(VmId(9)), Kind::Channel);
            let foreign = machine.frames.claim_run(Class::FREE, foreign, 0, (1, 1)).expect("frames are free");
            let mut world = World { machine, memory, model: Model::with_pool(POOL), foreign, pins: Vec::new() };
            world.create();
            let mut choices = Choices(bytes);
            while !choices.is_empty() {
                world.step(&mut choices);
                assert_eq!(world.memory.pool_frames(), world.model.pool);
            }
            world.check();
        });
    });
}

struct World<'m> {
    machine: TestMachine<'m>,
    memory: Memory,
    model: Model,
    /// A frame of another VM, which grants show.
    foreign: Mfn,
    pins: Vec<Mfn>,
}

fn space(choices: &mut Choices<'_>) -> SpaceId {
    SpaceId(match choices.below(16) {
        14 => 64,
        15 => u32::MAX,
        number => u32::from(number % 4),
    })
}

fn address(choices: &mut Choices<'_>) -> GuestVirt {
    let base = BASES[usize::from(choices.below(14))];
    let page = match choices.below(64) {
        62 => 512 * PAGE_SIZE,
        63 => 0x800,
        number => u64::from(number / 2 % 6) * PAGE_SIZE,
    };
    GuestVirt(base.wrapping_add(page))
}

fn frame(choices: &mut Choices<'_>) -> Gfn {
    let number = u64::from(choices.byte());
    Gfn(match number {
        0..96 => number % 8,
        96..128 => 512,
        128..200 => 1022 + number % (FRAMES - 1020),
        200..208 => layout::TIME_PAGE_FRAME.0,
        208..248 => CHANNEL + number % (CHANNEL_FRAMES + 1),
        248..252 => layout::CHANNEL_FRAMES.0,
        _ => u64::MAX,
    })
}

fn count(choices: &mut Choices<'_>) -> u64 {
    match choices.byte() {
        0..3 => 512,
        3 => 511,
        4 => 513,
        5 => u64::MAX,
        number => u64::from(number % 6),
    }
}

fn flags(choices: &mut Choices<'_>) -> MapFlags {
    MapFlags::from_bits_retain(u64::from(choices.below(8)))
}

/// The call `map`; one of large pages mostly asks for one.
fn map(choices: &mut Choices<'_>) -> Map {
    let (space, address, frame) = (space(choices), address(choices), frame(choices));
    let (count, flags) = (count(choices), flags(choices));
    let is_large = flags.contains(MapFlags::LARGE);
    Map { space, address, frame, count: if is_large && count % 4 > 0 { 1 } else { count }, flags }
}

impl World<'_> {
    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(32) {
            0..9 => self.map(map(choices)),
            9..13 => self.unmap(Unmap { space: space(choices), address: address(choices), count: count(choices) }),
            13..16 => {
                let (space, address, count) = (space(choices), address(choices), count(choices));
                self.protect(Protect { space, address, count, flags: flags(choices) });
            }
            16..18 => self.batch(choices),
            18 => self.translate(space(choices), address(choices)),
            19 | 20 => self.release(frame(choices), u64::from(choices.below(70))),
            21 | 22 => self.reclaim(frame(choices), u64::from(choices.below(70))),
            23 => self.create(),
            24 => self.destroy(space(choices)),
            25 => self.enter(space(choices)),
            26 => self.leave(space(choices)),
            27 => self.pin(frame(choices)),
            28 => self.unpin(choices.byte()),
            29 | 30 => self.install(choices),
            _ => self.remove(choices.byte()),
        }
    }

    fn frame_of(&self, frame: Gfn) -> Option<Mfn> {
        self.memory.list().get(self.machine, frame).ok().flatten()
    }

    /// Whether 512 frames lie together, as a large page needs it.
    fn together(&self, call: &Map) -> bool {
        let wanted = call.flags.contains(MapFlags::LARGE);
        let Some(start) = self.frame_of(call.frame).filter(|start| wanted && start.0.is_multiple_of(512)) else {
            return false;
        };
        (0..512).all(|offset| self.frame_of(Gfn(call.frame.0 + offset)) == Some(start.offset(offset)))
    }

    /// Pages that the model has in a range.
    fn seen(&self, space: SpaceId, address: GuestVirt, count: u64) -> Vec<((Half, u64), Page)> {
        let half = (address.0 < KERNEL_START).then_some(space);
        let end = address.0.saturating_add(count.min(512).saturating_mul(PAGE_SIZE));
        let pages = self.model.pages.range((half, address.0)..(half, end));
        pages.map(|(key, page)| (*key, *page)).collect()
    }

    /// Settles, and checks that every translation is forgotten that is no longer right. Returns what is.
    fn settle(&mut self, owed: FlushOwed, before: &[((Half, u64), Page)]) -> Option<Flush> {
        let mut paid: Option<Flush> = None;
        self.memory.settle(self.machine, owed, |flush| paid = Some(flush));
        for (key, old) in before {
            let new = self.model.pages.get(key).filter(|new| new.number == old.number);
            let still = new.is_some_and(|new| new.flags.contains(old.flags));
            assert!(still || paid.as_ref().is_some_and(|paid| paid.contains(&key.1)), "{key:x?} not flushed");
        }
        paid
    }

    fn covered(
        &mut self,
        covered: Result<Covered, Status>,
        expected: Result<u64, Status>,
        before: &[((Half, u64), Page)],
    ) -> Option<Flush> {
        let mut paid = None;
        let pages = covered.map(|covered| {
            paid = self.settle(covered.flush, before);
            covered.pages
        });
        assert_eq!(pages, expected);
        paid
    }

    fn map(&mut self, call: Map) {
        let pool = self.model.pool;
        let expected = self.model.map(call, self.together(&call));
        let covered = self.memory.map(self.machine, call);
        let paid = self.covered(covered, expected, &[]);
        // A table gave way to a large page: CPUs may know the way to it from any address.
        assert!(self.model.pool <= pool || paid == Some(0..u64::MAX));
    }

    fn unmap(&mut self, call: Unmap) {
        let before = self.seen(call.space, call.address, call.count);
        let expected = self.model.unmap(call);
        let covered = self.memory.unmap(self.machine, call);
        self.covered(covered, expected, &before);
    }

    fn protect(&mut self, call: Protect) {
        let before = self.seen(call.space, call.address, call.count);
        let expected = self.model.protect(call);
        let covered = self.memory.protect(self.machine, call);
        self.covered(covered, expected, &before);
    }

    /// One entry of a batch, by the model: how many of its pages, or why none.
    fn expect(&mut self, entry: &MemoryBatchEntry) -> Result<u64, Status> {
        let flags = MapFlags::from_bits(entry.flags).ok_or(Status::InvalidArgument)?;
        let (space, address, count) = (SpaceId(entry.space), GuestVirt(entry.address), entry.count);
        match MemoryOperation::from_number(entry.operation.into()) {
            Some(MemoryOperation::Map) => {
                let call = Map { space, address, frame: Gfn(entry.frame), count, flags };
                self.model.map(call, self.together(&call))
            }
            Some(MemoryOperation::Unmap) if entry.frame == 0 && flags.is_empty() => {
                self.model.unmap(Unmap { space, address, count })
            }
            Some(MemoryOperation::Protect) if entry.frame == 0 => {
                self.model.protect(Protect { space, address, count, flags })
            }
            _ => Err(Status::InvalidArgument),
        }
    }

    fn batch(&mut self, choices: &mut Choices<'_>) {
        let length = choices.below(6);
        let entries: Vec<MemoryBatchEntry> = (0..length).map(|_| batch_entry(choices)).collect();
        let (mut expected, mut work, mut before) = (Ok(0), 0, Vec::new());
        for (number, entry) in (1..).zip(&entries) {
            // Pages are what a batch is limited by; an entry that has none counts as eight.
            if work >= WORK_PAGES {
                break;
            }
            before.extend(self.seen(SpaceId(entry.space), GuestVirt(entry.address), entry.count));
            let done = self.expect(entry);
            if done != Ok(entry.count) {
                if number == 1 {
                    // What was refused at once has a reason; what came to an end before has its own.
                    expected = Err(done.err());
                }
                break;
            }
            work += if entry.flags & MapFlags::LARGE.bits() != 0 { 512 } else { entry.count } + 8;
            expected = Ok(number);
        }
        let (owed, answer) = self.memory.batch(self.machine, &entries);
        self.settle(owed, &before);
        match (answer, expected) {
            (Err(status), Err(reason)) => assert!(reason.is_none_or(|reason| reason == status)),
            (answer, expected) => assert_eq!(answer.ok(), expected.ok()),
        }
    }

    fn translate(&self, space: SpaceId, address: GuestVirt) {
        let expected = self.model.translate(space, address).map(|page| Pair(page.number, page.flags.bits()));
        assert_eq!(self.memory.translate(self.machine, space, address), expected);
    }

    fn release(&mut self, frame: Gfn, count: u64) {
        assert_eq!(self.memory.release(self.machine, frame, count), self.model.release(frame, count));
    }

    fn reclaim(&mut self, frame: Gfn, count: u64) {
        let answer = self.memory.reclaim(self.machine, frame, count);
        assert_eq!(answer, self.model.reclaim(frame, count));
        for done in 0..answer.unwrap_or(0) {
            let filled = self.frame_of(Gfn(frame.0 + done)).expect("it was filled");
            assert!(self.machine.tables.is_clear(filled), "a frame with something in it");
        }
    }

    fn create(&mut self) {
        assert_eq!(self.memory.space_create(self.machine), self.model.create());
    }

    fn destroy(&mut self, space: SpaceId) {
        let mut answer = self.memory.space_destroy(self.machine, space);
        while answer == Err(Status::Retry) {
            assert_eq!(self.memory.enter(space), Err(Status::NotFound));
            answer = self.memory.space_destroy(self.machine, space);
        }
        assert_eq!(answer, self.model.destroy(space));
    }

    /// A vCPU switches to a space, or a CPU loads a root of it.
    fn enter(&mut self, space: SpaceId) {
        let users = self.model.spaces.get_mut(&space);
        assert_eq!(self.memory.enter(space).is_ok(), users.is_some());
        users.into_iter().for_each(|users| *users += 1);
    }

    fn leave(&mut self, space: SpaceId) {
        if let Some(users) = self.model.spaces.get_mut(&space).filter(|users| **users > 0) {
            *users -= 1;
            self.memory.leave(space);
        }
    }

    /// The VM grants a frame of its own.
    fn pin(&mut self, frame: Gfn) {
        let pinned = self.memory.pin(self.machine, frame);
        let wanted = self.frame_of(frame);
        assert_eq!(pinned.map(|frame| self.pins.push(frame)), self.model.pin(frame));
        assert!(pinned.is_err() || pinned.ok() == wanted);
    }

    fn unpin(&mut self, which: u8) {
        if !self.pins.is_empty() {
            let which = usize::from(which) % self.pins.len();
            self.model.pinned.remove(which);
            self.memory.unpin(self.machine, self.pins.remove(which));
        }
    }

    /// It maps a frame that another VM granted.
    fn install(&mut self, choices: &mut Choices<'_>) {
        let (space, address, tag) = (space(choices), address(choices), choices.byte());
        let flags = if tag & 1 == 0 { MapFlags::empty() } else { MapFlags::WRITE };
        let expected = self.model.install(space, address, Page { number: (1 << 62) | u64::from(tag), flags });
        assert_eq!(self.memory.install_grant(self.machine, space, address, (self.foreign, tag), flags), expected);
    }

    fn remove(&mut self, which: u8) {
        let grants = self.model.grants();
        if grants.is_empty() {
            return;
        }
        let (space, address) = grants[usize::from(which) % grants.len()];
        let before = self.seen(space, address, 1);
        // The low bits of its number.
        let tag = before[0].1.number.to_le_bytes()[0];
        for wrong in [(self.foreign.offset(1), tag), (self.foreign, tag ^ 1)] {
            let answer = self.memory.remove_grant(self.machine, space, address, wrong);
            assert_eq!(answer, Err(Status::NotMapped));
        }
        self.model.remove(space, address);
        let owed = self.memory.remove_grant(self.machine, space, address, (self.foreign, tag));
        self.settle(owed.expect("it is there"), &before);
    }

    /// Compares every page and every record, and looks at what must not be anywhere.
    fn check(&self) {
        let frames = self.machine.frames;
        let mut words = vec![0; MACHINE_FRAMES];
        let mut recount = Recount::begin(&mut words);
        let counted = self.memory.recount(self.machine, &mut recount);
        counted
            .and_then(|()| {
                let own = Class::new(Some(VM), Kind::Data);
                self.pins.iter().try_for_each(|frame| recount.refer(*frame, own))
            })
            .expect("what there is agrees");
        let pages = recount.pages;
        recount.finish(frames).expect("the records agree");
        assert_eq!(pages, self.model.pages.len() as u64);
        for (half, address) in self.model.pages.keys() {
            // The kernel half is that of every space.
            let spaces = self.model.spaces.keys().filter(|space| half.is_none_or(|half| half == **space));
            spaces.for_each(|space| self.translate(*space, GuestVirt(*address)));
        }
        let pool = Class::new(Some(VM), Kind::Pool);
        let pooled = (0..frames.frames()).map(Mfn).filter(|frame| frames.number(*frame, pool).is_some());
        assert!(pooled.into_iter().all(|frame| self.machine.tables.is_clear(frame)), "a pool frame is not clear");
    }
}

/// An entry of a batch: one that could be good, or with a field that means nothing.
fn batch_entry(choices: &mut Choices<'_>) -> MemoryBatchEntry {
    let call = map(choices);
    let kind = choices.byte();
    let operation = u32::from(kind % 5);
    let is_map = operation == 1 || kind & 0x80 != 0 && kind & 0x40 != 0;
    MemoryBatchEntry {
        operation,
        space: call.space.0,
        address: call.address.0,
        frame: if is_map { call.frame.0 } else { 0 },
        count: call.count,
        flags: if operation == 2 && kind & 0x60 != 0 { 0 } else { call.flags.bits() },
    }
}
