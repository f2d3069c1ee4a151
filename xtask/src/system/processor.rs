//! The keys `cpu` and `ports`: what a VM learns of the processor, and which I/O ports it has.

use protocol::layout::limit;
use protocol::policy::Profile;
use protocol::processor::{
    FEATURES, Model, PortRange, ProcessorFeatures, ProcessorPolicy, TimeSource, X86_64_V2, X86_64_V3, reserved,
};

use super::document::{ConfigError, Place, Placed, Source, TableReader};
use super::{System, VmSpec};
use crate::error::codes;

/// Reads `cpu`: a model, or a table. Whether it says how the VM sees time comes with it.
pub fn read_cpu(table: &mut TableReader<'_, '_>) -> (ProcessorPolicy, bool) {
    let default = (ProcessorPolicy::default(), false);
    let Some(found) = table.value("cpu") else {
        return default;
    };
    match (found.value.as_str(), found.value.as_table()) {
        (Some(model), _) => {
            let model = Placed { value: model.to_owned(), place: found.place };
            (ProcessorPolicy { model: read_model(table, Some(&model)), ..default.0 }, false)
        }
        (_, Some(inner)) => {
            let source = table.source();
            read_policy(TableReader::new(source, inner, found.place, table.errors()))
        }
        (None, None) => {
            table.refuse(codes::WRONG_TYPE, &found.place, "`cpu` must be \"baseline\", \"host\" or a table");
            default
        }
    }
}

/// Reads the table.
fn read_policy(mut table: TableReader<'_, '_>) -> (ProcessorPolicy, bool) {
    let model = table.text("cpuid");
    let model = read_model(&mut table, model.as_ref());
    let says_time = table.value("tsc").is_some();
    let time = read_choice(&mut table, "tsc", &[("native", TimeSource::Native), ("coarse", TimeSource::Coarse)]);
    let debug_registers = table.value("debug").is_none() || table.flag("debug");
    let (mut added, mut removed) = (ProcessorFeatures::empty(), ProcessorFeatures::empty());
    for name in table.texts("features") {
        let (set, word) = match name.value.strip_prefix('-') {
            Some(word) => (&mut removed, word),
            None => (&mut added, name.value.as_str()),
        };
        match features(word) {
            Some(features) => *set |= features,
            None => {
                let names: Vec<&str> = FEATURES.iter().map(|info| info.name).collect();
                let error = table.source().error(codes::FEATURE, &name.place, format!("no feature is named `{word}`"));
                table.errors().push(error.remedy(format!("name x86-64-v2, x86-64-v3 or one of: {}", names.join(", "))));
            }
        }
    }
    let policy = ProcessorPolicy { model, added: added.with_needs(), removed, time, debug_registers };
    if let Err(lost) = policy.features(ProcessorFeatures::all()) {
        let what = format!("`{}` is both asked for and hidden", lost.first_name());
        let place = table.place();
        table.refuse(codes::FEATURE, &place, what);
    }
    table.finish();
    (policy, says_time)
}

/// In the strict profile time is coarse for a VM whose `cpu` says nothing else.
pub fn follow_profile(system: &mut System) {
    if matches!(system.policy.policy.profile, Profile::Strict(_)) {
        for vm in system.vms.iter_mut().filter(|vm| !vm.says_time) {
            vm.processor.time = TimeSource::Coarse;
        }
    }
}

/// Warnings about VMs that see exact time although the profile is strict.
pub fn warnings(system: &System) -> Vec<String> {
    let is_strict = matches!(system.policy.policy.profile, Profile::Strict(_));
    let exact = system.vms.iter().filter(|vm| is_strict && vm.processor.time == TimeSource::Native);
    exact
        .map(|vm| {
            format!(
                "warning: {}:{}: `{}` has `tsc = \"native\"` in the strict profile: an exact clock shows what others do to \
                 caches and buses\n  try: leave `tsc` out, which makes time coarse",
                system.file, vm.place.line, vm.name
            )
        })
        .collect()
}

/// The features of a name or a level.
fn features(name: &str) -> Option<ProcessorFeatures> {
    match name {
        "x86-64-v2" => Some(X86_64_V2),
        "x86-64-v3" => Some(X86_64_V3),
        _ => FEATURES.iter().find(|info| info.name == name).map(|info| info.feature),
    }
}

/// The model of a name.
fn read_model(table: &mut TableReader<'_, '_>, name: Option<&Placed<String>>) -> Model {
    choose(table, name, &[("baseline", Model::Baseline), ("host", Model::Host)])
}

/// A text that is one of a few words.
fn read_choice<T: Copy + Default>(table: &mut TableReader<'_, '_>, key: &'static str, words: &[(&str, T)]) -> T {
    let found = table.text(key);
    choose(table, found.as_ref(), words)
}

/// The value of a word, or the default when there is none.
fn choose<T: Copy + Default>(
    table: &mut TableReader<'_, '_>,
    found: Option<&Placed<String>>,
    words: &[(&str, T)],
) -> T {
    let Some(found) = found else { return T::default() };
    match words.iter().find(|(word, _)| *word == found.value) {
        Some((_, value)) => *value,
        None => {
            let possible: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let what = format!("it is \"{}\", it can be {}", found.value, possible.join(" or "));
            table.refuse(codes::BAD_VALUE, &found.place, what);
            T::default()
        }
    }
}

/// Reads `ports`: texts such as `"0x70-0x71"` or `"0x80"`.
pub fn read_ports(table: &mut TableReader<'_, '_>) -> Vec<Placed<PortRange>> {
    let mut ranges = Vec::new();
    for text in table.texts("ports") {
        match parse_range(&text.value) {
            Some(range) => ranges.push(Placed { value: range, place: text.place }),
            None => {
                let what = format!("`{}` is no range of ports, such as \"0x70-0x71\" or \"0x70\"", text.value);
                table.refuse(codes::BAD_VALUE, &text.place, what);
            }
        }
    }
    ranges
}

/// A range of ports in hexadecimal.
fn parse_range(text: &str) -> Option<PortRange> {
    let number = |text: &str| u16::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange { first: number(first)?, last: number(last)? };
    (range.first <= range.last).then_some(range)
}

/// Refuses ports that no VM may have, and those that stand twice.
pub fn check_ports(source: Source<'_>, system: &System, errors: &mut Vec<ConfigError>) {
    let mut seen: Vec<(&VmSpec, &Place, PortRange)> = Vec::new();
    for vm in &system.vms {
        if let Some(range) = vm.ports.get(limit::PORT_RANGES as usize) {
            let what = format!("{} ranges of ports, at most {} fit", vm.ports.len(), limit::PORT_RANGES);
            errors.push(source.error(codes::TOO_MANY, &range.place, what));
        }
        for Placed { value: range, place } in &vm.ports {
            let shown = format!("{:#x}-{:#x}", range.first, range.last);
            if let Some(owner) = reserved(*range) {
                errors.push(source.error(codes::PORTS, place, format!("{shown} belongs to {owner}")));
            }
            if let Some((other, first, _)) = seen.iter().find(|(_, _, other)| other.overlaps(*range)) {
                let what = format!("ports of {shown} belong to `{}`, by line {}", other.name, first.line);
                errors.push(source.error(codes::PORTS, place, what));
            }
            seen.push((vm, place, *range));
        }
    }
}
