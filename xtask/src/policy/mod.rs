//! Policies: what the VMs of a system may do, compiled for the hypervisor.
//!
//! `read` gives the keys of a policy file their meaning, `compile` fits it to the VMs of a system and
//! makes the bytes canonical, `flow` and `explain` say what follows from it, `graph` draws it. The
//! rules themselves stand in `protocol::policy`, for the hypervisor and for everything here.

pub mod compile;
pub mod explain;
pub mod flow;
pub mod graph;
pub mod read;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use protocol::manifest::OnCrash;
use protocol::policy::{Hardware, OnFull, Policy, Profile, Role, Subject};
use sha2::{Digest, Sha256};

use crate::error::{Context, Failure, codes};
use crate::system::VmSpec;
use crate::system::document::{ConfigError, Placed, Source};
use crate::tree;
use compile::compile;
use read::{Names, PolicyFile};

/// A policy and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// What the hypervisor gets.
    pub policy: Policy,
    /// Its file; none for the policy that a system has by default.
    pub file: Option<PolicyFile>,
}

impl Default for Compiled {
    fn default() -> Compiled {
        let policy = Policy {
            profile: Profile::Shared,
            hardware: Hardware::Strict,
            on_full: OnFull::DropCounted,
            subjects: Vec::new(),
            flows: Vec::new(),
        };
        Compiled { policy, file: None }
    }
}

impl Compiled {
    /// Whether a `[[flow]]` leads from one VM to another.
    pub fn knows_flow(&self, from: &str, to: &str) -> bool {
        let mut flows = self.file.iter().flat_map(|file| &file.flows);
        flows.any(|flow| flow.ends[0] == from && flow.ends[1] == to)
    }

    /// The names of levels and categories; none by default.
    pub fn names(&self) -> Names {
        self.file.as_ref().map(|file| file.names.clone()).unwrap_or_default()
    }
}

/// The policy of a system: that of its policy file, or the one by default.
pub fn of(source: Source<'_>, vms: &[VmSpec], file: Option<Placed<PathBuf>>) -> Result<Compiled, Vec<ConfigError>> {
    let Some(path) = file else {
        return Ok(plain(vms));
    };
    let labels = vms.iter().filter_map(|vm| vm.label.as_ref());
    let errors: Vec<ConfigError> = labels
        .map(|label| source.error(codes::POLICY_LABEL_TWICE, &label.place, "a label beside a policy file"))
        .collect();
    if !errors.is_empty() {
        return Err(errors);
    }
    let text = std::fs::read_to_string(&path.value).map_err(|error| {
        let what = format!("`{}`: {error}", tree::shown(&path.value));
        vec![source.error(codes::POLICY_UNREADABLE, &path.place, what)]
    })?;
    let file = read::read(Source { file: &tree::shown(&path.value), text: &text })?;
    let names: Vec<String> = vms.iter().map(|vm| vm.name.clone()).collect();
    Ok(Compiled { policy: compile(&file, &names)?, file: Some(file) })
}

/// A policy file without a system: for the VMs that it names, in alphabetical order.
pub fn alone(path: &Path) -> Result<Compiled, Vec<ConfigError>> {
    let shown = tree::shown(path);
    let text = std::fs::read_to_string(path).map_err(|error| {
        let source = Source { file: &shown, text: "" };
        vec![source.error(codes::POLICY_UNREADABLE, &Default::default(), error.to_string())]
    })?;
    let file = read::read(Source { file: &shown, text: &text })?;
    let mut names: Vec<String> = file.vms.iter().map(|vm| vm.name.value.clone()).collect();
    names.sort();
    names.dedup();
    Ok(Compiled { policy: compile(&file, &names)?, file: Some(file) })
}

/// The policy of a system without a policy file: the labels of the system file, shared time, and
/// operator is who may halt all VMs.
fn plain(vms: &[VmSpec]) -> Compiled {
    let subject = |vm: &VmSpec| {
        let label = vm.label.as_ref().map(|label| label.value).unwrap_or_default();
        Subject {
            name: vm.name.clone(),
            label,
            label_text: Names::default().short(label),
            roles: if vm.on_crash == OnCrash::HaltAll { vec![Role::Operator] } else { Vec::new() },
            trust: None,
            audit_share: 100,
        }
    };
    let Compiled { policy, file } = Compiled::default();
    Compiled { policy: Policy { subjects: vms.iter().map(subject).collect(), ..policy }, file }
}

/// The policy's bytes and their SHA-256.
pub fn encode(policy: &Policy) -> Result<(Vec<u8>, [u8; 32]), Failure> {
    let bytes = postcard::to_allocvec(policy).context("packing the policy")?;
    let hash = Sha256::digest(&bytes).into();
    Ok((bytes, hash))
}
