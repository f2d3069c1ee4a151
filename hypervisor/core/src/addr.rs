//! Machine addresses, frame numbers and CPU numbers as types that cannot be mixed with a guest's.

use core::fmt;

use protocol::layout::PAGE_SIZE;

/// A machine frame number. Never shown to a guest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Mfn(pub u64);

/// A machine address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Phys(pub u64);

/// A physical CPU, numbered from 0 in the order in which they came up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct CpuId(pub u32);

/// CPUs that the hypervisor uses; more stay off.
pub const MAX_CPUS: usize = 16;

impl Mfn {
    /// The frame that holds an address.
    #[must_use]
    pub const fn containing(address: Phys) -> Mfn {
        Mfn(address.0 / PAGE_SIZE)
    }

    /// The address of the frame's first byte.
    #[must_use]
    pub const fn start(self) -> Phys {
        Phys(self.0.wrapping_mul(PAGE_SIZE))
    }

    /// The frame `count` frames later.
    #[must_use]
    pub const fn offset(self, count: u64) -> Mfn {
        Mfn(self.0.wrapping_add(count))
    }
}

impl fmt::Debug for Mfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mfn {:#x}", self.0)
    }
}

impl fmt::Debug for Phys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phys {:#x}", self.0)
    }
}

/// The one widening that safe code needs and `From` does not offer.
pub mod convert {
    /// A `u64` as an index. The hypervisor runs on 64-bit machines only.
    #[must_use]
    #[expect(clippy::as_conversions, reason = "usize is 64 bits wide, asserted below")]
    pub const fn index(value: u64) -> usize {
        value as usize
    }

    /// An index or length as a `u64`.
    #[must_use]
    #[expect(clippy::as_conversions, reason = "usize is 64 bits wide, asserted below")]
    pub const fn wide(value: usize) -> u64 {
        value as u64
    }

    const _: () = assert!(size_of::<usize>() == size_of::<u64>());
}
