//! The reference monitor: one pure function that says whether one VM may touch another.
//!
//! Whatever reaches another VM takes a [`Permit`] by value. Only [`decide`] makes one, so an effect
//! without a decision does not compile. Decisions look at labels alone, never at the state of the
//! other VM, so a refusal tells nothing about it. Rules: Bell and `LaPadula` (1973) for secrecy, Biba
//! (1977) for integrity; writing needs equal labels, since a blind write up could not report errors
//! without a flow back.
//!
//! Not here: who may control VMs (roles), audit. Labels do not change while a VM exists.

use protocol::VmId;
use protocol::label::Label;
use protocol::status::Status;

/// One of the two VMs of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// Which VM.
    pub vm: VmId,
    /// Its label.
    pub label: Label,
}

/// What the subject wants to do to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Make a port of the object pending, telling nothing back.
    EventSend,
    /// Share a region and a port pair, both ways.
    ChannelUse,
    /// Let the object read a frame of the subject.
    GrantCreateRead,
    /// Let the object read and write a frame of the subject.
    GrantCreateWrite,
    /// Map a frame of the object for reading.
    GrantMapRead,
    /// Map a frame of the object for reading and writing.
    GrantMapWrite,
    /// Copy out of a frame of the object.
    GrantCopyFrom,
    /// Copy into a frame of the object.
    GrantCopyTo,
}

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

/// Decides whether `subject` may do `operation` to `object`.
///
/// # Errors
/// `NotPermitted` when information would flow against the lattice; the caller can only be given another
/// label in the system file.
pub fn decide(subject: Party, operation: Operation, object: Party) -> Result<Permit, Status> {
    let allowed = match operation {
        Operation::EventSend | Operation::GrantCreateRead => subject.label.flows_to(object.label),
        Operation::GrantMapRead | Operation::GrantCopyFrom => object.label.flows_to(subject.label),
        Operation::ChannelUse | Operation::GrantCreateWrite | Operation::GrantMapWrite | Operation::GrantCopyTo => {
            subject.label == object.label
        }
    };
    if allowed { Ok(Permit { operation, subject: subject.vm, object: object.vm }) } else { Err(Status::NotPermitted) }
}

#[cfg(test)]
mod tests;
