//! Memory with CPUs that walk tables on their own: they remember what they read until they are told to
//! forget it, set accessed and dirty bits, also in the middle of an update, and let the guest write
//! wherever they remember a page for writing.

use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::typed::Level;
use crate::paging::GuestTables;
use crate::space::{TableMemory, ValidEntry};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

/// What a CPU remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Cached {
    /// A frame is a table of a level.
    Table(Mfn, Level),
    /// A frame can be read, or written.
    Page(Mfn, bool),
}

/// All of it.
#[derive(Debug, Clone, Hash)]
pub(super) struct Saved {
    words: Vec<(usize, u64)>,
    cpus: Vec<BTreeSet<Cached>>,
}

/// Machine memory and its CPUs.
#[derive(Debug)]
pub(super) struct Walked {
    words: Vec<Cell<u64>>,
    cpus: RefCell<Vec<BTreeSet<Cached>>>,
    /// Bits that a CPU sets in the entry that is replaced next, just before.
    race: Cell<u64>,
    /// Where it did.
    raced: RefCell<Vec<(Mfn, usize, u64)>>,
    pub(super) flushes: Cell<u64>,
}

impl Walked {
    pub(super) fn new(frames: u64, cpus: usize) -> Walked {
        Walked {
            words: vec![Cell::new(0); index(frames) * 512],
            cpus: RefCell::new(vec![BTreeSet::new(); cpus]),
            race: Cell::new(0),
            raced: RefCell::default(),
            flushes: Cell::new(0),
        }
    }

    fn word(&self, frame: Mfn, word: usize) -> &Cell<u64> {
        assert!(word < 512);
        &self.words[index(frame.0) * 512 + word]
    }

    pub(super) fn poke(&self, frame: Mfn, word: usize, value: u64) {
        self.word(frame, word).set(value);
    }

    /// The words of a frame.
    pub(super) fn frame(&self, frame: Mfn) -> impl Iterator<Item = (usize, u64)> {
        self.words[index(frame.0) * 512..][..512].iter().map(Cell::get).enumerate()
    }

    /// All words that are not zero, with frame and index.
    pub(super) fn nonzero(&self) -> impl Iterator<Item = ((u64, usize), u64)> {
        let frames = (0..).zip(self.words.chunks(512));
        frames.flat_map(|(frame, words)| {
            let words = words.iter().map(Cell::get).enumerate().filter(|(_, word)| *word != 0);
            words.map(move |(index, word)| ((frame, index), word))
        })
    }

    /// All words that are not zero, and what the CPUs remember.
    pub(super) fn save(&self) -> Saved {
        let words = self.words.iter().map(Cell::get).enumerate().filter(|(_, word)| *word != 0).collect();
        Saved { words, cpus: self.cpus.borrow().clone() }
    }

    /// Goes back to what [`Walked::save`] said.
    pub(super) fn restore(&self, saved: &Saved) {
        for word in &self.words {
            word.set(0);
        }
        for (index, word) in &saved.words {
            self.words[*index].set(*word);
        }
        self.cpus.borrow_mut().clone_from(&saved.cpus);
    }

    /// Lets a CPU interfere with the next replacement of an entry that is present.
    pub(super) fn race(&self, bits: u64) {
        self.race.set(bits);
    }

    /// Where CPUs did, since the last call.
    pub(super) fn raced(&self) -> Vec<(Mfn, usize, u64)> {
        self.race.set(0);
        self.raced.take()
    }

    /// What a CPU remembers.
    pub(super) fn cached(&self, cpu: usize) -> BTreeSet<Cached> {
        self.cpus.borrow()[cpu].clone()
    }

    /// A CPU forgets all, since it loads another root.
    pub(super) fn forget(&self, cpu: usize) {
        self.cpus.borrow_mut()[cpu].clear();
    }

    /// A CPU reads an entry of a table that it knows, and sets bits there. Returns what it changed.
    pub(super) fn walk(&self, cpu: usize, table: Mfn, level: Level, slot: usize) -> Option<(Mfn, usize, u64)> {
        let cell = self.word(table, slot);
        let word = cell.get();
        if word & 1 == 0 || (level == Level::L4 && (256..272).contains(&slot)) {
            return None;
        }
        let frame = Mfn(word >> 12 & 0xff_ffff_ffff);
        let is_writable = word & 2 != 0;
        let mut bits = 0x20;
        let mut cpus = self.cpus.borrow_mut();
        cpus[cpu].insert(match level.below() {
            Some(below) => Cached::Table(frame, below),
            None => {
                bits |= if is_writable { 0x40 } else { 0 };
                Cached::Page(frame, is_writable)
            }
        });
        cell.set(word | bits);
        Some((table, slot, bits))
    }
}

impl TableMemory for Walked {
    fn load(&self, frame: Mfn, index: usize) -> u64 {
        self.word(frame, index).get()
    }

    fn store(&self, table: Mfn, index: usize, entry: ValidEntry) {
        self.word(table, index).set(entry.bits());
    }

    fn clear(&self, frame: Mfn) {
        for word in 0..512 {
            self.word(frame, word).set(0);
        }
    }

    fn write(&self, _: Mfn, _: usize, _: &[u8]) {
        unreachable!("pages and descriptors are written word by word");
    }
}

impl GuestTables for Walked {
    fn compare_exchange(&self, table: Mfn, index: usize, old: u64, entry: ValidEntry) -> Result<(), u64> {
        let cell = self.word(table, index);
        let bits = self.race.take();
        if bits != 0 && cell.get() & 1 != 0 {
            cell.set(cell.get() | bits);
            self.raced.borrow_mut().push((table, index, bits));
        }
        if cell.get() != old {
            return Err(cell.get());
        }
        cell.set(entry.bits());
        Ok(())
    }

    fn store_word(&self, frame: Mfn, index: usize, value: u64) {
        self.word(frame, index).set(value);
    }

    fn flush(&self) {
        self.flushes.set(self.flushes.get() + 1);
        for cpu in self.cpus.borrow_mut().iter_mut() {
            cpu.clear();
        }
    }
}
