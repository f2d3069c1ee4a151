//! Who has each machine frame and for what: the one place where that is written.
//!
//! Invariants:
//! * Every change of a record is one compare-exchange, so two CPUs never both win a frame.
//! * Kind and owner change only while the reference count is zero, and so does a number that says which
//!   frame it is; but for [`FrameTable::take_back`], whose VM is gone.
//! * A count that is full refuses a reference; it never wraps.
//! * Frame 0 and frames behind the table's end are never handed out.
//!
//! It does not touch the frames: who claims one clears it before anybody else sees it.

mod record;
#[cfg(feature = "xen")]
pub mod typed;

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use protocol::{Status, VmId};

use crate::addr::Mfn;
use crate::addr::convert::{index, wide};

#[cfg(not(feature = "recount"))]
use record::Record;
#[cfg(feature = "recount")]
pub(crate) use record::Record;
pub use record::{Class, Kind, MAX_REFERENCES, NUMBER_END};

/// One record a machine frame, the frame number being the index.
#[derive(Debug)]
pub struct FrameTable<'a> {
    records: &'a [AtomicU64],
}

/// How far a search for frames has come, kept by who searches: no search shows in another one.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// The frame to look at next.
    next: u64,
    /// How many frames it may still look at before it has to stop. The run that it is at is ended.
    pub budget: u64,
}

impl Search {
    /// A search of the whole table in one go.
    pub const START: Search = Search { next: 1, budget: u64::MAX };
}

impl<'a> FrameTable<'a> {
    /// A table over records that are all zero: every frame is reserved.
    #[must_use]
    pub const fn new(records: &'a [AtomicU64]) -> FrameTable<'a> {
        FrameTable { records }
    }

    /// Frames that the table covers.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        wide(self.records.len())
    }

    /// Start-up: makes the reserved frames of a range free. Frame 0 stays reserved, since 0 stands
    /// for no frame elsewhere.
    pub fn release_range(&self, range: Range<Mfn>) {
        self.change_range(range, Class::RESERVED, Class::FREE);
    }

    /// Start-up: takes the free frames of a range out of use for good.
    pub fn reserve(&self, range: Range<Mfn>) {
        self.change_range(range, Class::FREE, Class::RESERVED);
    }

    fn change_range(&self, range: Range<Mfn>, from: Class, to: Class) {
        for frame in range.start.0.max(1)..range.end.0.min(self.frames()) {
            // Refused means that the frame is in use otherwise; it stays so.
            let _ = self.change(Mfn(frame), from, to, 0);
        }
    }

    /// Takes the first run of `count` frames of class `from` whose start is a multiple of
    /// `alignment`, or nothing. The first gets the number `number`, those behind it the numbers that
    /// follow.
    #[must_use]
    pub fn claim_run(&self, from: Class, to: Class, number: u64, run: (u64, u64)) -> Option<Mfn> {
        self.claim_next(&mut { Search::START }, (from, to), number, run).ok().flatten()
    }

    /// Does the same from where a search stands, until it may look no further: then the answer is
    /// nothing, and the next call goes on.
    ///
    /// # Errors
    /// [`Status::QuotaExceeded`] when the search is at the end of the table.
    pub fn claim_next(
        &self,
        search: &mut Search,
        (from, to): (Class, Class),
        number: u64,
        (count, alignment): (u64, u64),
    ) -> Result<Option<Mfn>, Status> {
        let full = Status::QuotaExceeded;
        while search.budget > 0 {
            let first = search.next.checked_next_multiple_of(alignment).ok_or(full)?;
            let end = first.checked_add(count).filter(|end| *end <= self.frames()).ok_or(full)?;
            let frame = |offset| Mfn(first.wrapping_add(offset));
            let take = |offset: &u64| self.change(frame(*offset), from, to, number.wrapping_add(*offset)).is_ok();
            let taken = wide((0..count).take_while(take).count());
            search.budget = search.budget.saturating_sub(taken).saturating_sub(1);
            if taken == count {
                search.next = end;
                return Ok(Some(Mfn(first)));
            }
            // An obstacle, or another CPU was faster: look again behind it.
            for offset in 0..taken {
                let returned = self.change(frame(offset), to, from, 0);
                debug_assert!(returned.is_ok(), "taken just now");
            }
            search.next = frame(taken).0.wrapping_add(1);
        }
        Ok(None)
    }

    /// Gives a frame to another class, with a number. It must be of class `from` and unreferenced.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when it is of another class or no frame, or [`Status::Busy`].
    pub fn change(&self, frame: Mfn, from: Class, to: Class, number: u64) -> Result<(), Status> {
        self.update(
            frame,
            from,
            |record| {
                if record.references() == 0 { Ok(Record::of(to, number)) } else { Err(Status::Busy) }
            },
        )
        .map(drop)
    }

    /// Counts one more reference to a frame of a class.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] as above, or [`Status::QuotaExceeded`] when it has
    /// [`MAX_REFERENCES`].
    #[inline(always)]
    pub fn add_reference(&self, frame: Mfn, class: Class) -> Result<(), Status> {
        self.update(frame, class, |record| {
            let room = record.references() < MAX_REFERENCES;
            if room { Ok(Record(record.0.wrapping_add(1))) } else { Err(Status::QuotaExceeded) }
        })
        .map(drop)
    }

    /// Counts one reference less.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], also when there is no reference.
    #[inline(always)]
    pub fn drop_reference(&self, frame: Mfn, class: Class) -> Result<(), Status> {
        self.update(frame, class, |record| {
            let some = record.references() != 0;
            if some { Ok(Record(record.0.wrapping_sub(1))) } else { Err(Status::InvalidArgument) }
        })
        .map(drop)
    }

    /// The number of a frame of a class.
    #[must_use]
    pub fn number(&self, frame: Mfn, class: Class) -> Option<u64> {
        self.record(frame, class).map(Record::number)
    }

    /// Frees those of the next `count` frames from `from` on that the teardown of a VM left. Where to
    /// go on; nothing when the table is at its end.
    #[must_use]
    pub fn free_remains(&self, vm: VmId, from: Mfn, count: u64) -> Option<Mfn> {
        let end = from.0.saturating_add(count).min(self.frames());
        for frame in from.0..end {
            for kind in [Kind::Kept, Kind::FrameList, Kind::Shared] {
                // Refused means that the frame is something else's.
                let _ = self.change(Mfn(frame), Class::new(Some(vm), kind), Class::FREE, 0);
            }
        }
        (end < self.frames()).then_some(Mfn(end))
    }

    /// Whether a VM has one of these frames, whatever for.
    #[cfg(feature = "xen")]
    pub(crate) fn has_any(&self, vm: VmId, frames: Range<Mfn>) -> bool {
        let end = frames.end.0.min(self.frames());
        let records = self.records.get(index(frames.start.0)..index(end)).unwrap_or_default();
        records.iter().any(|record| Record(record.load(Ordering::Acquire)).is_of(vm))
    }

    /// Takes a frame back from a VM that is gone, whatever in the VM refers to it: it becomes one that is
    /// kept. Whether it was of a kind that a VM writing its own page tables has.
    #[cfg(feature = "xen")]
    pub(crate) fn take_back(&self, frame: Mfn, vm: VmId) -> bool {
        let kept = Record::of(Class::new(Some(vm), Kind::Kept), 0);
        self.has_any(vm, frame..frame.offset(1))
            && [Kind::Paged, Kind::Table, Kind::Shared, Kind::Pool]
                .into_iter()
                .any(|kind| self.update(frame, Class::new(Some(vm), kind), |_| Ok(kept)).is_ok())
    }

    /// The record of a frame, if it is of a class.
    fn record(&self, frame: Mfn, class: Class) -> Option<Record> {
        let record = Record(self.records.get(index(frame.0))?.load(Ordering::Acquire));
        record.is(class).then_some(record)
    }

    /// The record of a frame as it stands, its owner (0 for nobody, else the VM's number plus one) and
    /// its kind.
    #[cfg(feature = "recount")]
    pub(crate) fn raw(&self, frame: Mfn) -> (u64, usize, Kind) {
        let word = self.records.get(index(frame.0)).map_or(0, |record| record.load(Ordering::Acquire));
        (word, Record(word).owner(), Record(word).kind())
    }

    /// The one place that changes a record: to what `next` says, if the frame is of the class. What it
    /// was.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when it is not, or what `next` says.
    #[inline(always)]
    fn update(
        &self,
        frame: Mfn,
        class: Class,
        next: impl Fn(Record) -> Result<Record, Status>,
    ) -> Result<Record, Status> {
        let slot = self.records.get(index(frame.0)).ok_or(Status::InvalidArgument)?;
        #[cfg(test)]
        tests::look();
        loop {
            let record = Record(slot.load(Ordering::Acquire));
            if !record.is(class) {
                return Err(Status::InvalidArgument);
            }
            let next = next(record)?;
            if slot.compare_exchange(record.0, next.0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Ok(record);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
