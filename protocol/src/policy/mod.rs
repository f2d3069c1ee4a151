//! The compiled policy of a system, and the rules that no policy can change.
//!
//! `xtask` compiles a policy file into a [`Policy`]; the hypervisor parses it once, at start-up. Two
//! files that mean the same compile to the same bytes: everything that has no order of its own is
//! sorted. [`rule`] is the whole table of rules; [`allows`] applies it.

mod rules;

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::VmId;
use crate::label::Label;

pub use rules::{Decision, Operation, Role, Rule, allows, rule};

/// Everything that may differ from system to system. How operations follow from labels is not here:
/// that is the same for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How CPU time is divided.
    pub profile: Profile,
    /// What is asked of the machine when labels differ.
    pub hardware: Hardware,
    /// What happens when the audit log is full.
    pub on_full: OnFull,
    /// The VMs, each with its name; a [`VmId`] is an index, as in the manifest.
    pub subjects: Vec<Subject>,
    /// One-way channels between different labels that the policy knows of, sender first, ascending.
    pub flows: Vec<[VmId; 2]>,
}

/// How CPU time is divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// Work-conserving: whoever is ready gets what others leave.
    Shared,
    /// Fixed time partitions, so that no VM can tell what another does by how fast itself runs.
    Strict(Schedule),
}

/// The major frame: its slots follow each other for ever, on all CPUs together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The slots in order; each VM is in one at least.
    pub slots: Vec<Slot>,
}

/// A part of the major frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// How long it is, from [`limit::LEAST_SLOT_NS`] to [`limit::MOST_SLOT_NS`].
    pub duration_ns: u64,
    /// The VMs that run in it, ascending, all of one label. With none, only the hypervisor runs.
    pub vms: Vec<VmId>,
}

/// What is asked of the machine when the VMs have different labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hardware {
    /// NX, SMEP, SMAP and UMIP, or the system is refused.
    Strict,
    /// What the hypervisor needs at all.
    Degraded,
}

/// What happens when a VM causes a record and its share of the audit log is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFull {
    /// The record is lost, and counted.
    DropCounted,
    /// The VM is ended.
    HaltOffender,
}

/// What the policy says of one VM, which is a subject when it acts and an object when others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The name of its VM.
    pub name: String,
    /// Its label.
    pub label: Label,
    /// The label in words, for people.
    pub label_text: String,
    /// The roles that it holds, ascending.
    pub roles: Vec<Role>,
    /// What it is trusted with beyond its label.
    pub trust: Option<Trust>,
    /// Its share of the audit log against other VMs.
    pub audit_share: u32,
}

/// A range of labels within which a VM may take part in some operations whatever its own label says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The lowest label of the others.
    pub low: Label,
    /// The highest.
    pub high: Label,
    /// The operations, ascending; as the one who acts and as the one who is reached.
    pub operations: Vec<Operation>,
}

/// Bounds that a policy keeps.
pub mod limit {
    /// VMs that are trusted beyond their label.
    pub const TRUSTED: u32 = 3;
    /// Bytes of a label in words.
    pub const LABEL_TEXT: u32 = 63;
    /// Slots of a major frame.
    pub const SLOTS: u32 = 64;
    /// The shortest slot in nanoseconds.
    pub const LEAST_SLOT_NS: u64 = 500_000;
    /// The longest slot in nanoseconds.
    pub const MOST_SLOT_NS: u64 = 1_000_000_000;
    /// The largest share of the audit log.
    pub const AUDIT_SHARE: u32 = 10_000;
}
