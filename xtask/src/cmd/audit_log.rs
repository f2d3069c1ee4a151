//! `audit-log`: checks and shows the audit log that a run left behind.

use std::path::PathBuf;

use clap::Args;
use protocol::VmId;
use protocol::audit::{AuditKind, FIRST, NOBODY};
use protocol::call::CALLS;
use protocol::policy::{Operation, rule};
use protocol::record::Record;
use protocol::shared::AuditRecord;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::console::{Demultiplexer, Item};
use crate::decode::Programs;
use crate::error::codes::{self, Code};
use crate::error::{Context, Exit, Failure};
use crate::policy::explain;
use crate::tree;

/// Arguments of `audit-log`.
#[derive(Debug, Args)]
pub struct Options {
    /// A system whose last run is meant, or a file with what the serial line said.
    #[arg(default_value = "demo")]
    target: String,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let (file, names) = find(&options.target);
    let bytes = std::fs::read(&file).context(file.display())?;
    let records = records(&bytes);
    if records.is_empty() {
        return Err(failure(codes::LOG_EMPTY, &file.display().to_string()));
    }
    let name =
        |vm: u32| names.get(usize::try_from(vm).unwrap_or(usize::MAX)).cloned().unwrap_or_else(|| format!("vm{vm}"));
    let checked = verify(&records);
    if options.json {
        let list: Vec<_> = records.iter().map(|record| json_of(record, &name)).collect();
        println!("{}", json!({"records": list, "chain": checked.as_ref().err().map_or("whole", String::as_str)}));
    } else {
        for record in &records {
            println!("{}", line(record, &name));
        }
    }
    match checked {
        Ok(()) => {
            let (events, lost) = sums(&records);
            eprintln!("xtask: {} records about {events} events, {lost} lost; the chain is whole", records.len());
            Ok(Exit::Success)
        }
        Err(why) => Err(failure(codes::LOG_BROKEN, &why)),
    }
}

/// The file of a target, and the names of its VMs if they are known.
fn find(target: &str) -> (PathBuf, Vec<String>) {
    if target.contains('/') || target.ends_with(".serial") {
        return (PathBuf::from(target), Vec::new());
    }
    let names = super::load(target).map(|system| system.vms.iter().map(|vm| vm.name.clone()).collect());
    (tree::work().join(format!("{target}.serial")), names.unwrap_or_default())
}

fn failure(code: &Code, what: &str) -> Failure {
    let text = format!(
        "error[{}]: {}: {what}\n  try: {}\n  see: docs/errors/{}.md",
        code.id, code.title, code.remedy, code.id
    );
    Failure::new(Exit::Unmet, text)
}

/// The audit records of a serial line, in the order in which they came.
pub fn records(bytes: &[u8]) -> Vec<AuditRecord> {
    let mut items = Vec::new();
    let mut demultiplexer = Demultiplexer::new();
    demultiplexer.feed(bytes, &mut items);
    let record = |item| match item {
        Item::Record(record) => audit_record(&record),
        Item::Line(_) | Item::Damaged(_) => None,
    };
    items.into_iter().filter_map(record).collect()
}

/// The audit record in a record of the serial line, if it is one.
pub fn audit_record(record: &Record<'_>) -> Option<AuditRecord> {
    match record {
        Record::Audit(bytes) => AuditRecord::read_from_bytes(bytes).ok(),
        Record::Log(_) | Record::Started(_) | Record::Crash(_) | Record::Ended(_) => None,
    }
}

/// Whether the records are a whole log from its beginning: no gap, and each holds the hash of the one
/// before.
pub fn verify(records: &[AuditRecord]) -> Result<(), String> {
    let mut previous = FIRST;
    for (sequence, record) in (0..).zip(records) {
        if record.sequence != sequence {
            return Err(format!("record {sequence} is missing: {} comes instead", record.sequence));
        }
        if record.previous != previous {
            return Err(format!("record {sequence} does not hold the hash of the one before"));
        }
        previous = Sha256::digest(record.as_bytes()).into();
    }
    Ok(())
}

/// How many events the records stand for, and how many have none.
pub fn sums(records: &[AuditRecord]) -> (u64, u64) {
    records.iter().fold((0, 0), |(events, lost), record| (events + record.count, lost + record.lost))
}

/// The operation of the policy that a record is about.
fn operation(record: &AuditRecord) -> Option<Operation> {
    Operation::ALL.get(usize::from(record.operation)).copied()
}

/// A record as a line of a table.
fn line(record: &AuditRecord, name: &impl Fn(u32) -> String) -> String {
    let (ms, us) = (record.time_ns / 1_000_000, record.time_ns / 1_000 % 1_000);
    format!("{:>6} {ms:>9}.{us:03} ms  {:<22} {}", record.sequence, kind(record), words(record, name))
}

/// What a record is about, by name.
fn kind(record: &AuditRecord) -> String {
    record.meaning().map_or_else(|| format!("kind {}", record.kind), |kind| kind.name().to_owned())
}

/// A refusal as a line: who wanted what of whom, why not, and where that is recorded.
pub fn refusal(record: &AuditRecord, programs: &Programs) -> Option<String> {
    if !matches!(record.meaning(), Some(AuditKind::Denied | AuditKind::DeniedMore)) {
        return None;
    }
    let what = words(record, &|vm| programs.name(Some(VmId(vm))));
    let place = programs.label_place(VmId(record.subject)).map_or_else(String::new, |place| format!(", {place}"));
    // Without an operation it was no decision of the policy: there is no such grant, say.
    let code = operation(record).map_or_else(|| "refused".to_owned(), |_| format!("error[{}]", codes::MAC_REFUSED.id));
    Some(format!("{code}: {what}{place}, audit record {}", record.sequence))
}

/// Who did what to whom.
fn words(record: &AuditRecord, name: &impl Fn(u32) -> String) -> String {
    let who = |vm: u32| if vm == NOBODY { "-".to_owned() } else { name(vm) };
    let mut line = format!("{} -> {}", who(record.subject), who(record.object));
    if let Some(operation) = operation(record) {
        line += &format!(", {}, rule {}", operation.name(), explain::name(rule(operation)));
    }
    let [first, second] = record.operands;
    match record.meaning() {
        Some(AuditKind::Begin) => line += &format!(", policy {first:016x}{second:016x}"),
        Some(AuditKind::VmStarted) if first > 0 => line += &format!(", again ({first})"),
        Some(AuditKind::VmEnded) => line += &format!(", code {first}"),
        Some(AuditKind::VmCrashed) => line += &format!(", rip {first:#x}"),
        Some(AuditKind::GrantAcrossLabels | AuditKind::MapAcrossLabels) => {
            line += &format!(", grant {first} to {}", if second == 0 { "read" } else { "write" });
        }
        Some(AuditKind::Denied | AuditKind::DeniedMore | AuditKind::QuotaHit) => {
            let call = CALLS.iter().find(|call| call.number == first);
            line += &call.map_or_else(|| format!(", call {first}"), |call| format!(", {}", call.name));
        }
        _ => {}
    }
    if record.count != 1 {
        line += &format!(", {} times", record.count);
    }
    if record.lost != 0 {
        line += &format!(", {} lost before", record.lost);
    }
    line
}

fn json_of(record: &AuditRecord, name: &impl Fn(u32) -> String) -> serde_json::Value {
    let who = |vm: u32| (vm != NOBODY).then(|| name(vm));
    json!({
        "sequence": record.sequence, "time_ns": record.time_ns, "cpu": record.cpu,
        "kind": record.meaning().map(AuditKind::name), "operation": operation(record).map(Operation::name),
        "subject": who(record.subject), "generation": record.generation, "object": who(record.object),
        "status": record.status, "operands": record.operands, "count": record.count, "lost": record.lost,
    })
}

#[cfg(test)]
mod tests {
    use super::{line, records, refusal, sums, verify};
    use crate::decode::Programs;
    use protocol::audit::{AuditKind, NO_OPERATION, NOBODY};
    use protocol::shared::AuditRecord;
    use sha2::{Digest as _, Sha256};
    use zerocopy::IntoBytes as _;

    /// A chain of so many records.
    fn chain(count: u64) -> Vec<AuditRecord> {
        let mut previous = [0; 32];
        let record = |sequence| {
            let kind = AuditKind::Denied.number();
            let record =
                AuditRecord { sequence, kind, operation: 5, object: 1, count: 2, previous, ..AuditRecord::default() };
            previous = Sha256::digest(record.as_bytes()).into();
            record
        };
        (0..count).map(record).collect()
    }

    #[test]
    fn a_chain_is_whole_until_something_is_changed_left_out_or_cut_off_in_front() {
        let whole = chain(4);
        assert_eq!(verify(&whole), Ok(()));
        assert_eq!(sums(&whole), (8, 0));
        let mut changed = whole.clone();
        changed[1].subject = 7;
        assert!(verify(&changed).unwrap_err().contains("record 2"));
        let mut short = whole.clone();
        short.remove(2);
        assert!(verify(&short).unwrap_err().contains("record 2 is missing"));
        assert!(verify(&whole[1..]).is_err());
    }

    #[test]
    fn a_line_names_who_whom_operation_and_rule() {
        let text = line(&chain(1)[0], &|vm| format!("<{vm}>"));
        assert!(text.contains("denied"), "{text}");
        assert!(text.contains("<0> -> <1>, grant-map-write, rule equal-labels, info, 2 times"), "{text}");
        let vms = [("a".to_owned(), Vec::new()), ("b".to_owned(), Vec::new())];
        let programs = Programs::new("", &vms).with_places(vec!["x.toml:3".to_owned()]);
        assert_eq!(
            refusal(&chain(1)[0], &programs).unwrap(),
            "error[HV-MAC-001]: a -> b, grant-map-write, rule equal-labels, info, 2 times, x.toml:3, audit record 0"
        );
        let own =
            AuditRecord { kind: 999, operation: NO_OPERATION, subject: NOBODY, count: 1, ..AuditRecord::default() };
        assert!(line(&own, &|_| String::new()).contains("kind 999"));
        assert_eq!(refusal(&own, &programs), None);
    }

    #[test]
    fn a_serial_line_without_records_holds_none() {
        assert!(records(b"cloister: up\r\n\x1b_Cxx\x1b\\").is_empty());
    }
}
