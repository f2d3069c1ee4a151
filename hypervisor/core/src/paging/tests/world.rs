//! The engine on a small machine beside the specification: each call is made to both, and everything is
//! compared afterwards.

use super::machine::{Cached, Walked};
use super::specification::{Answer, Call, Owner, Pending, Spec, Use, word};
use super::{FIRST, LIST, OWN, SHARED, set_up};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::fakes::{free_table, records};
use crate::frame::FrameTable;
use crate::frame::typed::{Level, Type};
use crate::paging::{GuestTables, Paging, Place, Progress};
use crate::space::{Machine, TableMemory};
use protocol::xen::Errno;
use protocol::xen::entry::GUEST_KERNEL;
use protocol::{GuestVirt, VcpuId};
use std::collections::BTreeMap;

/// Frames that the VM has at first, those in its pool, and where they end.
pub(super) const FRAMES: u64 = 12;
const POOL: u64 = 2;
pub(super) const END: u64 = FIRST + FRAMES + POOL;
pub(super) const VCPUS: usize = 3;

/// Entries that tests use: at both ends and beside the hypervisor's.
pub(super) const SLOTS: [usize; 6] = [0, 1, 255, 256, 272, 511];

/// Both of them.
pub(super) struct World<'m> {
    pub(super) machine: Machine<'m, Walked>,
    pub(super) paging: Paging,
    pub(super) spec: Spec,
    /// What each vCPU runs in.
    pub(super) roots: [Option<u64>; VCPUS],
}

/// Runs a test in a new one.
pub(super) fn with_world<R>(work: u32, test: impl FnOnce(World<'_>) -> R) -> R {
    let records = records(index(END));
    let frames = free_table(&records);
    let tables = Walked::new(END, VCPUS);
    let machine = Machine { frames: &frames, tables: &tables };
    let mut paging = Paging::new(super::VM, [Some(super::HYPERVISORS); 16], Some(Mfn(LIST[0])));
    set_up(machine, &mut paging, END, POOL);
    paging.work = work;
    let owner = |frame| match frame {
        _ if Mfn(frame) == SHARED => Owner::Own,
        _ if frame < FIRST => Owner::Nobodys,
        _ if frame < FIRST + FRAMES => Owner::Own,
        _ => Owner::Pool,
    };
    let mut slots = [super::HYPERVISORS.0 << 12 | 0x23; 16];
    // For ring 3 to read, not to write nor to execute.
    slots[0] = LIST[0] << 12 | 0x25 | 1 << 63;
    let spec = Spec {
        owners: (0..END).map(owner).collect(),
        words: BTreeMap::new(),
        pins: BTreeMap::new(),
        holds: vec![(SHARED.0, Use::Writable)],
        readers: Vec::new(),
        held: [None; VCPUS],
        pending: None,
        pool: (FIRST + FRAMES..END).collect(),
        released: 0,
        list: (FIRST..END).map(|frame| (frame, frame - FIRST)).collect(),
        slots,
        unknown: false,
    };
    test(World { machine, paging, spec, roots: [None; VCPUS] })
}

/// Makes a call to the engine, draining first where it has to be.
pub(super) fn engine(machine: Machine<'_, impl GuestTables>, paging: &mut Paging, vcpu: usize, call: Call) -> Answer {
    let vcpu = VcpuId(u32::try_from(vcpu).unwrap());
    if matches!(call, Call::Take(..) | Call::Drop(..) | Call::Descriptor(..))
        && paging.drain(machine) == Progress::Again
    {
        return Ok(Progress::Again);
    }
    let done = |()| Progress::Done(());
    match call {
        Call::Pin(frame, level) => paging.pin(machine, vcpu, Mfn(frame), level),
        Call::Unpin(frame) => paging.unpin(machine, Mfn(frame)),
        Call::TakeRoot(frame) => paging.take_root(machine, vcpu, Mfn(frame)),
        Call::Take(frame, Use::Writable) => paging.take_writable(machine, Mfn(frame)).map(done),
        Call::Take(frame, _) => paging.take_descriptors(machine, Mfn(frame)).map(done),
        Call::Drop(frame, Use::Table(_)) => Ok(paging.drop_root(machine, Mfn(frame))),
        Call::Drop(frame, Use::Writable) => {
            paging.drop_writable(machine, Mfn(frame));
            Ok(Progress::Done(()))
        }
        Call::Drop(frame, Use::Descriptors) => {
            paging.drop_descriptors(machine, Mfn(frame));
            Ok(Progress::Done(()))
        }
        Call::Update(frame, index, command, value) => {
            let request = frame << 12 | u64::try_from(index).unwrap() << 3 | command;
            paging.update(machine, vcpu, request, value)
        }
        Call::Set(table, index, value) => paging.set(machine, Place { table: Mfn(table), index }, value),
        Call::Flip(table, index, mask) => {
            let place = Place { table: Mfn(table), index };
            Ok(match paging.change(machine, place, |old| Some(old ^ mask))? {
                Progress::Done(_) => Progress::Done(()),
                Progress::Again => Progress::Again,
            })
        }
        Call::Descriptor(frame, index, value) => {
            let address = frame << 12 | u64::try_from(index).unwrap() << 3;
            paging.update_descriptor(machine, address, value).map(done)
        }
        Call::Release(frame) => paging.release(machine, Mfn(frame)),
    }
}

/// The unfinished work of the engine.
pub(super) fn pending(paging: &Paging) -> Option<Pending> {
    let job = paging.job.as_ref()?;
    let (frame, level) = job.subject().unwrap();
    Some(Pending { frame: frame.0, level, vcpu: job.waiting.map(|held| index(u64::from(held.vcpu.0))) })
}

impl World<'_> {
    /// Makes a call, with a CPU that sets bits in an entry meanwhile.
    pub(super) fn call(&mut self, vcpu: usize, call: Call, race: u64) -> Answer {
        self.machine.tables.race(race);
        let answer = engine(self.machine, &mut self.paging, vcpu, call);
        for (table, index, bits) in self.machine.tables.raced() {
            self.touched(table, index, bits);
        }
        let expected = self.spec.call(vcpu, call, pending(&self.paging));
        assert_eq!(answer, expected, "{call:x?} of {vcpu}");
        answer
    }

    /// A CPU set bits in an entry.
    fn touched(&mut self, table: Mfn, index: usize, bits: u64) {
        let word = self.spec.word(table.0, index);
        self.spec.put(table.0, index, word | bits);
    }

    /// Makes a call until it is done.
    pub(super) fn finish(&mut self, vcpu: usize, call: Call) -> Result<(), Errno> {
        loop {
            if let Progress::Done(()) = self.call(vcpu, call, 0)? {
                return Ok(());
            }
        }
    }

    /// A CPU walks on from something that it knows, the `pick`-th, down to a page if it can.
    pub(super) fn walk(&mut self, cpu: usize, pick: usize, slot: usize) {
        let root = self.roots[cpu].map(|root| (Mfn(root), Level::L4));
        let cached = self.machine.tables.cached(cpu).into_iter().filter_map(|cached| match cached {
            Cached::Table(table, level) => Some((table, level)),
            Cached::Page(..) => None,
        });
        let known: Vec<_> = root.into_iter().chain(cached).collect();
        let mut next = known.get(pick % known.len().max(1)).copied();
        while let Some((table, level)) = next {
            let tables = self.machine.tables;
            let read = [slot, 0, 1].into_iter().find_map(|slot| tables.walk(cpu, table, level, slot));
            next = read.and_then(|(table, index, bits)| {
                self.touched(table, index, bits);
                let below = Mfn(tables.load(table, index) >> 12 & 0xff_ffff_ffff);
                level.below().map(|level| (below, level))
            });
        }
    }

    /// The guest writes to a page that its CPU remembers.
    pub(super) fn write(&mut self, cpu: usize, pick: usize, slot: usize, value: u64) {
        let cached = self.machine.tables.cached(cpu).into_iter();
        let pages: Vec<_> = cached.filter(|cached| matches!(cached, Cached::Page(_, true))).collect();
        if let Some(Cached::Page(frame, _)) = pages.get(pick % pages.len().max(1)) {
            self.machine.tables.poke(*frame, slot, value);
            self.spec.put(frame.0, slot, value);
        }
    }

    /// Everything that must hold at any time.
    pub(super) fn check(&mut self) {
        check_security(self.machine.frames, self.machine.tables);
        #[cfg(feature = "recount")]
        self.recount();
        if self.paging.job.is_some() {
            return;
        }
        assert_eq!(self.spec.pending, None);
        assert_eq!(self.paging.released(), self.spec.released);
        self.compare_words();
        let counts = self.spec.count();
        for frame in 0..END {
            let used = self.machine.frames.typed(Mfn(frame), OWN);
            assert_eq!(used.is_some(), self.spec.is_own(frame), "{frame}");
            let Some(used) = used else { continue };
            let counted = counts.get(&frame).copied().unwrap_or_default();
            let current = match counted.used {
                None => Type::None,
                Some(Use::Table(level)) => Type::Table(level),
                Some(Use::Descriptors) => Type::Descriptors,
                Some(Use::Writable) => Type::Writable,
            };
            let is = (used.current(), used.count(), used.references(), used.is_validated(), used.is_pinned());
            let is_table = matches!(current, Type::Table(_));
            let is_pinned = self.spec.pins.contains_key(&frame);
            assert_eq!(is, (current, counted.count, counted.references, is_table, is_pinned), "{frame}");
        }
        for (vcpu, held) in self.spec.held.iter().enumerate() {
            let found = self.paging.held[vcpu].map(|held| (held.frame.0, held.level, held.result));
            assert_eq!(found, *held, "vCPU {vcpu}");
        }
        for (frame, listed) in &self.spec.list {
            assert_eq!(self.machine.tables.load(Mfn(LIST[3]), index(*frame)), *listed, "{frame}");
        }
        for cpu in 0..VCPUS {
            self.compare_walks(cpu);
        }
    }

    /// The recount that builds for tests make agrees, also while work is unfinished.
    #[cfg(feature = "recount")]
    fn recount(&self) {
        let mut words = vec![0; index(END)];
        let mut all = crate::space::Recount::begin(&mut words);
        let types = self.spec.holds.iter().map(|(frame, used)| match used {
            Use::Table(level) => (Mfn(*frame), Type::Table(*level)),
            Use::Descriptors => (Mfn(*frame), Type::Descriptors),
            Use::Writable => (Mfn(*frame), Type::Writable),
        });
        let holds = types.chain(self.spec.readers.iter().map(|frame| (Mfn(*frame), Type::None)));
        self.paging.recount(self.machine, &mut all, super::VM, holds).unwrap();
        for (frame, class) in [
            (super::OTHERS, super::FOREIGN),
            (super::HYPERVISORS, crate::frame::Class::new(None, crate::frame::Kind::Table)),
        ] {
            all.set(frame, class, 0).unwrap();
        }
        all.finish(self.machine.frames).unwrap();
    }

    /// Memory is what the specification says.
    fn compare_words(&mut self) {
        let may_differ = std::mem::take(&mut self.spec.unknown);
        let found = self.machine.tables.nonzero().filter(|((frame, _), _)| self.spec.is_own(*frame));
        if found.eq(self.spec.words.iter().map(|(place, word)| (*place, *word))) {
            return;
        }
        let own: Vec<_> = (FIRST..END).filter(|frame| self.spec.is_own(*frame)).collect();
        for frame in own {
            for (index, found) in self.machine.tables.frame(Mfn(frame)) {
                let expected = self.spec.word(frame, index);
                if found != expected {
                    // If it failed for a higher level and another for level 1 came in the same call, the engine
                    // found a page of the user's there.
                    let is_users = found == expected & !GUEST_KERNEL;
                    let adjusted = is_users || Level::ALL.iter().any(|level| word(*level, expected, END) == Ok(found));
                    assert!(may_differ && adjusted, "frame {frame}, {index}: {expected:x}, {found:x}");
                    self.spec.put(frame, index, found);
                }
            }
        }
    }

    /// What the engine finds through a vCPU's root is what the words say.
    fn compare_walks(&self, cpu: usize) {
        let Some(root) = self.roots[cpu] else { return };
        for (top, rest) in [(0, 0), (0, 1), (511, 0), (1, 511)] {
            let mut table = Some(root);
            for slot in [top, rest, rest] {
                table = table.map(|table| self.spec.word(table, slot)).filter(|word| word & 1 == 1);
                table = table.map(|word| word >> 12 & 0xff_ffff_ffff);
            }
            let shifts = [(top, 39), (rest, 30), (rest, 21), (1, 12)];
            let address: u64 = shifts.iter().map(|(slot, shift)| u64::try_from(*slot).unwrap() << shift).sum();
            let address = if top > 255 { address | 0xffff << 48 } else { address };
            let found = self.paging.find(self.machine, Mfn(root), GuestVirt(address));
            assert_eq!(found, table.map(|table| Place { table: Mfn(table), index: 1 }), "{address:x}");
        }
    }
}

/// What protects everybody else, whatever was called, also while work is unfinished: checked tables name
/// frames of the VM only, none that is a table or holds descriptors for writing, and no CPU remembers
/// such a thing.
pub(super) fn check_security(frames: &FrameTable<'_>, tables: &Walked) {
    let is_protected = |frame| {
        let used = frames.typed(frame, OWN).unwrap_or_else(|| panic!("{frame:?} is not the VM's"));
        matches!(used.current(), Type::Table(_) | Type::Descriptors)
    };
    for frame in (0..frames.frames()).map(Mfn) {
        let Some(used) = frames.typed(frame, OWN) else { continue };
        let (Type::Table(level), true) = (used.current(), used.is_validated()) else { continue };
        for (slot, word) in tables.frame(frame) {
            let is_guests = level != Level::L4 || !(256..272).contains(&slot);
            if word & 1 == 0 || !is_guests {
                continue;
            }
            let target = Mfn(word >> 12 & 0xff_ffff_ffff);
            assert_eq!(word & 1 << 2, 1 << 2, "not for ring 3: {frame:?}, {slot}");
            assert_eq!(word & 0x198, 0, "bits that no entry has: {frame:?}, {slot}");
            match level.below() {
                Some(below) => assert!(frames.typed(target, OWN).unwrap().is_table(below), "{frame:?}, {slot}"),
                None => assert!(!is_protected(target) || word & 2 == 0, "{frame:?}, {slot}"),
            }
        }
    }
    for cached in (0..VCPUS).flat_map(|cpu| tables.cached(cpu)) {
        match cached {
            Cached::Page(frame, is_writable) => {
                assert!(!is_protected(frame) || !is_writable, "a CPU can write {frame:?}");
            }
            Cached::Table(frame, level) => {
                let last = frames.typed(frame, OWN).map(|used| used.last());
                assert_eq!(last, Some(Type::Table(level)), "a CPU walks {frame:?}");
            }
        }
    }
}
