//! What is known of one machine frame, packed into the 64 bits that one compare-exchange covers.

use protocol::VmId;

/// Bits of the reference count.
pub(super) const REFERENCE_BITS: u32 = 24;
/// Bits of the number.
pub(super) const NUMBER_BITS: u32 = 29;
/// Bits of the owner.
const OWNER_BITS: u32 = 7;

const _: () = assert!(REFERENCE_BITS + NUMBER_BITS + OWNER_BITS + 4 == u64::BITS);

const NUMBER_SHIFT: u32 = REFERENCE_BITS;
const OWNER_SHIFT: u32 = NUMBER_SHIFT + NUMBER_BITS;

/// The most references that a frame can have; one more is refused. Small in unit tests, so that
/// they reach it.
pub const MAX_REFERENCES: u64 = if cfg!(test) { 255 } else { (1 << REFERENCE_BITS) - 1 };
/// One above the greatest number of a frame, and so the most frames of a VM or a machine.
pub const NUMBER_END: u64 = 1 << NUMBER_BITS;

/// What a frame is used for. It changes only while nothing refers to the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Firmware, devices, the hypervisor's own, or no memory at all: never handed out. The record
    /// of all zero bits, so that a fresh table hands out nothing.
    Reserved = 0,
    /// Memory that nobody has.
    Free = 1,
    /// In a VM's pool, all zero; the number is the next frame of the pool.
    Pool = 2,
    /// A VM's memory; the number is the guest frame number.
    Data = 3,
    /// A page table of a VM.
    Table = 4,
    /// A part of the list that says which machine frame each guest frame is.
    FrameList = 5,
    /// A page that a VM reads and the hypervisor writes.
    Shared = 6,
    /// A channel's region.
    Channel = 7,
    /// Kept for a VM that is down, so that it can be built again; all zero.
    Kept = 8,
    /// Memory of a VM that writes its own page tables; the number is what it is used as (`typed`).
    Paged = 9,
}

/// Owner and kind of a frame as they stand in a record, worked out once for many comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class(u64);

impl Class {
    /// Free memory.
    pub const FREE: Class = Class::new(None, Kind::Free);
    /// Not to be handed out.
    pub const RESERVED: Class = Class::new(None, Kind::Reserved);

    /// The class of a VM's frames of a kind; without a VM they are nobody's or the hypervisor's.
    #[must_use]
    #[expect(clippy::as_conversions, reason = "const code: both numbers widen to u64")]
    pub const fn new(owner: Option<VmId>, kind: Kind) -> Class {
        let owner = match owner {
            None => 0,
            Some(VmId(vm)) => (vm as u64).wrapping_add(1) & ((1 << OWNER_BITS) - 1),
        };
        Class(((kind as u64) << OWNER_BITS) | owner)
    }
}

/// The packed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record(pub(crate) u64);

impl Record {
    /// A record without references.
    pub(crate) const fn of(class: Class, number: u64) -> Record {
        Record((class.0 << OWNER_SHIFT) | ((number & (NUMBER_END - 1)) << NUMBER_SHIFT))
    }

    /// Whether owner and kind are these, whatever number and references.
    #[inline(always)]
    pub(crate) const fn is(self, class: Class) -> bool {
        self.0 >> OWNER_SHIFT == class.0
    }

    /// Whether a VM owns the frame.
    #[cfg(feature = "xen")]
    pub(super) const fn is_of(self, vm: VmId) -> bool {
        let owner = (1 << OWNER_BITS) - 1;
        (self.0 >> OWNER_SHIFT) & owner == Class::new(Some(vm), Kind::Reserved).0 & owner
    }

    pub(super) const fn number(self) -> u64 {
        (self.0 >> NUMBER_SHIFT) & (NUMBER_END - 1)
    }

    #[inline(always)]
    pub(crate) const fn references(self) -> u64 {
        self.0 & ((1 << REFERENCE_BITS) - 1)
    }

    #[cfg(feature = "recount")]
    pub(super) const fn owner(self) -> usize {
        crate::addr::convert::index((self.0 >> OWNER_SHIFT) & ((1 << OWNER_BITS) - 1))
    }

    #[cfg(feature = "recount")]
    pub(super) const fn kind(self) -> Kind {
        match self.0 >> (OWNER_SHIFT + OWNER_BITS) {
            0 => Kind::Reserved,
            1 => Kind::Free,
            2 => Kind::Pool,
            3 => Kind::Data,
            4 => Kind::Table,
            5 => Kind::FrameList,
            6 => Kind::Shared,
            7 => Kind::Channel,
            8 => Kind::Kept,
            _ => Kind::Paged,
        }
    }
}
