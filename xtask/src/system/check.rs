//! Compares what stands in different places of a system file: names, ends of channels, counts; and
//! what it asks for with its policy.

use std::collections::BTreeMap;

use protocol::layout::limit;
use protocol::manifest::OnCrash;
use protocol::policy::{Decision, Operation, allows};

use super::document::{ConfigError, Place, Placed, Source};
use super::{ChannelSpec, System, VmSpec};
use crate::error::codes;
use crate::policy::explain;

/// Records everything that does not fit together.
pub fn check(source: Source<'_>, system: &System, errors: &mut Vec<ConfigError>) {
    let top = Place::default();
    if system.vms.is_empty() {
        errors.push(source.error(codes::MISSING_KEY, &top, "the system has no [[vm]]"));
    }
    let vms: Vec<(&str, &Place)> = system.vms.iter().map(|vm| (vm.name.as_str(), &vm.place)).collect();
    check_names(source, "VMs", &vms, errors);
    let channels: Vec<(&str, &Place)> =
        system.channels.iter().map(|channel| (channel.name.value.as_str(), &channel.place)).collect();
    check_names(source, "channels", &channels, errors);
    if let Some(vm) = system.vms.get(limit::VMS as usize) {
        let what = format!("{} VMs, at most {} fit", system.vms.len(), limit::VMS);
        errors.push(source.error(codes::TOO_MANY, &vm.place, what));
    }
    for vm in &system.vms {
        check_vm(source, system, vm, errors);
    }
    for channel in &system.channels {
        check_channel(source, system, channel, errors);
    }
    super::processor::check_ports(source, system, errors);
    if let Some(test) = &system.test {
        check_same(source, system, &test.same, errors);
    }
}

/// Checks that those whose lines are compared exist, and that there is a second one.
fn check_same(source: Source<'_>, system: &System, same: &[Placed<String>], errors: &mut Vec<ConfigError>) {
    for name in same.iter().filter(|name| system.vms.iter().all(|vm| vm.name != name.value)) {
        errors.push(source.error(codes::TEST_TABLE, &name.place, format!("no VM is named `{}`", name.value)));
    }
    if let [only] = same {
        errors.push(source.error(codes::TEST_TABLE, &only.place, "`same` compares at least two VMs"));
    }
}

/// Refuses a name that stands twice.
fn check_names(source: Source<'_>, what: &str, names: &[(&str, &Place)], errors: &mut Vec<ConfigError>) {
    let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
    for (name, place) in names {
        if let Some(first) = seen.get(name) {
            let text = format!("two {what} are named `{name}`, the first in line {}", first.line);
            errors.push(source.error(codes::DUPLICATE, place, text));
        } else {
            seen.insert(name, place);
        }
    }
}

/// Checks the counts of one VM and the names of its modules.
fn check_vm(source: Source<'_>, system: &System, vm: &VmSpec, errors: &mut Vec<ConfigError>) {
    if vm.modules.len() > limit::MODULES as usize {
        let what = format!("{} modules, at most {} fit", vm.modules.len(), limit::MODULES);
        errors.push(source.error(codes::TOO_MANY, &vm.place, what));
    }
    let modules: Vec<(&str, &Place)> =
        vm.modules.iter().map(|module| (module.name.as_str(), &module.source.place)).collect();
    check_names(source, "modules", &modules, errors);
    let channels =
        system.channels.iter().filter(|channel| channel.between.iter().any(|end| end.value == vm.name)).count();
    if channels > limit::CHANNELS as usize {
        let what = format!("`{}` is an end of {channels} channels, at most {} fit", vm.name, limit::CHANNELS);
        errors.push(source.error(codes::TOO_MANY, &vm.place, what));
    }
}

/// Checks the two ends of a channel.
fn check_channel(source: Source<'_>, system: &System, channel: &ChannelSpec, errors: &mut Vec<ConfigError>) {
    let mut ends = Vec::new();
    for end in &channel.between {
        match system.vms.iter().find(|vm| vm.name == end.value) {
            Some(vm) => ends.push(vm),
            None => {
                let names: Vec<&str> = system.vms.iter().map(|vm| vm.name.as_str()).collect();
                let what = format!("no VM is named `{}`", end.value);
                errors.push(
                    source
                        .error(codes::CHANNEL_TO_NOBODY, &end.place, what)
                        .remedy(format!("name one of: {}", names.join(", "))),
                );
            }
        }
    }
    let [first, second] = ends.as_slice() else {
        return;
    };
    if let Some(vm) = ends.iter().find(|vm| vm.xen.is_some()) {
        let what = format!("`{}` speaks Xen's ABI, which has no channels", vm.name);
        errors.push(source.error(codes::PERSONALITY, &channel.place, what));
    }
    if first.name == second.name {
        let what = format!("both ends are `{}`", first.name);
        errors.push(source.error(codes::CHANNEL_TO_SELF, &channel.place, what));
    }
}

/// Records what the policy does not allow of what the system asks for.
pub fn check_permitted(source: Source<'_>, system: &System, errors: &mut Vec<ConfigError>) {
    let subject = |name: &str| system.policy.policy.subjects.iter().find(|subject| subject.name == name);
    for channel in &system.channels {
        let [first, second] = channel.between.each_ref().map(|end| subject(&end.value));
        let (Some(first), Some(second)) = (first, second) else {
            continue;
        };
        let is_refused = |operation| allows(first, operation, second) == Decision::Refused;
        let refused_use = is_refused(Operation::ChannelUse);
        if channel.frames > 0 && refused_use {
            let what = explain::refusal(first, Operation::ChannelUse, second);
            errors.push(source.error(codes::LABELS, &channel.place, what));
        } else if channel.frames == 0 && is_refused(Operation::EventSend) {
            let what = explain::refusal(first, Operation::EventSend, second);
            errors.push(source.error(codes::MAC_REFUSED, &channel.place, what));
        } else if channel.frames == 0 && refused_use && !system.policy.knows_flow(&first.name, &second.name) {
            let what = format!("no [[flow]] from `{}` to `{}`", first.name, second.name);
            errors.push(source.error(codes::MAC_NO_FLOW, &channel.place, what));
        }
    }
    for vm in system.vms.iter().filter(|vm| vm.on_crash == OnCrash::HaltAll) {
        if let Some(vm_subject) = subject(&vm.name)
            && allows(vm_subject, Operation::HaltAll, vm_subject) == Decision::Refused
        {
            let what = explain::refusal(vm_subject, Operation::HaltAll, vm_subject);
            let remedy = "give it the role operator in the policy file, or another `on-crash`";
            errors.push(source.error(codes::MAC_REFUSED, &vm.place, what).remedy(remedy));
        }
    }
}
