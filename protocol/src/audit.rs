//! The audit log: what happened between VMs, in records that form a chain.
//!
//! A record holds the SHA-256 hash of the one before it, so that none can be changed, left out or put
//! in without a break. Sequence numbers have no gap. What a VM caused beyond its share of the log is
//! counted, not recorded, and the count stands in its next record.

use crate::shared::AuditRecord;

/// Declares the kinds, append-only.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What a record tells.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum AuditKind { $($(#[doc = $doc])* $name,)* }

        impl AuditKind {
            /// All kinds, by ascending number.
            pub const ALL: &'static [AuditKind] = &[$(AuditKind::$name,)*];

            /// The number in [`AuditRecord::kind`].
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(AuditKind::$name => $number,)* }
            }

            /// The kind of a number, if there is one.
            #[must_use]
            pub const fn from_number(number: u16) -> Option<AuditKind> {
                match number { $($number => Some(AuditKind::$name),)* _ => None }
            }

            /// Its name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(AuditKind::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// The log begins. Both operands: the first 16 bytes of the policy's hash.
    Begin = 1, "begin";
    /// A VM started. Operand 0: how often it was started before.
    VmStarted = 2, "vm-started";
    /// A VM ended by its own call. Operand 0: its exit code.
    VmEnded = 3, "vm-ended";
    /// A VM died. Operand 0: the instruction pointer.
    VmCrashed = 4, "vm-crashed";
    /// All VMs are halted, by the action that the subject's crash asks for.
    HaltAll = 5, "halt-all";
    /// The policy refused an operation. Operand 0: the call's number.
    Denied = 6, "denied";
    /// So many more operations were refused, within about a second, than stand in full.
    DeniedMore = 7, "denied-more";
    /// A grant to a VM of another label. Operand 0: the grant; 1: 1 when for writing.
    GrantAcrossLabels = 8, "grant-across-labels";
    /// A mapped grant of a VM of another label. Operand 0: the grant; 1: 1 when for writing.
    MapAcrossLabels = 9, "map-across-labels";
    /// A quota of the VM was used up, for the first time since it started. Operand 0: the call's number.
    QuotaHit = 10, "quota-hit";
    /// The secure attention key.
    Attention = 11, "attention";
    /// The console's input went to the object.
    InputSwitched = 12, "input-switched";
    /// A channel between VMs of different labels was set up.
    ChannelAcrossLabels = 13, "channel-across-labels";
    /// A VM was ended by the person at the console.
    VmEndedAtConsole = 14, "vm-ended-at-console";
}

/// Nobody: the subject of what the hypervisor did by itself, the object of what concerns no VM.
pub const NOBODY: u32 = u32::MAX;
/// [`AuditRecord::operation`] of a record that is about no operation of the policy.
pub const NO_OPERATION: u16 = u16::MAX;
/// Records that `audit_read` returns at most.
pub const READ_AT_ONCE: u64 = 32;
/// Denials of a VM within about a second that are recorded in full; further ones are counted.
pub const IN_FULL: u32 = 10;

/// The hash that the first record holds in place of its predecessor's.
pub const FIRST: [u8; 32] = [0; 32];

impl AuditRecord {
    /// What it tells, if this version knows it.
    #[must_use]
    pub const fn meaning(&self) -> Option<AuditKind> {
        AuditKind::from_number(self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::AuditKind;

    #[test]
    fn kinds_are_consecutive_and_come_back_from_their_numbers() {
        for (number, kind) in (1..).zip(AuditKind::ALL) {
            assert_eq!(kind.number(), number);
            assert_eq!(AuditKind::from_number(number), Some(*kind));
        }
        assert_eq!(AuditKind::from_number(0), None);
    }
}
