//! Policies: what the VMs of a system may do, compiled for the hypervisor.

use protocol::label::Label;
use protocol::manifest::OnCrash;
use protocol::policy::{Hardware, OnFull, Policy, Profile, Role, Subject};
use sha2::{Digest, Sha256};

use crate::error::{Context, Failure};
use crate::system::VmSpec;

/// The policy of a system without a policy file: the labels of the system file, shared time, and
/// operator is who may halt all VMs.
pub fn plain(vms: &[VmSpec]) -> Policy {
    let subject = |vm: &VmSpec| Subject {
        name: vm.name.clone(),
        label: vm.label,
        label_text: numbers(vm.label),
        roles: if vm.on_crash == OnCrash::HaltAll { vec![Role::Operator] } else { Vec::new() },
        trust: None,
        audit_share: 100,
    };
    Policy {
        profile: Profile::Shared,
        hardware: Hardware::Strict,
        on_full: OnFull::DropCounted,
        subjects: vms.iter().map(subject).collect(),
        flows: Vec::new(),
    }
}

/// A label without names: levels, and categories behind them as hexadecimal sets.
fn numbers(label: Label) -> String {
    let side = |level: u8, categories: u64| match categories {
        0 => level.to_string(),
        _ => format!("{level}:{categories:x}"),
    };
    let secrecy = side(label.secrecy_level, label.secrecy_categories);
    format!("secrecy {secrecy}, integrity {}", side(label.integrity_level, label.integrity_categories))
}

/// The policy's bytes and their SHA-256.
pub fn encode(policy: &Policy) -> Result<(Vec<u8>, [u8; 32]), Failure> {
    let bytes = postcard::to_allocvec(policy).context("packing the policy")?;
    let hash = Sha256::digest(&bytes).into();
    Ok((bytes, hash))
}
