//! Who has each machine frame and for what: the one place where that is written.
//!
//! Invariants:
//! * Every change of a record is one compare-exchange, so two CPUs never both win a frame.
//! * Kind, owner and number change only while the reference count is zero.
//! * A count that is full refuses a reference; it never wraps.
//! * Frame 0 and frames behind the table's end are never handed out.
//!
//! It does not touch the frames: who claims one clears it before anybody else sees it.

mod record;

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::addr::Mfn;
use crate::addr::convert::{index, wide};

use record::Record;
pub use record::{Class, Kind, MAX_REFERENCES, NUMBER_END, Owner, Use};

/// One record a machine frame, the frame number being the index.
#[derive(Debug)]
pub struct FrameTable<'a> {
    records: &'a [AtomicU64],
    /// Where the next search for unaligned frames starts: a hint only.
    rover: AtomicUsize,
}

/// Why a change of a frame is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No run of free frames is long enough.
    OutOfMemory,
    /// There is no such frame, or its owner or kind is not the expected one.
    NotYours,
    /// Something refers to the frame.
    Busy,
    /// The frame has [`MAX_REFERENCES`].
    Full,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::OutOfMemory => "no run of free frames is long enough",
            Refused::NotYours => "the frame is not of the expected owner and kind",
            Refused::Busy => "something refers to the frame",
            Refused::Full => "the frame has as many references as can be counted",
        })
    }
}

impl core::error::Error for Refused {}

/// Free memory.
const FREE: Use = Use::new(Owner::Nobody, Kind::Free);
/// Not memory.
const RESERVED: Use = Use::new(Owner::Nobody, Kind::Reserved);

impl<'a> FrameTable<'a> {
    /// A table over records that are all zero: every frame is reserved.
    #[must_use]
    pub const fn new(records: &'a [AtomicU64]) -> FrameTable<'a> {
        FrameTable { records, rover: AtomicUsize::new(1) }
    }

    /// Frames that the table covers.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        wide(self.records.len())
    }

    /// Start-up: makes the reserved frames of a range free. Frame 0 stays reserved, since 0 stands
    /// for no frame elsewhere.
    pub fn release_range(&self, range: Range<Mfn>) {
        self.change_range(range, RESERVED, FREE);
    }

    /// Start-up: takes the free frames of a range out of use for good.
    pub fn reserve(&self, range: Range<Mfn>) {
        self.change_range(range, FREE, RESERVED);
    }

    fn change_range(&self, range: Range<Mfn>, from: Use, to: Use) {
        for frame in range.start.0.max(1)..range.end.0.min(self.frames()) {
            // Refused means that the frame is in use otherwise; it stays so.
            let _ = self.exchange(Mfn(frame), Record::of(from), Record::of(to));
        }
    }

    /// Takes the first run of `count` free frames whose start is a multiple of `alignment`. The
    /// first gets the number of `usage`, those behind it the numbers that follow.
    ///
    /// # Errors
    /// [`Refused::OutOfMemory`]; then nothing was taken.
    pub fn claim_run(&self, usage: Use, count: u64, alignment: u64) -> Result<Mfn, Refused> {
        self.claim_run_from(FREE, usage, count, alignment)
    }

    /// As [`FrameTable::claim_run`], from frames whose use is `from` now.
    ///
    /// # Errors
    /// [`Refused::OutOfMemory`]; then nothing was taken.
    pub fn claim_run_from(&self, from: Use, usage: Use, count: u64, alignment: u64) -> Result<Mfn, Refused> {
        let start = match alignment {
            0 | 1 => self.rover.load(Ordering::Relaxed),
            _ => 1,
        };
        let found = match self.claim_behind(index_start(start), (from, usage), count, alignment) {
            None if start > 1 => self.claim_behind(1, (from, usage), count, alignment),
            found => found,
        };
        let first = found.ok_or(Refused::OutOfMemory)?;
        if alignment <= 1 {
            let next = index(first.wrapping_add(count));
            self.rover.store(next, Ordering::Relaxed);
        }
        Ok(Mfn(first))
    }

    /// Searches from frame `start` on.
    fn claim_behind(&self, start: u64, (from, usage): (Use, Use), count: u64, alignment: u64) -> Option<u64> {
        let mut candidate = start.checked_next_multiple_of(alignment.max(1))?;
        while candidate.checked_add(count)? <= self.frames() {
            match self.last_not(from, candidate, count) {
                None if self.claim_all(from, usage, candidate, count) => return Some(candidate),
                // Another CPU was faster: look again behind it.
                None => candidate = candidate.checked_add(alignment.max(1))?,
                Some(obstacle) => {
                    candidate = obstacle.checked_add(1)?.checked_next_multiple_of(alignment.max(1))?;
                }
            }
        }
        None
    }

    /// The last frame of a run whose use is not `from`.
    fn last_not(&self, from: Use, start: u64, count: u64) -> Option<u64> {
        let records = self.records.get(index(start)..index(start.wrapping_add(count)))?;
        let wanted = Record::of(from).0;
        let position = records.iter().rposition(|record| record.load(Ordering::Relaxed) != wanted)?;
        Some(start.wrapping_add(wide(position)))
    }

    /// Takes a whole run, or nothing when another CPU takes one of its frames first.
    fn claim_all(&self, from: Use, usage: Use, start: u64, count: u64) -> bool {
        let numbered = |offset: u64| Record::of(Use { number: usage.number.wrapping_add(offset), ..usage });
        for offset in 0..count {
            let frame = Mfn(start.wrapping_add(offset));
            if !self.exchange(frame, Record::of(from), numbered(offset)) {
                for taken in 0..offset {
                    let frame = Mfn(start.wrapping_add(taken));
                    let _ = self.exchange(frame, numbered(taken), Record::of(from));
                }
                return false;
            }
        }
        true
    }

    /// Gives a frame to another use. It must be `owner`'s, of kind `kind` and unreferenced.
    ///
    /// # Errors
    /// [`Refused::NotYours`] or [`Refused::Busy`].
    pub fn change(&self, frame: Mfn, owner: Owner, kind: Kind, to: Use) -> Result<(), Refused> {
        loop {
            let record = self.record(frame)?;
            if !record.is(Class::new(owner, kind)) {
                return Err(Refused::NotYours);
            }
            if record.references() != 0 {
                return Err(Refused::Busy);
            }
            if self.exchange(frame, record, Record::of(to)) {
                return Ok(());
            }
        }
    }

    /// Gives a frame back to everybody.
    ///
    /// # Errors
    /// [`Refused::NotYours`] or [`Refused::Busy`].
    pub fn free(&self, frame: Mfn, owner: Owner, kind: Kind) -> Result<(), Refused> {
        self.change(frame, owner, kind, FREE)
    }

    /// Counts one more reference to a frame of a class.
    ///
    /// # Errors
    /// [`Refused::NotYours`] or [`Refused::Full`].
    #[inline(always)]
    pub fn add_reference(&self, frame: Mfn, class: Class) -> Result<(), Refused> {
        let slot = self.slot(frame)?;
        loop {
            let record = Record(slot.load(Ordering::Acquire));
            if !record.is(class) {
                return Err(Refused::NotYours);
            }
            if record.references() >= MAX_REFERENCES {
                return Err(Refused::Full);
            }
            let more = Record(record.0.wrapping_add(1));
            if exchange(slot, record, more) {
                return Ok(());
            }
        }
    }

    /// Counts one reference less.
    ///
    /// # Errors
    /// [`Refused::NotYours`], also when there is no reference.
    #[inline(always)]
    pub fn drop_reference(&self, frame: Mfn, class: Class) -> Result<(), Refused> {
        let slot = self.slot(frame)?;
        loop {
            let record = Record(slot.load(Ordering::Acquire));
            if !record.is(class) || record.references() == 0 {
                return Err(Refused::NotYours);
            }
            let fewer = Record(record.0.wrapping_sub(1));
            if exchange(slot, record, fewer) {
                return Ok(());
            }
        }
    }

    /// The number of a frame that is `owner`'s and of kind `kind`.
    #[must_use]
    pub fn number(&self, frame: Mfn, owner: Owner, kind: Kind) -> Option<u64> {
        let record = self.record(frame).ok()?;
        record.is(Class::new(owner, kind)).then(|| record.number())
    }

    /// References of a frame that is `owner`'s and of kind `kind`.
    #[must_use]
    pub fn references(&self, frame: Mfn, owner: Owner, kind: Kind) -> Option<u64> {
        let record = self.record(frame).ok()?;
        record.is(Class::new(owner, kind)).then(|| record.references())
    }

    /// Frees those of the next `count` frames from `from` on that are kept for `owner`. Where to go
    /// on; nothing when the table is at its end.
    pub fn free_kept(&self, owner: Owner, from: Mfn, count: u64) -> Option<Mfn> {
        let end = from.0.saturating_add(count).min(self.frames());
        for frame in from.0..end {
            // Refused means that the frame is somebody else's.
            let _ = self.free(Mfn(frame), owner, Kind::Kept);
        }
        (end < self.frames()).then_some(Mfn(end))
    }

    /// For audits: how many frames `owner` has of a kind.
    #[must_use]
    pub fn count(&self, owner: Owner, kind: Kind) -> u64 {
        let class = Class::new(owner, kind);
        let is = |record: &&AtomicU64| Record(record.load(Ordering::Relaxed)).is(class);
        wide(self.records.iter().filter(is).count())
    }

    /// Frames that nobody has.
    #[must_use]
    pub fn free_frames(&self) -> u64 {
        self.count(Owner::Nobody, Kind::Free)
    }

    /// The place of a frame's record.
    ///
    /// # Errors
    /// [`Refused::NotYours`] for a frame that is not in the table.
    #[inline(always)]
    fn slot(&self, frame: Mfn) -> Result<&AtomicU64, Refused> {
        self.records.get(index(frame.0)).ok_or(Refused::NotYours)
    }

    /// The record of a frame.
    ///
    /// # Errors
    /// [`Refused::NotYours`] for a frame that is not in the table.
    fn record(&self, frame: Mfn) -> Result<Record, Refused> {
        let slot = self.slot(frame)?;
        Ok(Record(slot.load(Ordering::Acquire)))
    }

    /// Changes the record of a frame from one known value to another; answers whether it had it.
    fn exchange(&self, frame: Mfn, from: Record, to: Record) -> bool {
        self.slot(frame).is_ok_and(|slot| exchange(slot, from, to))
    }
}

/// The one place that changes a record.
#[inline(always)]
fn exchange(slot: &AtomicU64, from: Record, to: Record) -> bool {
    slot.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// A start index as a frame number, never 0.
fn index_start(start: usize) -> u64 {
    wide(start).max(1)
}

#[cfg(test)]
mod tests;
