//! An audit as one JSON document.

use serde_json::{Value, json};

use super::rules::{RULES, Rule};
use super::{Finding, Report};

/// The document.
pub fn document(reports: &[Report], strict: bool) -> Value {
    let failures: usize = reports.iter().map(|report| report.failures(strict)).sum();
    json!({
        "failures": failures,
        "stale": reports.iter().map(|report| report.stale.len()).sum::<usize>(),
        "programs": reports.iter().map(|report| program(report, strict)).collect::<Vec<_>>(),
        "rules": RULES.iter().map(rule).collect::<Vec<_>>(),
    })
}

/// One program.
fn program(report: &Report, strict: bool) -> Value {
    json!({
        "name": report.name,
        "file": report.file,
        "code_bytes": report.bytes,
        "instructions": report.instructions,
        "findings": report.findings.iter().map(|found| finding(found, strict)).collect::<Vec<_>>(),
        "stale": report.stale,
    })
}

/// One finding. Addresses are texts: many readers cannot hold 64 bits in a number.
fn finding(finding: &Finding, strict: bool) -> Value {
    let line = finding.line();
    let place = finding.place.as_ref();
    json!({
        "rule": finding.hit.rule.id,
        "address": format!("{:#018x}", finding.hit.address),
        "section": finding.hit.region,
        "instruction": finding.hit.text,
        "symbol": place.map(|place| &place.symbol),
        "offset": place.map(|place| place.offset),
        "function": place.and_then(|place| place.own()).map(|frame| &frame.function),
        "file": line.map(|(file, _)| file),
        "line": line.map(|(_, line)| line),
        "hidden": finding.hit.hidden,
        "allowed": finding.allowed,
        "fails": finding.fails(strict),
    })
}

/// One rule.
fn rule(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "number": rule.number,
        "class": rule.class.name(),
        "requirement": rule.requirement.name(),
        "title": rule.title,
        "why": rule.why,
        "instead": rule.instead,
    })
}
