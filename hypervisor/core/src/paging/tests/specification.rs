//! What the engine must do, said naively: everything is worked out anew from memory and from the list of
//! who refers to what, and a table is validated in one step, by recursion.
//!
//! It follows the rules of the ABI, not the engine. Only where the engine answers `Again` does it look at
//! how far that came, since no rule says how much one call does.

use crate::frame::typed::Level;
use crate::paging::Progress;
use protocol::xen::Errno;
use std::collections::BTreeMap;

/// References that a frame can have, in unit tests.
const FULL: u64 = 255;
/// What each bit of a present entry is: kept, dropped, refused, part of the frame number. Level 1, then
/// the levels above. Bit 63 first.
pub(super) const BITS: [&str; 2] = [
    "kkkkkkkkkkkkffffffffffffffffffffffffffffffffffffffffkkkdrkkrrkkk",
    "kkkkkkkkkkkkffffffffffffffffffffffffffffffffffffffffkkkrrkkrrkkk",
];

/// Whose a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Own,
    Pool,
    Nobodys,
}

/// What a frame is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Table(Level),
    Descriptors,
    Writable,
}

/// What refers to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counted {
    pub(super) used: Option<Use>,
    pub(super) count: u64,
    pub(super) references: u64,
}

/// Unfinished work: letting a table go, or its validation for a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) frame: u64,
    pub(super) level: Level,
    pub(super) vcpu: Option<usize>,
}

/// The frame and level that a vCPU wanted a table of, and what came of it.
pub(super) type Held = (u64, Level, Result<(), Errno>);
type Counts = BTreeMap<u64, Counted>;
type Words = BTreeMap<(u64, usize), u64>;

/// All that matters.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) owners: Vec<Owner>,
    /// Words that are not zero.
    pub(super) words: Words,
    pub(super) pins: BTreeMap<u64, Level>,
    /// References by type: of loaded roots, descriptor tables and the hypervisor's own writing.
    pub(super) holds: Vec<(u64, Use)>,
    pub(super) readers: Vec<u64>,
    /// For each vCPU what its last validation came to.
    pub(super) held: [Option<Held>; 3],
    pub(super) pending: Option<Pending>,
    /// The last one is taken first.
    pub(super) pool: Vec<u64>,
    /// How many more frames the guest gave back than it took.
    pub(super) released: u64,
    /// The list "machine frame to guest frame".
    pub(super) list: BTreeMap<u64, u64>,
    /// What stands in the hypervisor's entries of every root.
    pub(super) slots: [u64; 16],
    /// Words may be adjusted or not, since a validation failed that the specification did not see.
    pub(super) unknown: bool,
}

/// How an entry that a guest writes stands in a table.
pub(super) fn word(level: Level, word: u64, frames: u64) -> Result<u64, Errno> {
    let bit = |number: u32| word >> number & 1 == 1;
    let kinds = BITS[usize::from(level != Level::L1)].bytes().rev();
    let number = (12..52).rev().fold(0, |number, place| number << 1 | u64::from(bit(place)));
    if !bit(0) {
        return if number == 0 || number >= frames { Ok(word) } else { Err(Errno::Invalid) };
    }
    let mut stored = 0_u64;
    for (number, kind) in (0..).zip(kinds) {
        match kind {
            b'r' if bit(number) => return Err(Errno::Invalid),
            b'k' | b'f' => stored |= u64::from(bit(number)) << number,
            _ => {}
        }
    }
    if number >= frames {
        let is_page = level == Level::L1 && number != (1 << 40) - 1;
        return Err(if is_page { Errno::NotPermitted } else { Errno::Invalid });
    }
    match level {
        Level::L1 if !bit(2) => stored |= 1 << 2 | 1 << 52,
        Level::L4 => stored |= 1 << 2 | 1 << 5,
        Level::L1 | Level::L2 | Level::L3 => stored |= 1 << 2,
    }
    Ok(stored)
}

/// How a descriptor that a guest writes stands in a table.
pub(super) fn descriptor(word: u64) -> Option<u64> {
    let access = word >> 40 & 0xff;
    match (access >> 7, access >> 4 & 1, access & 15) {
        (0, _, _) => Some(word),
        (1, 1, _) => Some(word | 0x61 << 40),
        (1, 0, 0) => Some(word),
        _ => None,
    }
}

const fn frame_of(word: u64) -> u64 {
    word >> 12 & 0xff_ffff_ffff
}

impl Spec {
    pub(super) fn frames(&self) -> u64 {
        u64::try_from(self.owners.len()).unwrap()
    }

    pub(super) fn is_own(&self, frame: u64) -> bool {
        usize::try_from(frame).is_ok_and(|frame| self.owners.get(frame) == Some(&Owner::Own))
    }

    pub(super) fn word(&self, frame: u64, index: usize) -> u64 {
        self.words.get(&(frame, index)).copied().unwrap_or(0)
    }

    pub(super) fn put(&mut self, frame: u64, index: usize, value: u64) {
        if value == 0 {
            self.words.remove(&(frame, index));
        } else {
            self.words.insert((frame, index), value);
        }
    }

    /// The guest's entries of a table that are present.
    fn entries(&self, frame: u64, level: Level) -> Vec<u64> {
        let words = self.words.range((frame, 0)..(frame, 512));
        let guests = words.filter(|((_, index), _)| level != Level::L4 || !(256..272).contains(index));
        guests.map(|(_, word)| *word).filter(|word| word & 1 == 1).collect()
    }

    /// Every reference, counted from memory and from who refers to what.
    pub(super) fn count(&self) -> Counts {
        let mut counts = Counts::new();
        let pins = self.pins.iter().map(|(frame, level)| (*frame, Use::Table(*level)));
        let held = self.held.iter().flatten().filter(|held| held.2.is_ok());
        let mut todo: Vec<_> = pins.chain(held.map(|held| (held.0, Use::Table(held.1)))).collect();
        todo.extend(&self.holds);
        while let Some((frame, used)) = todo.pop() {
            assert!(self.is_own(frame), "{frame} is referred to and not the VM's");
            let counted = counts.entry(frame).or_default();
            counted.count += 1;
            counted.references += 1;
            if counted.used.is_some() {
                assert_eq!(counted.used, Some(used), "{frame} is used as two things");
                continue;
            }
            counted.used = Some(used);
            let Use::Table(level) = used else { continue };
            for word in self.entries(frame, level) {
                match level.below() {
                    Some(below) => todo.push((frame_of(word), Use::Table(below))),
                    None if word & 2 != 0 => todo.push((frame_of(word), Use::Writable)),
                    None => counts.entry(frame_of(word)).or_default().references += 1,
                }
            }
        }
        for frame in &self.readers {
            counts.entry(*frame).or_default().references += 1;
        }
        counts
    }

    /// Counts a reference by type, if there may be one more; a table is validated with all below.
    fn admit(&mut self, counts: &mut Counts, frame: u64, used: Use) -> Result<(), Errno> {
        let counted = counts.entry(frame).or_default();
        let fits = counted.used.is_none_or(|other| other == used) && counted.references < FULL;
        if !self.is_own(frame) || !fits {
            return Err(Errno::Invalid);
        }
        let is_first = counted.used.is_none();
        *counted = Counted { used: Some(used), count: counted.count + 1, references: counted.references + 1 };
        // A word of zero is fine everywhere.
        let words = self.words.range((frame, 0)..(frame, 512)).filter(|_| is_first);
        let words: Vec<_> = words.map(|((_, index), word)| (*index, *word)).collect();
        for (index, old) in words {
            match used {
                Use::Writable => {}
                Use::Descriptors => self.put(frame, index, descriptor(old).ok_or(Errno::Invalid)?),
                Use::Table(Level::L4) if (256..272).contains(&index) => {}
                Use::Table(level) => {
                    let new = word(level, old, self.frames())?;
                    let admitted = self.admit_entry(counts, level, new);
                    // The entry stands there before the table below is looked at.
                    let child = counts.get(&frame_of(new)).and_then(|child| child.used);
                    if admitted.is_ok() || level.below().is_some_and(|below| child == Some(Use::Table(below))) {
                        self.put(frame, index, new);
                    }
                    admitted?;
                }
            }
        }
        if is_first && used == Use::Table(Level::L4) {
            self.fill_root(frame);
        }
        Ok(())
    }

    /// A root gets the hypervisor's entries.
    pub(super) fn fill_root(&mut self, frame: u64) {
        for (index, word) in (256..).zip(self.slots) {
            self.put(frame, index, word);
        }
    }

    /// Counts what an entry refers to.
    fn admit_entry(&mut self, counts: &mut Counts, level: Level, word: u64) -> Result<(), Errno> {
        let frame = frame_of(word);
        match level.below() {
            _ if word & 1 == 0 => Ok(()),
            Some(below) => self.admit(counts, frame, Use::Table(below)),
            None if word & 2 != 0 => self.admit(counts, frame, Use::Writable).map_err(|_| Errno::Busy),
            None => {
                let counted = counts.entry(frame).or_default();
                if !self.is_own(frame) || counted.references >= FULL {
                    return Err(Errno::Busy);
                }
                counted.references += 1;
                Ok(())
            }
        }
    }

    /// Validates a frame as something, if it can be that. Nothing is counted yet.
    fn validate(&mut self, frame: u64, used: Use) -> Result<(), Errno> {
        let mut after = self.clone();
        let result = after.admit(&mut self.count(), frame, used);
        // What was looked at before the wrong entry stays as it was adjusted.
        self.words = after.words;
        result
    }

    /// Unfinished work is finished: unless it is the same as before.
    fn settle(&mut self, left: Option<Pending>) -> bool {
        let Some(pending) = self.pending else {
            return true;
        };
        if left == Some(pending) {
            return false;
        }
        self.pending = None;
        if let Some(vcpu) = pending.vcpu {
            assert_eq!(self.held[vcpu], None);
            let result = self.validate(pending.frame, Use::Table(pending.level));
            self.held[vcpu] = Some((pending.frame, pending.level, result));
        }
        true
    }

    /// Notes that a table which lost its last reference is still being taken apart, if so.
    fn dropped(&mut self, left: Option<Pending>, frame: u64, level: Level) {
        if self.count().get(&frame).is_none_or(|counted| counted.count == 0)
            && left == Some(Pending { frame, level, vcpu: None })
        {
            self.pending = left;
        }
    }

    /// A reference to a table is wanted for a vCPU. The caller counts it.
    fn acquire(&mut self, vcpu: usize, frame: u64, level: Level, left: Option<Pending>) -> Answer {
        if let Some((held, held_level, result)) = self.held[vcpu].take() {
            if (held, held_level) == (frame, level) {
                return result.map(Progress::Done);
            }
            if result.is_ok() {
                self.dropped(left, held, held_level);
                return Ok(Progress::Again);
            }
        }
        let counts = self.count();
        let counted = counts.get(&frame).copied().unwrap_or_default();
        let fits = counted.used.is_none_or(|other| other == Use::Table(level)) && counted.references < FULL;
        if !self.is_own(frame) || !fits {
            return Err(Errno::Invalid);
        }
        let validation = Pending { frame, level, vcpu: Some(vcpu) };
        if counted.used.is_none() && left == Some(validation) {
            self.pending = left;
            return Ok(Progress::Again);
        }
        if counted.used.is_none() {
            self.validate(frame, Use::Table(level))?;
        }
        Ok(Progress::Done(()))
    }

    /// What a call answers, and what it does. `left` is the work that the engine left.
    pub(super) fn call(&mut self, vcpu: usize, call: Call, left: Option<Pending>) -> Answer {
        if !self.settle(left) {
            return Ok(Progress::Again);
        }
        match call {
            Call::Pin(frame, level) => {
                if !self.is_own(frame) || self.pins.contains_key(&frame) {
                    return Err(Errno::Invalid);
                }
                let answer = self.acquire(vcpu, frame, level, left)?;
                if answer == Progress::Done(()) {
                    self.pins.insert(frame, level);
                }
                Ok(answer)
            }
            Call::Unpin(frame) => {
                let level = self.pins.remove(&frame).ok_or(Errno::Invalid)?;
                self.dropped(left, frame, level);
                Ok(Progress::Done(()))
            }
            Call::TakeRoot(frame) => {
                let answer = self.acquire(vcpu, frame, Level::L4, left)?;
                if answer == Progress::Done(()) {
                    self.holds.push((frame, Use::Table(Level::L4)));
                }
                Ok(answer)
            }
            Call::Drop(frame, used) => {
                let place = self.holds.iter().position(|hold| *hold == (frame, used)).unwrap();
                self.holds.remove(place);
                if let Use::Table(level) = used {
                    self.dropped(left, frame, level);
                }
                Ok(Progress::Done(()))
            }
            Call::Take(frame, used) => {
                self.validate(frame, used)?;
                self.holds.push((frame, used));
                Ok(Progress::Done(()))
            }
            Call::Update(frame, index, command, value) => self.update(vcpu, (frame, index), command, value, left),
            Call::Set(frame, index, value) => self.set((frame, index), value),
            Call::Flip(frame, index, mask) => self.set((frame, index), self.word(frame, index) ^ mask),
            Call::Descriptor(frame, index, value) => {
                let stored = descriptor(value).ok_or(Errno::Invalid)?;
                let used = self.used(frame)?;
                if matches!(used, Some(Use::Table(_))) {
                    return Err(Errno::Invalid);
                }
                self.put(frame, index, stored);
                Ok(Progress::Done(()))
            }
            Call::Release(frame) => self.release(frame),
        }
    }

    fn release(&mut self, frame: u64) -> Answer {
        if !self.is_own(frame) {
            return Err(Errno::Invalid);
        }
        if self.count().get(&frame).is_some_and(|counted| counted.references > 0) {
            return Err(Errno::Busy);
        }
        self.owners[usize::try_from(frame).unwrap()] = Owner::Pool;
        self.pool.push(frame);
        self.released += 1;
        self.list.insert(frame, u64::MAX);
        self.words.retain(|(of, _), _| *of != frame);
        Ok(Progress::Done(()))
    }

    /// As [`Call`]s, but never held up.
    pub(super) fn populate(&mut self, guest_frame: u64) -> Result<u64, Errno> {
        if self.released == 0 {
            return Err(Errno::NoMemory);
        }
        self.released -= 1;
        let frame = self.pool.pop().unwrap();
        self.owners[usize::try_from(frame).unwrap()] = Owner::Own;
        self.list.insert(frame, guest_frame);
        Ok(frame)
    }

    /// What a frame of the VM's is used as.
    fn used(&self, frame: u64) -> Result<Option<Use>, Errno> {
        if !self.is_own(frame) {
            return Err(Errno::Invalid);
        }
        Ok(self.count().get(&frame).and_then(|counted| counted.used))
    }

    fn update(
        &mut self,
        vcpu: usize,
        (frame, index): (u64, usize),
        command: u64,
        value: u64,
        left: Option<Pending>,
    ) -> Answer {
        if command == 1 {
            self.used(frame)?;
            self.list.insert(frame, value);
            return Ok(Progress::Done(()));
        }
        if command > 3 {
            return Err(Errno::NotImplemented);
        }
        let old = self.word(frame, index);
        let is_kept = command == 2 && old & 1 == 1 && value & 1 == 1;
        let table_word = value | if is_kept { old & 0x60 } else { 0 };
        match self.used(frame)? {
            None | Some(Use::Writable) => {
                self.put(frame, index, value);
                Ok(Progress::Done(()))
            }
            Some(Use::Descriptors) => Err(Errno::Invalid),
            Some(Use::Table(Level::L1)) => self.set((frame, index), table_word),
            Some(Use::Table(level)) => self.link(vcpu, (frame, index), level, table_word, left),
        }
    }

    /// A word is written into a table above level 1.
    fn link(
        &mut self,
        vcpu: usize,
        (frame, index): (u64, usize),
        level: Level,
        value: u64,
        left: Option<Pending>,
    ) -> Answer {
        if level == Level::L4 && (256..272).contains(&index) {
            return Err(Errno::Invalid);
        }
        let old = self.word(frame, index);
        let new = word(level, value, self.frames())?;
        let below = level.below().unwrap();
        let is_same = old & new & 1 == 1 && frame_of(old) == frame_of(new);
        if new & 1 == 1 && !is_same && self.acquire(vcpu, frame_of(new), below, left)? == Progress::Again {
            return Ok(Progress::Again);
        }
        self.put(frame, index, new);
        if old & 1 == 1 && !is_same {
            self.dropped(left, frame_of(old), below);
        }
        Ok(Progress::Done(()))
    }

    /// A word is written into a table of level 1.
    pub(super) fn set(&mut self, (frame, index): (u64, usize), value: u64) -> Answer {
        if self.used(frame)? != Some(Use::Table(Level::L1)) {
            return Err(Errno::Invalid);
        }
        let old = self.word(frame, index);
        let new = word(Level::L1, value, self.frames())?;
        let is_same = old & new & 1 == 1 && frame_of(old) == frame_of(new) && (old ^ new) & 2 == 0;
        if !is_same {
            self.clone().admit_entry(&mut self.count(), Level::L1, new)?;
        }
        self.put(frame, index, new);
        Ok(Progress::Done(()))
    }
}

/// What a call answers.
pub(super) type Answer = Result<Progress<()>, Errno>;

/// What vCPUs, or the hypervisor for them, call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call {
    Pin(u64, Level),
    Unpin(u64),
    TakeRoot(u64),
    /// For writing, or as a descriptor table.
    Take(u64, Use),
    /// Also a root.
    Drop(u64, Use),
    /// Frame, entry, command, value.
    Update(u64, usize, u64, u64),
    Set(u64, usize, u64),
    /// The bits that an instruction of the guest's flips.
    Flip(u64, usize, u64),
    Descriptor(u64, usize, u64),
    Release(u64),
}
