//! What is known of one machine frame, packed into the 64 bits that one compare-exchange covers.

use protocol::VmId;

/// Bits of the reference count.
const REFERENCE_BITS: u32 = 24;
/// Bits of the number.
const NUMBER_BITS: u32 = 29;
/// Bits of the owner.
const OWNER_BITS: u32 = 7;

const _: () = assert!(REFERENCE_BITS + NUMBER_BITS + OWNER_BITS + 4 == u64::BITS);

const NUMBER_SHIFT: u32 = REFERENCE_BITS;
const OWNER_SHIFT: u32 = NUMBER_SHIFT + NUMBER_BITS;
const KIND_SHIFT: u32 = OWNER_SHIFT + OWNER_BITS;

/// The most references that a frame can have; one more is refused. Small in unit tests, so that
/// they reach it.
pub const MAX_REFERENCES: u64 = if cfg!(test) { 255 } else { (1 << REFERENCE_BITS) - 1 };
/// One above the greatest number of a frame, and so the most frames of a VM or a machine.
pub const NUMBER_END: u64 = 1 << NUMBER_BITS;

/// Who a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// The hypervisor.
    Hypervisor,
    /// A VM; its quota paid for the frame.
    Vm(VmId),
}

impl Owner {
    const fn number(self) -> u64 {
        match self {
            Owner::Nobody => 0,
            Owner::Hypervisor => 1,
            Owner::Vm(VmId(vm)) => widen(vm).wrapping_add(2) & ((1 << OWNER_BITS) - 1),
        }
    }
}

/// Declares the kinds with their numbers in a record.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $value:literal,)*) => {
        /// What a frame is used for. It changes only while nothing refers to the frame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $($(#[doc = $doc])* $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            const fn number(self) -> u64 {
                match self { $(Kind::$name => $value,)* }
            }
        }
    };
}

kinds! {
    /// Firmware, devices, the hypervisor's image, or no memory at all: never handed out. The
    /// record of all zero bits, so that a fresh table hands out nothing.
    Reserved = 0,
    /// Memory that nobody has.
    Free = 1,
    /// The hypervisor's own.
    Hypervisor = 2,
    /// In a VM's pool, all zero; the number is the next frame of the pool.
    Pool = 3,
    /// A VM's memory; the number is the guest frame number.
    Data = 4,
    /// A page table of a VM.
    Table = 5,
    /// A part of the list that says which machine frame each guest frame is.
    FrameList = 6,
    /// A page that a VM reads and the hypervisor writes.
    Shared = 7,
    /// A channel's region.
    Channel = 8,
    /// Kept for a VM that is down, so that it can be built again.
    Kept = 9,
}

/// Owner and kind of a frame as they stand in a record, worked out once for many comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class(u64);

impl Class {
    /// The class of an owner's frames of a kind.
    #[must_use]
    pub const fn new(owner: Owner, kind: Kind) -> Class {
        Class((kind.number() << OWNER_BITS) | owner.number())
    }
}

/// Owner, kind and number of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Who it belongs to.
    pub owner: Owner,
    /// What it is used for.
    pub kind: Kind,
    /// What the kind says; below [`NUMBER_END`].
    pub number: u64,
}

impl Use {
    /// A use whose kind gives its number no meaning.
    #[must_use]
    pub const fn new(owner: Owner, kind: Kind) -> Use {
        Use { owner, kind, number: 0 }
    }
}

/// The packed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record(pub(super) u64);

impl Record {
    /// A record without references.
    pub(super) const fn of(usage: Use) -> Record {
        Record(
            (usage.kind.number() << KIND_SHIFT)
                | (usage.owner.number() << OWNER_SHIFT)
                | ((usage.number & (NUMBER_END - 1)) << NUMBER_SHIFT),
        )
    }

    /// Whether owner and kind are these, whatever number and references.
    #[inline(always)]
    pub(super) const fn is(self, class: Class) -> bool {
        self.0 >> OWNER_SHIFT == class.0
    }

    pub(super) const fn number(self) -> u64 {
        (self.0 >> NUMBER_SHIFT) & (NUMBER_END - 1)
    }

    #[inline(always)]
    pub(super) const fn references(self) -> u64 {
        self.0 & ((1 << REFERENCE_BITS) - 1)
    }
}

#[expect(clippy::as_conversions, reason = "const code: u32 widens to u64")]
const fn widen(value: u32) -> u64 {
    value as u64
}
