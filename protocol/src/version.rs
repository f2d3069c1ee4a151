//! The wire version: what two sides must agree on, apart from any crate version.

/// A version of the ABI. Within one `major`, calls that a guest makes keep their meaning; `minor`
/// counts additions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "manifest", derive(serde::Serialize, serde::Deserialize))]
pub struct WireVersion {
    /// Changes when an existing call changes its meaning.
    pub major: u16,
    /// Changes when a call, flag or field is added.
    pub minor: u16,
}

/// The version that this crate describes.
pub const CURRENT: WireVersion = WireVersion { major: 1, minor: 0 };

impl WireVersion {
    /// Whether a hypervisor of version `self` can serve a guest that was built for `guest`.
    #[must_use]
    pub const fn serves(self, guest: WireVersion) -> bool {
        self.major == guest.major && self.minor >= guest.minor
    }

    /// The version as one number: `major` in bits 16..32, `minor` in bits 0..16.
    #[must_use]
    pub fn packed(self) -> u64 {
        (u64::from(self.major) << 16) | u64::from(self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::WireVersion;

    #[test]
    fn a_newer_minor_serves_an_older_guest_but_not_the_other_way() {
        let old = WireVersion { major: 1, minor: 0 };
        let new = WireVersion { major: 1, minor: 3 };
        assert!(new.serves(old));
        assert!(!old.serves(new));
        assert!(!WireVersion { major: 2, minor: 0 }.serves(old));
    }
}
