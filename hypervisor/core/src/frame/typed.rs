//! What the frames of a VM that writes its own page tables are used as. It stands in the number field
//! of their records, so that one compare-exchange changes use and references together.
//!
//! Invariants, for frames of kind `Paged`:
//! * A frame has one type at a time, and another one only after the last reference by type is gone.
//! * Each reference by type is also a general reference, so a count that is full stops both.
//! * `validated` is set only for a page table whose entries were all checked and are counted.
//! * The type outlives its last reference: it tells what CPUs may still take the frame for.

use protocol::Status;

use super::record::{MAX_REFERENCES, REFERENCE_BITS, Record};
use super::{Class, FrameTable};
use crate::addr::Mfn;
use crate::addr::convert::index;

/// Bits of the count of references by type.
const COUNT_BITS: u32 = 24;
/// One reference by type.
const COUNT_ONE: u64 = 1 << REFERENCE_BITS;
const COUNT_MASK: u64 = ((1 << COUNT_BITS) - 1) << REFERENCE_BITS;
const TYPE_SHIFT: u32 = REFERENCE_BITS + COUNT_BITS;
const TYPE_MASK: u64 = 7 << TYPE_SHIFT;
const PINNED: u64 = 1 << (TYPE_SHIFT + 3);
const VALIDATED: u64 = 1 << (TYPE_SHIFT + 4);
/// A general reference and one by type.
const BOTH: u64 = 1 | COUNT_ONE;

const _: () = assert!(COUNT_BITS == REFERENCE_BITS && COUNT_BITS + 5 == super::record::NUMBER_BITS);

/// Level of a page table; the entries of level 1 show pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Level {
    L1 = 1,
    L2 = 2,
    L3 = 3,
    L4 = 4,
}

impl Level {
    /// All, from the leaves to the root.
    pub const ALL: [Level; 4] = [Level::L1, Level::L2, Level::L3, Level::L4];

    /// The index of an address in a table of this level.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self, address: u64) -> usize {
        let shift = match self {
            Level::L1 => 12,
            Level::L2 => 21,
            Level::L3 => 30,
            Level::L4 => 39,
        };
        index((address >> shift) & 511)
    }

    /// The level of the tables that entries of this level lead to.
    #[must_use]
    pub const fn below(self) -> Option<Level> {
        match self {
            Level::L1 => None,
            Level::L2 => Some(Level::L1),
            Level::L3 => Some(Level::L2),
            Level::L4 => Some(Level::L3),
        }
    }
}

/// What a frame is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// Nothing that matters since it came to the VM.
    None,
    /// A page table.
    Table(Level),
    /// A part of a descriptor table.
    Descriptors,
    /// Memory that somebody may write.
    Writable,
}

impl Type {
    const fn bits(self) -> u64 {
        let number = match self {
            Type::None => 0,
            Type::Table(Level::L1) => 1,
            Type::Table(Level::L2) => 2,
            Type::Table(Level::L3) => 3,
            Type::Table(Level::L4) => 4,
            Type::Descriptors => 5,
            Type::Writable => 6,
        };
        number << TYPE_SHIFT
    }

    /// With the mark that tables need before anybody may count on them.
    const fn usable_bits(self) -> u64 {
        match self {
            Type::Table(_) => self.bits() | VALIDATED,
            Type::None | Type::Descriptors | Type::Writable => self.bits(),
        }
    }
}

/// The use of a frame as it stands in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typed(u64);

impl Typed {
    /// The last type, whether or not it still has references.
    #[must_use]
    #[inline]
    pub const fn last(self) -> Type {
        match (self.0 & TYPE_MASK) >> TYPE_SHIFT {
            1 => Type::Table(Level::L1),
            2 => Type::Table(Level::L2),
            3 => Type::Table(Level::L3),
            4 => Type::Table(Level::L4),
            5 => Type::Descriptors,
            6 => Type::Writable,
            _ => Type::None,
        }
    }

    /// The type that it has references by, else `None`.
    #[must_use]
    #[inline]
    pub const fn current(self) -> Type {
        if self.0 & COUNT_MASK == 0 { Type::None } else { self.last() }
    }

    /// References by type.
    #[must_use]
    pub const fn count(self) -> u64 {
        (self.0 & COUNT_MASK) >> REFERENCE_BITS
    }

    /// All references.
    #[must_use]
    pub const fn references(self) -> u64 {
        Record(self.0).references()
    }

    /// Whether the guest keeps it a page table.
    #[must_use]
    pub const fn is_pinned(self) -> bool {
        self.0 & PINNED != 0
    }

    /// Whether all its entries are checked and counted.
    #[must_use]
    pub const fn is_validated(self) -> bool {
        self.0 & VALIDATED != 0
    }

    /// The number of the record without the count.
    #[cfg(feature = "recount")]
    pub(crate) const fn without_count(self) -> u64 {
        (self.0 & (TYPE_MASK | PINNED | VALIDATED)) >> REFERENCE_BITS
    }

    /// Whether it is a page table of a level that CPUs may use.
    #[must_use]
    #[inline(always)]
    pub const fn is_table(self, level: Level) -> bool {
        self.0 & (TYPE_MASK | VALIDATED) == Type::Table(level).usable_bits()
    }
}

/// What a record of a frame in the making is with one more reference by type, if it has that type.
#[cfg(feature = "recount")]
pub(crate) fn with_reference(word: u64, wanted: Type) -> Option<u64> {
    (word & TYPE_MASK == wanted.bits()).then_some(word.wrapping_add(BOTH))
}

/// What became of a frame from which a reference by type was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Nothing else is to be done.
    Whole,
    /// It was the last one of a page table: its entries are to be let go, then
    /// [`FrameTable::end_table`] drops it.
    LastOfTable,
}

impl FrameTable<'_> {
    /// How a frame of a class is used.
    #[must_use]
    #[inline(always)]
    pub fn typed(&self, frame: Mfn, class: Class) -> Option<Typed> {
        self.record(frame, class).map(|record| Typed(record.0))
    }

    /// Counts a reference by type. Returns the use before: if it had no reference by type, the frame
    /// had another type, and what that means for CPUs is the caller's business.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when the frame is of another class, [`Status::Busy`] when it is used
    /// as something else, [`Status::QuotaExceeded`] when it has [`MAX_REFERENCES`].
    #[inline(always)]
    pub(crate) fn take_type(&self, frame: Mfn, class: Class, wanted: Type) -> Result<Typed, Status> {
        self.update(frame, class, |record| {
            if record.references() >= MAX_REFERENCES {
                return Err(Status::QuotaExceeded);
            }
            if record.0 & (TYPE_MASK | VALIDATED) == wanted.usable_bits() {
                return Ok(Record(record.0.wrapping_add(BOTH)));
            }
            // Another type, or a table that is not validated.
            if record.0 & COUNT_MASK != 0 {
                return Err(Status::Busy);
            }
            Ok(Record((record.0 & !TYPE_MASK | wanted.bits()).wrapping_add(BOTH)))
        })
        .map(|record| Typed(record.0))
    }

    /// Gives a frame without references by type another type, none counted. What it was before.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] when the frame is of another class, [`Status::Busy`] when its type is
    /// in use.
    pub(crate) fn set_type(&self, frame: Mfn, class: Class, to: Type) -> Result<Typed, Status> {
        let updated = self.update(frame, class, |record| {
            let is_used = record.0 & COUNT_MASK != 0;
            if is_used { Err(Status::Busy) } else { Ok(Record(record.0 & !TYPE_MASK | to.bits())) }
        });
        updated.map(|record| Typed(record.0))
    }

    /// Drops a reference by type. The last one of a page table stays, with the table no longer
    /// validated, until its entries are let go.
    #[inline(always)]
    pub(crate) fn drop_type(&self, frame: Mfn, class: Class) -> Dropped {
        let is_last = |record: u64| {
            let is_table = record & TYPE_MASK < Type::Descriptors.bits();
            is_table && record & COUNT_MASK == COUNT_ONE
        };
        let before = self.update(frame, class, |record| {
            if record.0 & COUNT_MASK == 0 {
                return Err(Status::InvalidArgument);
            }
            Ok(Record(if is_last(record.0) { record.0 & !VALIDATED } else { record.0.wrapping_sub(BOTH) }))
        });
        debug_assert!(before.is_ok(), "a reference by type that nobody had");
        match before {
            Ok(record) if is_last(record.0) => Dropped::LastOfTable,
            _ => Dropped::Whole,
        }
    }

    /// Drops the last reference by type of a page table whose entries are let go.
    pub(crate) fn end_table(&self, frame: Mfn, class: Class) {
        let ended = self.update(frame, class, |record| {
            let is_last = record.0 & COUNT_MASK == COUNT_ONE;
            if is_last { Ok(Record((record.0 & !VALIDATED).wrapping_sub(BOTH))) } else { Err(Status::Busy) }
        });
        debug_assert!(ended.is_ok(), "a table that ends has one reference by type");
    }

    /// Notes that all entries of a page table are checked and counted.
    pub(crate) fn set_validated(&self, frame: Mfn, class: Class) {
        let noted = self.update(frame, class, |record| Ok(Record(record.0 | VALIDATED)));
        debug_assert!(noted.is_ok(), "a table that is validated is the VM's");
    }

    /// Notes that the guest keeps a page table, which it must not do yet.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] also when the frame is of another class.
    pub(crate) fn set_pinned(&self, frame: Mfn, class: Class) -> Result<(), Status> {
        self.flip_pinned(frame, class, 0)
    }

    /// Notes that it no longer does.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn clear_pinned(&self, frame: Mfn, class: Class) -> Result<(), Status> {
        self.flip_pinned(frame, class, PINNED)
    }

    /// Changes the mark, which must be `from`.
    ///
    /// # Errors
    /// As above.
    fn flip_pinned(&self, frame: Mfn, class: Class, from: u64) -> Result<(), Status> {
        let next = |record: Record| {
            let is_from = record.0 & PINNED == from;
            if is_from { Ok(Record(record.0 ^ PINNED)) } else { Err(Status::InvalidArgument) }
        };
        self.update(frame, class, next).map(drop)
    }
}
