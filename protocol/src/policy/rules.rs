//! The rules: Bell and `LaPadula` (1973) for secrecy, Biba (1977) for integrity. Writing needs equal
//! labels, since a blind write up could not report errors without a flow back.

use serde::{Deserialize, Serialize};

use super::{Subject, Trust};

/// Declares an enum whose values have names in text, and the list of them.
macro_rules! named {
    ($(#[doc = $type_doc:literal])* $Type:ident { $($(#[doc = $doc:literal])* $name:ident = $text:literal,)* }) => {
        $(#[doc = $type_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $Type {
            $($(#[doc = $doc])* $name,)*
        }

        impl $Type {
            /// All of them, in order.
            pub const ALL: &[$Type] = &[$($Type::$name,)*];

            /// Its name in files and reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $($Type::$name => $text,)*
                }
            }
        }
    };
}

named! {
    /// What a VM can do to another VM, to itself, or to the system. Append only.
    Operation {
        /// Make a port of the object pending, telling nothing back.
        EventSend = "event-send",
        /// Share a region and a port pair, both ways.
        ChannelUse = "channel-use",
        /// Let the object read a frame of the subject.
        GrantCreateRead = "grant-create-read",
        /// Let the object read and write a frame of the subject.
        GrantCreateWrite = "grant-create-write",
        /// Map a frame of the object for reading.
        GrantMapRead = "grant-map-read",
        /// Map a frame of the object for reading and writing.
        GrantMapWrite = "grant-map-write",
        /// Copy out of a frame of the object.
        GrantCopyFrom = "grant-copy-from",
        /// Copy into a frame of the object.
        GrantCopyTo = "grant-copy-to",
        /// Use the memory of the object as one's own.
        MemoryUse = "memory-use",
        /// Write on the console of the object.
        ConsoleWrite = "console-write",
        /// Read what was typed for the object.
        ConsoleRead = "console-read",
        /// Read the time of the object.
        TimeRead = "time-read",
        /// Halt all VMs by one's own crash.
        HaltAll = "halt-all",
        /// Read the audit log.
        AuditRead = "audit-read",
        /// Replace the policy.
        PolicyLoad = "policy-load",
    }
}

named! {
    /// What a VM may do for the system as a whole.
    Role {
        /// Runs the system.
        Operator = "operator",
        /// Reads what happened. Never together with [`Role::SecurityAdministrator`].
        Auditor = "auditor",
        /// Sets the policy.
        SecurityAdministrator = "security-administrator",
    }
}

impl Operation {
    /// Its bit in a set of operations.
    #[must_use]
    #[expect(clippy::as_conversions, reason = "const code: the number of a variant, below 32")]
    pub const fn bit(self) -> u32 {
        1_u32.wrapping_shl(self as u32)
    }
}

const _: () = assert!(Operation::ALL.len() <= 32);

/// When an operation is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Both labels are equal: information may flow both ways.
    Equal,
    /// Information may flow from the subject to the object.
    SubjectToObject,
    /// Information may flow from the object to the subject.
    ObjectToSubject,
    /// Subject and object are the same VM.
    Own,
    /// The subject holds the role.
    Role(Role),
}

/// The rule of an operation. One without a rule does not compile.
#[must_use]
pub const fn rule(operation: Operation) -> Rule {
    match operation {
        Operation::EventSend | Operation::GrantCreateRead => Rule::SubjectToObject,
        Operation::GrantMapRead | Operation::GrantCopyFrom => Rule::ObjectToSubject,
        Operation::ChannelUse | Operation::GrantCreateWrite | Operation::GrantMapWrite | Operation::GrantCopyTo => {
            Rule::Equal
        }
        Operation::MemoryUse | Operation::ConsoleWrite | Operation::ConsoleRead | Operation::TimeRead => Rule::Own,
        Operation::HaltAll => Rule::Role(Role::Operator),
        Operation::AuditRead => Rule::Role(Role::Auditor),
        Operation::PolicyLoad => Rule::Role(Role::SecurityAdministrator),
    }
}

/// What was decided, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// The rule of the operation holds.
    ByRule,
    /// It does not, but one of the two is trusted with the operation and the other is in its range.
    ByTrust,
    /// Neither.
    Refused,
}

/// Decides whether `subject` may do `operation` to `object`. Nothing but the policy is looked at,
/// never the state of a VM, so a refusal tells nothing about it.
#[must_use]
pub fn allows(subject: &Subject, operation: Operation, object: &Subject) -> Decision {
    let rule = rule(operation);
    let holds = match rule {
        Rule::Equal => subject.label == object.label,
        Rule::SubjectToObject => subject.label.flows_to(object.label),
        Rule::ObjectToSubject => object.label.flows_to(subject.label),
        Rule::Own => subject.name == object.name,
        Rule::Role(role) => subject.roles.contains(&role),
    };
    // Trust widens what labels allow, never whose things are one's own or who holds a role.
    let by_label = !matches!(rule, Rule::Own | Rule::Role(_));
    let trusts =
        |one: &Subject, other: &Subject| one.trust.as_ref().is_some_and(|trust| trust.covers(operation, other));
    match (holds, by_label && (trusts(subject, object) || trusts(object, subject))) {
        (true, _) => Decision::ByRule,
        (false, true) => Decision::ByTrust,
        (false, false) => Decision::Refused,
    }
}

impl Trust {
    /// Whether the operation is listed and the label of the other is in the range.
    fn covers(&self, operation: Operation, other: &Subject) -> bool {
        self.operations.contains(&operation) && self.low.flows_to(other.label) && other.label.flows_to(self.high)
    }
}
