//! A set of CPUs as one word.

use crate::addr::{CpuId, MAX_CPUS};

/// Some of the machine's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet(u32);

const _: () = assert!(MAX_CPUS <= 32);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: CpuSet = CpuSet(0);

    /// Whether no CPU is in.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a CPU is in.
    #[must_use]
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 & bit(cpu) != 0
    }

    /// Puts a CPU in.
    pub const fn insert(&mut self, cpu: CpuId) {
        self.0 |= bit(cpu);
    }

    /// Takes a CPU out.
    pub const fn remove(&mut self, cpu: CpuId) {
        self.0 &= !bit(cpu);
    }

    /// The CPUs that are in this set but not in the other.
    #[must_use]
    pub const fn without(self, other: CpuSet) -> CpuSet {
        CpuSet(self.0 & !other.0)
    }

    /// The lowest CPU.
    #[must_use]
    pub const fn first(self) -> Option<CpuId> {
        if self.0 == 0 { None } else { Some(CpuId(self.0.trailing_zeros())) }
    }

    /// The CPUs in ascending order.
    pub fn iter(self) -> impl Iterator<Item = CpuId> {
        let mut rest = self;
        core::iter::from_fn(move || {
            let cpu = rest.first()?;
            rest.remove(cpu);
            Some(cpu)
        })
    }
}

const fn bit(cpu: CpuId) -> u32 {
    1_u32.wrapping_shl(cpu.0)
}
