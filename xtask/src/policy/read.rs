//! Reads a policy file: gives its keys their meaning. What stands in different places is compared in
//! `compile`.

use protocol::label::Label;
use protocol::policy::{Hardware, OnFull, Operation, Role, limit};
use toml::de::DeTable;

use crate::error::codes;
use crate::system::document::{ConfigError, Place, Placed, Source, TableReader};

/// A policy as its file states it, by names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// The file, as errors show it.
    pub file: String,
    /// The names of levels and categories.
    pub names: Names,
    /// Whether time is divided into fixed slots.
    pub is_strict: bool,
    /// What is asked of the machine.
    pub hardware: Hardware,
    /// What happens when the audit log is full.
    pub on_full: OnFull,
    /// The VMs.
    pub vms: Vec<VmEntry>,
    /// VMs that are trusted beyond their labels.
    pub trusted: Vec<TrustEntry>,
    /// One-way channels between different labels, sender first.
    pub flows: Vec<FlowEntry>,
    /// The major frame, if one is given.
    pub partition: Option<PartitionEntry>,
    /// The flows that there may be, if they are listed.
    pub expected: Option<Vec<FlowEntry>>,
    /// What `policy test` checks.
    pub expectations: Vec<Expectation>,
}

/// The names of levels, from the lowest, and of categories, in alphabetical order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Levels of secrecy.
    pub secrecy: Vec<String>,
    /// Levels of integrity.
    pub integrity: Vec<String>,
    /// Categories of secrecy.
    pub secrecy_categories: Vec<String>,
    /// Categories of integrity.
    pub integrity_categories: Vec<String>,
}

/// One `[[vm]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmEntry {
    /// Its name.
    pub name: Placed<String>,
    /// Its label.
    pub label: Label,
    /// Its roles.
    pub roles: Vec<Placed<Role>>,
    /// Its share of the audit log.
    pub audit_share: u32,
}

/// One `[[trusted]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustEntry {
    /// Which VM.
    pub vm: Placed<String>,
    /// The lowest and the highest label of its range.
    pub range: [Label; 2],
    /// The operations.
    pub operations: Vec<Placed<Operation>>,
}

/// From one VM to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowEntry {
    /// Where it stands.
    pub place: Place,
    /// The two names.
    pub ends: [String; 2],
}

/// The `[partition]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionEntry {
    /// Where it stands.
    pub place: Place,
    /// How long the major frame is to be, if the file says.
    pub frame_ns: Option<Placed<u64>>,
    /// The slots in order.
    pub slots: Vec<SlotEntry>,
}

/// One `[[partition.slot]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotEntry {
    /// Where it stands.
    pub place: Place,
    /// Names of its VMs.
    pub vms: Vec<Placed<String>>,
    /// How long it is.
    pub duration_ns: u64,
}

/// One `[[expect]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// From where to where, and where that stands.
    pub flow: FlowEntry,
    /// What is tried.
    pub operation: Operation,
    /// Whether it is to be allowed.
    pub allowed: bool,
}

/// Levels on one side.
const LEVELS: usize = 16;
/// Categories on one side.
const CATEGORIES: usize = 64;

/// Reads the text of a policy file.
pub fn read(source: Source<'_>) -> Result<PolicyFile, Vec<ConfigError>> {
    let document = DeTable::parse(source.text).map_err(|error| {
        let place = Place { line: error.span().map_or(0, |span| source.line(&span)), key: String::new() };
        vec![source.error(codes::TOML, &place, error.message().trim_end())]
    })?;
    let mut errors = Vec::new();
    let file = read_top(TableReader::new(source, document.get_ref(), Place::default(), &mut errors));
    if errors.is_empty() { Ok(file) } else { Err(errors) }
}

/// A reader of a table below another.
fn below<'a, 'b>(top: &'b mut TableReader<'a, '_>, table: Placed<&'a DeTable<'a>>) -> TableReader<'a, 'b> {
    TableReader::new(top.source(), table.value, table.place, top.errors())
}

/// Reads the top of the file.
fn read_top(mut top: TableReader<'_, '_>) -> PolicyFile {
    let names = read_names(&mut top);
    let profile = top.required_text("profile");
    let is_strict = choice(&mut top, profile, [("shared", false), ("strict", true)]).unwrap_or(false);
    let hardware = top.text("hardware");
    let hardware = choice(&mut top, hardware, [("strict", Hardware::Strict), ("degraded", Hardware::Degraded)]);
    let audit = top.table("audit");
    let on_full = audit.and_then(|audit| read_audit(below(&mut top, audit)));
    let mut vms = Vec::new();
    for vm in top.tables("vm") {
        vms.extend(read_vm(below(&mut top, vm), &names));
    }
    let mut trusted = Vec::new();
    for entry in top.tables("trusted") {
        trusted.extend(read_trusted(below(&mut top, entry), &names));
    }
    let mut flows = Vec::new();
    for flow in top.tables("flow") {
        let mut table = below(&mut top, flow);
        flows.extend(read_flow(&mut table));
        table.finish();
    }
    let partition = top.table("partition").map(|partition| read_partition(below(&mut top, partition)));
    let expected = top.value("expected-flows").is_some().then(|| read_expected(&mut top));
    let mut expectations = Vec::new();
    for expectation in top.tables("expect") {
        expectations.extend(read_expectation(below(&mut top, expectation)));
    }
    let file = top.source().file.to_owned();
    top.finish();
    PolicyFile {
        file,
        names,
        is_strict,
        hardware: hardware.unwrap_or(Hardware::Strict),
        on_full: on_full.unwrap_or(OnFull::DropCounted),
        vms,
        trusted,
        flows,
        partition,
        expected,
        expectations,
    }
}

/// Reads `[levels]` and `[categories]`.
fn read_names(top: &mut TableReader<'_, '_>) -> Names {
    let mut names = Names::default();
    if let Some(levels) = top.table("levels") {
        let mut table = below(top, levels);
        names.secrecy = read_list(&mut table, "secrecy", LEVELS);
        names.integrity = read_list(&mut table, "integrity", LEVELS);
        table.finish();
    }
    if let Some(categories) = top.table("categories") {
        let mut table = below(top, categories);
        names.secrecy_categories = read_list(&mut table, "secrecy", CATEGORIES);
        names.integrity_categories = read_list(&mut table, "integrity", CATEGORIES);
        table.finish();
    }
    // Categories have no order, so the order of the file means nothing.
    names.secrecy_categories.sort();
    names.integrity_categories.sort();
    names
}

/// Reads a list of new names.
fn read_list(table: &mut TableReader<'_, '_>, key: &'static str, most: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in table.texts(key) {
        let is_word = name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !is_word || name.value.is_empty() || name.value.len() > protocol::layout::limit::NAME as usize {
            table.refuse(codes::BAD_NAME, &name.place, format!("`{}` cannot be a name", name.value));
        } else if names.contains(&name.value) {
            table.refuse(codes::DUPLICATE, &name.place, format!("`{}` stands twice", name.value));
        } else if names.len() == most {
            table.refuse(codes::TOO_MANY, &name.place, format!("more than the {most} that are possible"));
        } else {
            names.push(name.value);
        }
    }
    names
}

/// Reads a text that must be one of several words.
fn choice<T: Copy, const N: usize>(
    table: &mut TableReader<'_, '_>,
    text: Option<Placed<String>>,
    words: [(&str, T); N],
) -> Option<T> {
    let text = text?;
    let found = words.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let words = words.map(|(word, _)| format!("\"{word}\"")).join(" or ");
        let what = format!("`{}` is \"{}\", it can be {words}", text.place.key, text.value);
        table.refuse(codes::BAD_VALUE, &text.place, what);
    }
    found.map(|(_, value)| *value)
}

/// Reads `[audit]`.
fn read_audit(mut table: TableReader<'_, '_>) -> Option<OnFull> {
    let words = [("halt-offender", OnFull::HaltOffender), ("drop-counted", OnFull::DropCounted)];
    let text = table.text("on-full");
    let on_full = choice(&mut table, text, words);
    table.finish();
    on_full
}

/// Reads a `[[vm]]`.
fn read_vm(mut table: TableReader<'_, '_>, names: &Names) -> Option<VmEntry> {
    let name = table.required_text("name");
    let label = required_label(&mut table, "label", names);
    let roles = read_words(&mut table, "roles", Role::ALL, Role::name);
    let audit_share = table.number("audit-share", 1..=limit::AUDIT_SHARE.into());
    table.finish();
    let audit_share = audit_share.and_then(|share| u32::try_from(share.value).ok()).unwrap_or(100);
    Some(VmEntry { name: name?, label: label?, roles, audit_share })
}

/// What a word of ours stands for.
fn word<T: Copy>(
    table: &mut TableReader<'_, '_>,
    text: Placed<String>,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Option<Placed<T>> {
    let found = all.iter().find(|one| name(**one) == text.value);
    if found.is_none() {
        let known: Vec<&str> = all.iter().map(|one| name(*one)).collect();
        let what = format!("`{}` is none of: {}", text.value, known.join(", "));
        table.refuse(codes::POLICY_WORD, &text.place, what);
    }
    found.map(|one| Placed { value: *one, place: text.place })
}

/// Reads a list of words of ours.
fn read_words<T: Copy>(
    table: &mut TableReader<'_, '_>,
    key: &'static str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Vec<Placed<T>> {
    let texts = table.texts(key);
    texts.into_iter().filter_map(|text| word(table, text, all, &name)).collect()
}

/// Reads a label that must be there.
fn required_label(table: &mut TableReader<'_, '_>, key: &'static str, names: &Names) -> Option<Label> {
    let Some(label) = table.table(key) else {
        let place = table.place();
        table.refuse(codes::MISSING_KEY, &place, format!("`{key}` is missing"));
        return None;
    };
    Some(read_label(below(table, label), names))
}

/// Reads a label. What it does not say is the lowest level and no category.
fn read_label(mut table: TableReader<'_, '_>, names: &Names) -> Label {
    let label = Label {
        secrecy_level: read_level(&mut table, "secrecy", &names.secrecy),
        secrecy_categories: read_categories(&mut table, "secrecy-categories", &names.secrecy_categories),
        integrity_level: read_level(&mut table, "integrity", &names.integrity),
        integrity_categories: read_categories(&mut table, "integrity-categories", &names.integrity_categories),
    };
    table.finish();
    label
}

/// The position of a declared name.
fn position(table: &mut TableReader<'_, '_>, name: &Placed<String>, names: &[String]) -> Option<u8> {
    let position = names.iter().position(|other| *other == name.value);
    if position.is_none() {
        let what = format!("`{}` is not declared; known here: {}", name.value, names.join(", "));
        table.refuse(codes::POLICY_NAME, &name.place, what);
    }
    position.and_then(|position| u8::try_from(position).ok())
}

/// Reads the name of a level.
fn read_level(table: &mut TableReader<'_, '_>, key: &'static str, names: &[String]) -> u8 {
    let name = table.text(key);
    name.and_then(|name| position(table, &name, names)).unwrap_or(0)
}

/// Reads names of categories as a bit set.
fn read_categories(table: &mut TableReader<'_, '_>, key: &'static str, names: &[String]) -> u64 {
    let mut set = 0;
    for name in table.texts(key) {
        set |= position(table, &name, names).map_or(0, |bit| 1 << bit);
    }
    set
}

/// Reads a `[[trusted]]`.
fn read_trusted(mut table: TableReader<'_, '_>, names: &Names) -> Option<TrustEntry> {
    let vm = table.required_text("vm");
    let low = required_label(&mut table, "low", names);
    let high = required_label(&mut table, "high", names);
    let operations = read_words(&mut table, "operations", Operation::ALL, Operation::name);
    table.finish();
    Some(TrustEntry { vm: vm?, range: [low?, high?], operations })
}

/// Reads `from` and `to`.
fn read_flow(table: &mut TableReader<'_, '_>) -> Option<FlowEntry> {
    let place = table.place();
    let from = table.required_text("from");
    let to = table.required_text("to");
    Some(FlowEntry { place, ends: [from?.value, to?.value] })
}

/// Reads `[partition]`.
fn read_partition(mut table: TableReader<'_, '_>) -> PartitionEntry {
    let place = table.place();
    let frame = table.text("frame");
    let frame_ns = read_duration(&mut table, frame);
    let mut slots = Vec::new();
    for slot in table.tables("slot") {
        slots.extend(read_slot(below(&mut table, slot)));
    }
    table.finish();
    PartitionEntry { place, frame_ns, slots }
}

/// Reads a `[[partition.slot]]`.
fn read_slot(mut table: TableReader<'_, '_>) -> Option<SlotEntry> {
    let place = table.place();
    let vms = table.texts("vms");
    let text = table.required_text("duration");
    let duration = read_duration(&mut table, text);
    let bounds = limit::LEAST_SLOT_NS..=limit::MOST_SLOT_NS;
    if let Some(duration) = duration.as_ref().filter(|duration| !bounds.contains(&duration.value)) {
        let [least, most] = [bounds.start(), bounds.end()].map(|ns| ns / 1000);
        let what = format!("a slot can last {least}us to {most}us");
        table.refuse(codes::BAD_VALUE, &duration.place, what);
    }
    table.finish();
    Some(SlotEntry { place, vms, duration_ns: duration?.value })
}

/// Reads a span of time such as `"10ms"` as nanoseconds.
fn read_duration(table: &mut TableReader<'_, '_>, text: Option<Placed<String>>) -> Option<Placed<u64>> {
    let text = text?;
    let digits = text.value.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.value.get(digits.len()..).unwrap_or("") {
        "us" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    let duration = number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    if duration.is_none() {
        let what = format!(
            "\"{}\" is no span of time: it must be a whole number with us, ms or s, such as \"10ms\"",
            text.value
        );
        table.refuse(codes::BAD_VALUE, &text.place, what);
    }
    duration.map(|value| Placed { value, place: text.place })
}

/// Reads `expected-flows`: texts such as `"low -> high"`.
fn read_expected(top: &mut TableReader<'_, '_>) -> Vec<FlowEntry> {
    let mut flows = Vec::new();
    for text in top.texts("expected-flows") {
        match text.value.split_once("->") {
            Some((from, to)) => {
                flows.push(FlowEntry { place: text.place, ends: [from.trim().to_owned(), to.trim().to_owned()] });
            }
            None => {
                let what = format!("\"{}\" is no flow; it reads \"from -> to\", with names of VMs", text.value);
                top.refuse(codes::BAD_VALUE, &text.place, what);
            }
        }
    }
    flows
}

/// Reads an `[[expect]]`.
fn read_expectation(mut table: TableReader<'_, '_>) -> Option<Expectation> {
    let flow = read_flow(&mut table);
    let text = table.required_text("operation");
    let operation = text.and_then(|text| word(&mut table, text, Operation::ALL, Operation::name));
    let place = table.place();
    if table.value("allowed").is_none() {
        table.refuse(codes::MISSING_KEY, &place, "`allowed` is missing");
    }
    let allowed = table.flag("allowed");
    table.finish();
    Some(Expectation { flow: flow?, operation: operation?.value, allowed })
}
