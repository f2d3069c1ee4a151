//! The reference monitor: says whether one VM may do something to another, to itself, or to the
//! system.
//!
//! Whatever has such an effect takes a [`Permit`] by value. Only [`Monitor::decide`] makes one, so an
//! effect without a decision does not compile. The rules are those of `protocol::policy::rules`; they
//! are applied once, when the policy is loaded, since neither labels nor rules change afterwards. A
//! decision looks at the policy alone, never at the state of a VM, so a refusal tells nothing about
//! it, and a VM that does not exist answers like one that is kept apart.

use alloc::boxed::Box;

use protocol::policy::{Decision, Policy, Rule, allows, rule};
use protocol::{Status, VmId};

use crate::addr::convert::index;

pub use protocol::policy::Operation;

/// Proof that the policy allowed one operation of one VM on another. Used up by the effect.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit is there to be used by the one effect that it was asked for"]
pub struct Permit {
    operation: Operation,
    subject: VmId,
    object: VmId,
}

impl Permit {
    /// What was allowed.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }

    /// Who may do it.
    #[must_use]
    pub const fn subject(&self) -> VmId {
        self.subject
    }

    /// To whom.
    #[must_use]
    pub const fn object(&self) -> VmId {
        self.object
    }
}

/// A refusal. For the guest it is [`Status::NotPermitted`], whatever the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    /// What was asked for.
    pub operation: Operation,
    /// To whom.
    pub object: VmId,
    /// The rule that does not hold.
    pub rule: Rule,
}

impl From<Denial> for Status {
    #[inline]
    fn from(_: Denial) -> Status {
        Status::NotPermitted
    }
}

/// A loaded policy. It does not change.
#[derive(Debug)]
pub struct Monitor {
    policy: Policy,
    hash: [u8; 32],
    /// For each pair of VMs the operations that the first may do to the second, a bit each.
    allowed: Box<[u32]>,
    /// How many VMs there are.
    vms: u32,
}

impl Monitor {
    /// Applies the rules to every pair of VMs.
    #[must_use]
    pub fn new(policy: Policy, hash: [u8; 32]) -> Monitor {
        let subjects = &policy.subjects;
        let pairs = subjects.iter().flat_map(|subject| subjects.iter().map(move |object| (subject, object)));
        let allowed = pairs.map(|(subject, object)| {
            let operations = Operation::ALL.iter();
            let held = operations.filter(|operation| allows(subject, **operation, object) != Decision::Refused);
            held.fold(0, |set, operation| set | operation.bit())
        });
        let allowed = allowed.collect();
        let vms = u32::try_from(subjects.len()).unwrap_or(0);
        Monitor { policy, hash, allowed, vms }
    }

    /// Decides whether `subject` may do `operation` to `object`.
    ///
    /// # Errors
    /// The rule that does not hold, also when one of the VMs does not exist.
    #[inline]
    pub fn decide(&self, subject: VmId, operation: Operation, object: VmId) -> Result<Permit, Denial> {
        let place = u64::from(subject.0).wrapping_mul(self.vms.into()).wrapping_add(object.0.into());
        let set = self.allowed.get(index(place)).filter(|_| object.0 < self.vms);
        if set.is_some_and(|set| set & operation.bit() != 0) {
            Ok(Permit { operation, subject, object })
        } else {
            Err(Denial { operation, object, rule: rule(operation) })
        }
    }

    /// What was loaded.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether any two VMs have different labels.
    #[must_use]
    pub fn is_labelled(&self) -> bool {
        self.policy.subjects.windows(2).any(|pair| matches!(pair, [one, next] if one.label != next.label))
    }

    /// The first half of the hash, for people.
    #[must_use]
    pub fn short_hash(&self) -> u128 {
        let [first, _] = self.hash.as_chunks().0 else { return 0 };
        u128::from_be_bytes(*first)
    }

    /// The SHA-256 of the policy's bytes.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

#[cfg(test)]
pub(crate) mod tests;
