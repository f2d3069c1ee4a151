//! The security label of a VM: secrecy and integrity, each a level and a set of categories.

/// A point of the lattice (Bell and `LaPadula` 1973 for secrecy, Biba 1977 for integrity).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "manifest", derive(serde::Serialize, serde::Deserialize))]
pub struct Label {
    /// How secret: 0 is public.
    pub secrecy_level: u8,
    /// Compartments of secrecy, one bit each.
    pub secrecy_categories: u64,
    /// How trusted: 0 is untrusted.
    pub integrity_level: u8,
    /// Compartments of integrity, one bit each.
    pub integrity_categories: u64,
}

impl Label {
    /// Whether information may flow from `self` to `to`: secrecy may only grow, integrity only fall.
    #[must_use]
    pub const fn flows_to(self, to: Label) -> bool {
        self.secrecy_level <= to.secrecy_level
            && self.secrecy_categories & !to.secrecy_categories == 0
            && self.integrity_level >= to.integrity_level
            && to.integrity_categories & !self.integrity_categories == 0
    }
}
