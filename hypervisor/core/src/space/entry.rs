//! The only constructors of page-table entries.
//!
//! What an entry can be is decided here and nowhere else: its fields are private, and
//! [`super::TableMemory::store`] takes nothing but a [`ValidEntry`]. Exactly these bits are ever
//! set: present, writable, user, accessed, dirty (on writable leaves), page size, the software bits
//! 9 to 11 and 52 to 58, no-execute, and a frame number. Cacheability and global bits never are, in an
//! entry that is present. Entries that a guest wrote ([`ValidEntry::written`]) can also be dirty
//! whatever they are, and have bits 59 to 62, which no processor here gives a meaning.

use protocol::flags::MapFlags;
use protocol::layout::LARGE_PAGE_FRAMES;
#[cfg(feature = "xen")]
use protocol::xen::entry::GUEST_KERNEL;

use crate::addr::Mfn;
#[cfg(feature = "xen")]
use crate::frame::typed::Level;

/// Bit 0: the entry counts.
pub const PRESENT: u64 = 1 << 0;
/// Bit 1.
pub const WRITABLE: u64 = 1 << 1;
/// Bit 2: user pages; all of a guest's are.
pub const USER: u64 = 1 << 2;
/// Bit 5, set from the start so that the CPU need not write it.
pub const ACCESSED: u64 = 1 << 5;
/// Bit 6, likewise on writable leaves.
pub const DIRTY: u64 = 1 << 6;
/// Bit 7: a large page, in a second-level entry.
pub const LARGE: u64 = 1 << 7;
/// Bits 3 and 4: how it is cached. In an entry of level 1, so is bit 7.
#[cfg(feature = "xen")]
const UNCACHED: u64 = 3 << 3;
/// Bit 8: the page is shown in all address spaces.
#[cfg(feature = "xen")]
const GLOBAL: u64 = 1 << 8;
/// Bit 63.
pub const NO_EXECUTE: u64 = 1 << 63;

const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;
const FRAME_SHIFT: u32 = 12;
const FRAME_END: u64 = 1 << 40;
const KIND_SHIFT: u32 = 9;
const KIND_MASK: u64 = 3 << KIND_SHIFT;
const TAG_LOW_SHIFT: u32 = 52;
const TAG_HIGH_SHIFT: u32 = 11;

/// What a leaf shows, in software bits 9 and 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafKind {
    /// Memory of the VM itself: counted as a reference of the frame.
    Own,
    /// The time page or a channel: not counted, since it lives as long as the VM.
    Special,
    /// A frame that another VM granted; the tag is the grant's number.
    Grant(u8),
}

impl LeafKind {
    #[inline(always)]
    fn bits(self) -> u64 {
        match self {
            LeafKind::Own => 1 << KIND_SHIFT,
            LeafKind::Special => 2 << KIND_SHIFT,
            LeafKind::Grant(tag) => {
                let tag = u64::from(tag);
                (3 << KIND_SHIFT) | ((tag & 0x7f) << TAG_LOW_SHIFT) | ((tag >> 7) << TAG_HIGH_SHIFT)
            }
        }
    }
}

/// Why a guest's word cannot stand in a page table.
#[cfg(feature = "xen")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadWord {
    /// Bits that the level does not allow, or memory named by a word that is not present.
    Flags,
    /// A frame number behind the end of memory.
    Beyond,
    /// The frame number of all ones.
    NoFrame,
}

/// An entry that may stand in a page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct ValidEntry(u64);

impl ValidEntry {
    /// No page and no table.
    pub const NONE: ValidEntry = ValidEntry(0);

    /// Nothing for a frame number that no entry can hold.
    #[inline(always)]
    fn new(frame: Mfn, bits: u64) -> Option<ValidEntry> {
        (frame.0 < FRAME_END).then_some(ValidEntry((frame.0 << FRAME_SHIFT) | bits))
    }

    /// A small page. Nothing for a frame number that no entry can hold. That `flags` may name
    /// large pages means nothing here.
    #[must_use]
    #[inline(always)]
    pub fn leaf(frame: Mfn, flags: MapFlags, kind: LeafKind) -> Option<ValidEntry> {
        ValidEntry::new(frame, rights(flags) | kind.bits())
    }

    /// A large page of the VM's own memory. Nothing for a frame that no large page can start at.
    #[must_use]
    pub fn large(frame: Mfn, flags: MapFlags) -> Option<ValidEntry> {
        let is_start = frame.0.is_multiple_of(LARGE_PAGE_FRAMES);
        ValidEntry::new(frame, LARGE | rights(flags) | LeafKind::Own.bits()).filter(|_| is_start)
    }

    /// A table of the next level. The leaves below decide what is allowed.
    #[must_use]
    pub fn table(frame: Mfn) -> Option<ValidEntry> {
        ValidEntry::new(frame, PRESENT | WRITABLE | USER | ACCESSED)
    }

    /// A table of the hypervisor, for a root's hypervisor slot: not for ring 3, whatever the
    /// entries below say.
    #[must_use]
    pub fn hypervisor_table(frame: Mfn) -> Option<ValidEntry> {
        ValidEntry::new(frame, PRESENT | WRITABLE | ACCESSED)
    }

    /// The same leaf with other rights. Only rights change; page size, frame and kind stay.
    #[must_use]
    #[inline(always)]
    pub(super) fn with_rights(leaf: Leaf, flags: MapFlags) -> ValidEntry {
        let keep = leaf.0 & !(WRITABLE | DIRTY | NO_EXECUTE);
        ValidEntry(keep | rights(flags))
    }

    /// What stands in a table of a level when a guest wrote `word`, if that may be. The frame is no more
    /// than a number below `frames`: who may map it is decided elsewhere.
    ///
    /// Every page and table is for ring 3; that the guest meant a page of its kernel stays in bit 52.
    /// A page that is shown to all address spaces is not: it would outlive the change to another VM.
    ///
    /// # Errors
    /// What is wrong. A word that is not present must not name memory, since some processors read
    /// through it speculatively.
    #[cfg(feature = "xen")]
    #[inline(always)]
    pub(crate) fn written(level: Level, word: u64, frames: u64) -> Result<ValidEntry, BadWord> {
        let frame = (word & FRAME_MASK) >> FRAME_SHIFT;
        if word & PRESENT == 0 {
            let is_safe = frame == 0 || frame >= frames;
            return if is_safe { Ok(ValidEntry(word)) } else { Err(BadWord::Flags) };
        }
        let (forbidden, adjusted) = match level {
            Level::L1 => {
                let kernel = if word & USER == 0 { GUEST_KERNEL } else { 0 };
                (UNCACHED | LARGE, word & !GLOBAL | USER | kernel)
            }
            Level::L2 | Level::L3 => (UNCACHED | LARGE | GLOBAL, word | USER),
            Level::L4 => (UNCACHED | LARGE | GLOBAL, word | USER | ACCESSED),
        };
        if word & forbidden != 0 {
            return Err(BadWord::Flags);
        }
        if frame >= frames {
            return Err(if frame == FRAME_END.wrapping_sub(1) { BadWord::NoFrame } else { BadWord::Beyond });
        }
        Ok(ValidEntry(adjusted))
    }

    /// A table for a root's hypervisor slot whose pages ring 3 may read.
    #[cfg(feature = "xen")]
    pub(crate) fn shown_table(frame: Mfn) -> Option<ValidEntry> {
        ValidEntry::new(frame, PRESENT | USER | ACCESSED | NO_EXECUTE)
    }

    /// The word that the CPU reads.
    #[must_use]
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// Bits that every guest leaf has, and those of its rights.
#[inline(always)]
const fn rights(flags: MapFlags) -> u64 {
    let write = if flags.contains(MapFlags::WRITE) { WRITABLE | DIRTY } else { 0 };
    let execute = if flags.contains(MapFlags::EXECUTE) { 0 } else { NO_EXECUTE };
    PRESENT | USER | ACCESSED | write | execute
}

/// A stored entry that shows a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf(u64);

/// What a word in a table of level 2 to 4 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Nothing.
    Nothing,
    /// A large page.
    Large(Leaf),
    /// A table of the next level.
    Table(Mfn),
}

impl Stored {
    /// Reads a word of a table of level 2 to 4.
    #[must_use]
    #[inline(always)]
    pub const fn of(word: u64) -> Stored {
        match Leaf::of(word) {
            None => Stored::Nothing,
            Some(leaf) if word & LARGE == 0 => Stored::Table(leaf.frame()),
            Some(leaf) => Stored::Large(leaf),
        }
    }
}

impl Leaf {
    /// Reads a word of a first-level table.
    #[must_use]
    #[inline(always)]
    pub const fn of(word: u64) -> Option<Leaf> {
        if word & PRESENT == 0 { None } else { Some(Leaf(word)) }
    }

    /// The page's (first) frame.
    #[must_use]
    #[inline(always)]
    pub const fn frame(self) -> Mfn {
        Mfn((self.0 & FRAME_MASK) >> FRAME_SHIFT)
    }

    /// Whether it can be written.
    #[must_use]
    #[inline(always)]
    pub const fn is_writable(self) -> bool {
        self.0 & WRITABLE != 0
    }

    /// How it is mapped, without page size.
    #[must_use]
    pub const fn rights(self) -> MapFlags {
        let write = if self.0 & WRITABLE == 0 { MapFlags::empty() } else { MapFlags::WRITE };
        let execute = if self.0 & NO_EXECUTE == 0 { MapFlags::EXECUTE } else { MapFlags::empty() };
        write.union(execute)
    }

    /// Whether it shows a granted frame.
    #[must_use]
    #[inline(always)]
    pub const fn is_grant(self) -> bool {
        self.0 & KIND_MASK == KIND_MASK
    }

    /// What it shows.
    #[must_use]
    #[inline(always)]
    pub fn kind(self) -> LeafKind {
        match (self.0 & KIND_MASK) >> KIND_SHIFT {
            1 => LeafKind::Own,
            2 => LeafKind::Special,
            _ => {
                let low = (self.0 >> TAG_LOW_SHIFT) & 0x7f;
                let high = (self.0 >> TAG_HIGH_SHIFT) & 1;
                LeafKind::Grant(u8::try_from(low | (high << 7)).unwrap_or(0))
            }
        }
    }
}

/// Bits of an entry that a crash report may show: all but the frame number.
#[must_use]
pub const fn reportable(word: u64) -> u64 {
    word & (0xfff | NO_EXECUTE)
}
