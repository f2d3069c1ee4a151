//! Compiles a policy file for the VMs of a system, and refuses what does not fit together.
//!
//! What comes out is canonical: whatever has no order of its own is sorted, so two files that mean
//! the same give the same bytes.

use protocol::VmId;
use protocol::label::Label;
use protocol::policy::{
    Decision, Operation, Policy, Profile, Role, Rule, Schedule, Slot, Subject, Trust, allows, limit, rule,
};

use super::flow;
use super::read::{Names, PolicyFile};
use crate::error::codes::{self, Code};
use crate::system::document::{ConfigError, Place, Placed};

/// The policy for VMs with the given names, in this order.
pub fn compile(file: &PolicyFile, vms: &[String]) -> Result<Policy, Vec<ConfigError>> {
    let mut work = Work { file, vms, errors: Vec::new() };
    work.check_names();
    let subjects: Vec<Subject> = vms.iter().filter_map(|vm| work.subject(vm)).collect();
    work.check_trust();
    let flows = work.flows();
    let profile = work.profile(&subjects);
    let policy = Policy { profile, hardware: file.hardware, on_full: file.on_full, subjects, flows };
    if work.errors.is_empty() {
        work.check_flows(&policy);
        work.check_expected(&policy);
    }
    if work.errors.is_empty() { Ok(policy) } else { Err(work.errors) }
}

struct Work<'a> {
    file: &'a PolicyFile,
    vms: &'a [String],
    errors: Vec<ConfigError>,
}

impl Work<'_> {
    fn refuse(&mut self, code: &'static Code, place: &Place, what: String) {
        self.errors.push(self.file.error(code, place, what));
    }

    /// The number of a VM of the system.
    fn number(&mut self, name: &str, place: &Place) -> Option<VmId> {
        let position = self.vms.iter().position(|vm| vm == name);
        if position.is_none() {
            let what = format!("the system has no VM `{name}`; it has: {}", self.vms.join(", "));
            self.refuse(codes::POLICY_VM, place, what);
        }
        position.and_then(|position| u32::try_from(position).ok()).map(VmId)
    }

    /// Checks that policy and system have the same VMs.
    fn check_names(&mut self) {
        for (position, vm) in self.file.vms.iter().enumerate() {
            self.number(&vm.name.value, &vm.name.place);
            let earlier = self.file.vms.iter().take(position);
            if let Some(first) = earlier.map(|vm| &vm.name).find(|first| first.value == vm.name.value) {
                let what = format!("`{}` stands twice, first in line {}", vm.name.value, first.place.line);
                self.refuse(codes::DUPLICATE, &vm.name.place, what);
            }
        }
    }

    /// What the policy says of one VM of the system.
    fn subject(&mut self, name: &str) -> Option<Subject> {
        let Some(entry) = self.file.vms.iter().find(|vm| vm.name.value == name) else {
            let what = format!("the VM `{name}` of the system has no [[vm]] here, so no label");
            self.refuse(codes::POLICY_VM, &Place::default(), what);
            return None;
        };
        let mut roles: Vec<Role> = entry.roles.iter().map(|role| role.value).collect();
        roles.sort_unstable();
        roles.dedup();
        if let Some(role) = entry.roles.first()
            && [Role::Auditor, Role::SecurityAdministrator].iter().all(|role| roles.contains(role))
        {
            let what = format!("`{name}` is auditor and security administrator");
            self.refuse(codes::POLICY_ROLES, &role.place, what);
        }
        let trust = self.file.trusted.iter().find(|entry| entry.vm.value == name).map(|entry| {
            let [low, high] = entry.range;
            let mut operations: Vec<Operation> = entry.operations.iter().map(|operation| operation.value).collect();
            operations.sort_unstable();
            operations.dedup();
            Trust { low, high, operations }
        });
        Some(Subject {
            name: name.to_owned(),
            label: entry.label,
            label_text: self.file.names.short(entry.label),
            roles,
            trust,
            audit_share: entry.audit_share,
        })
    }

    /// Checks the trusted VMs.
    fn check_trust(&mut self) {
        let file = self.file;
        if let Some(entry) = file.trusted.get(limit::TRUSTED as usize) {
            let what = format!("{} VMs are trusted, at most {} can be", file.trusted.len(), limit::TRUSTED);
            self.refuse(codes::POLICY_TRUST, &entry.vm.place, what);
        }
        for (position, entry) in file.trusted.iter().enumerate() {
            let vm = &entry.vm;
            self.number(&vm.value, &vm.place);
            if file.trusted.iter().take(position).any(|other| other.vm.value == vm.value) {
                self.refuse(codes::DUPLICATE, &vm.place, format!("`{}` is trusted twice", vm.value));
            }
            let [low, high] = entry.range;
            let own = file.vms.iter().find(|other| other.name.value == vm.value).map(|vm| vm.label);
            if own.is_some_and(|own| !low.flows_to(own) || !own.flows_to(high)) {
                let what = format!("the label of `{}` does not lie between `low` and `high`", vm.value);
                self.refuse(codes::POLICY_TRUST, &vm.place, what);
            }
            if entry.operations.is_empty() {
                let what = format!("`{}` is trusted with no operation", vm.value);
                self.refuse(codes::POLICY_TRUST, &vm.place, what);
            }
            for operation in &entry.operations {
                if matches!(rule(operation.value), Rule::Own | Rule::Role(_)) {
                    let what = format!("labels do not decide {}", operation.value.name());
                    self.refuse(codes::POLICY_TRUST, &operation.place, what);
                }
            }
        }
    }

    /// The one-way channels, in order.
    fn flows(&mut self) -> Vec<[VmId; 2]> {
        let mut flows = Vec::new();
        for flow in &self.file.flows {
            let [from, to] = flow.ends.each_ref().map(|end| self.number(end, &flow.place));
            if let (Some(from), Some(to)) = (from, to) {
                flows.push([from, to]);
            }
        }
        flows.sort_unstable();
        flows.dedup();
        flows
    }

    /// The profile, with its schedule.
    fn profile(&mut self, subjects: &[Subject]) -> Profile {
        let partition = match (&self.file.partition, self.file.is_strict) {
            (None, false) => return Profile::Shared,
            (Some(partition), false) => {
                self.refuse(codes::POLICY_PARTITION, &partition.place, "a shared profile has no partitions".into());
                return Profile::Shared;
            }
            (None, true) => {
                let what = "a strict profile needs [partition]".to_owned();
                self.refuse(codes::POLICY_PARTITION, &Place::default(), what);
                return Profile::Shared;
            }
            (Some(partition), true) => partition,
        };
        let slots: Vec<Slot> = partition
            .slots
            .iter()
            .map(|slot| {
                let vms = slot.vms.iter().filter_map(|vm| self.number(&vm.value, &vm.place));
                let mut vms: Vec<VmId> = vms.collect();
                vms.sort_unstable();
                vms.dedup();
                self.check_class(&vms, subjects, &slot.place);
                Slot { duration_ns: slot.duration_ns, vms }
            })
            .collect();
        if slots.is_empty() || slots.len() > limit::SLOTS as usize {
            let what = format!("{} slots; 1 to {} are possible", slots.len(), limit::SLOTS);
            self.refuse(codes::POLICY_PARTITION, &partition.place, what);
        }
        let frame: u64 = slots.iter().map(|slot| slot.duration_ns).fold(0, u64::saturating_add);
        if let Some(stated) = partition.frame_ns.as_ref().filter(|stated| stated.value != frame) {
            let what = format!("the slots take {} us together, `frame` says {} us", frame / 1000, stated.value / 1000);
            self.refuse(codes::POLICY_PARTITION, &stated.place, what);
        }
        for (number, vm) in (0..).zip(self.vms) {
            if !slots.iter().any(|slot| slot.vms.contains(&VmId(number))) {
                self.refuse(codes::POLICY_PARTITION, &partition.place, format!("`{vm}` has no slot"));
            }
        }
        Profile::Strict(Schedule { slots })
    }

    /// Checks that all VMs of a slot have one label.
    fn check_class(&mut self, vms: &[VmId], subjects: &[Subject], place: &Place) {
        let label = |vm: &VmId| {
            let name = self.vms.get(vm.0 as usize)?;
            subjects.iter().find(|subject| subject.name == *name).map(|subject| subject.label)
        };
        let labels: Vec<Label> = vms.iter().filter_map(label).collect();
        if labels.iter().any(|label| labels.first() != Some(label)) {
            let what = "the VMs of a slot have different labels".to_owned();
            self.refuse(codes::POLICY_PARTITION, place, what);
        }
    }

    /// Checks that each `[[flow]]` is between two VMs and allowed.
    fn check_flows(&mut self, policy: &Policy) {
        for flow in &self.file.flows {
            let [from, to] = flow.ends.each_ref().map(|end| policy.subjects.iter().find(|vm| vm.name == *end));
            let (Some(from), Some(to)) = (from, to) else {
                continue;
            };
            if from.name == to.name || allows(from, Operation::EventSend, to) == Decision::Refused {
                let what = super::explain::refusal(from, Operation::EventSend, to);
                self.refuse(codes::MAC_REFUSED, &flow.place, what);
            }
        }
    }

    /// Compares the possible flows with the list of expected ones, if there is one.
    fn check_expected(&mut self, policy: &Policy) {
        let Some(expected) = &self.file.expected else {
            return;
        };
        let flows = flow::Flows::of(policy);
        for entry in expected {
            let [from, to] = entry.ends.each_ref().map(|end| self.number(end, &entry.place));
            if let (Some(from), Some(to)) = (from, to)
                && flows.path(from, to).is_none()
            {
                let what = format!("nothing can flow from `{}` to `{}`", entry.ends[0], entry.ends[1]);
                self.refuse(codes::MAC_IMPOSSIBLE, &entry.place, what);
            }
        }
        for (from, to) in flows.pairs() {
            let ends = [from, to].map(|vm| self.vms.get(vm.0 as usize).cloned().unwrap_or_default());
            if !expected.iter().any(|entry| entry.ends == ends) {
                let path = flows.path(from, to).unwrap_or_default();
                let names: Vec<&str> =
                    path.iter().filter_map(|vm| self.vms.get(vm.0 as usize)).map(String::as_str).collect();
                let place = expected.first().map_or_else(Place::default, |entry| entry.place.clone());
                self.refuse(codes::MAC_UNEXPECTED, &place, names.join(" -> "));
            }
        }
    }
}

impl PolicyFile {
    /// An error at a place of the file.
    pub fn error(&self, code: &'static Code, place: &Place, what: impl Into<String>) -> ConfigError {
        ConfigError {
            code,
            what: what.into(),
            file: self.file.clone(),
            line: place.line,
            key: place.key.clone(),
            remedy: None,
        }
    }

    /// Where a VM stands.
    pub fn place_of(&self, vm: &str) -> Option<&Placed<String>> {
        self.vms.iter().map(|entry| &entry.name).find(|name| name.value == vm)
    }
}

impl Names {
    /// A label in words, such as `secret {red} / user`.
    pub fn words(&self, label: Label) -> String {
        let side = |level: u8, set: u64, levels: &[String], categories: &[String]| {
            let level = levels.get(usize::from(level)).cloned().unwrap_or_else(|| level.to_string());
            let names = super::explain::set(set, categories);
            if names.is_empty() { level } else { format!("{level} {{{}}}", names.join(",")) }
        };
        let secrecy = side(label.secrecy_level, label.secrecy_categories, &self.secrecy, &self.secrecy_categories);
        let integrity =
            side(label.integrity_level, label.integrity_categories, &self.integrity, &self.integrity_categories);
        format!("{secrecy} / {integrity}")
    }

    /// The same in as many bytes as the hypervisor takes.
    pub fn short(&self, label: Label) -> String {
        let words = self.words(label);
        match words.get(..limit::LABEL_TEXT as usize - 3) {
            Some(start) if words.len() > limit::LABEL_TEXT as usize => format!("{start}..."),
            _ => words,
        }
    }
}
