//! An audit in the form that code-review tools read: SARIF 2.1.0 (OASIS, 2020).

use serde_json::{Map, Value, json};

use super::rules::{Class, RULES, Rule};
use super::{Finding, Report, text};

/// Where the schema of the format lies.
const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// The document.
pub fn document(reports: &[Report]) -> Value {
    let results: Vec<Value> =
        reports.iter().flat_map(|report| report.findings.iter().map(|found| result(report, found))).collect();
    let stale: Vec<Value> = reports.iter().flat_map(notifications).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "cargo xtask audit",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": RULES.iter().map(rule).collect::<Vec<_>>(),
            } },
            "invocations": [{ "executionSuccessful": true, "toolConfigurationNotifications": stale }],
            "originalUriBaseIds": { "SRCROOT": { "description": { "text": "the checkout" } } },
            "results": results,
        }],
    })
}

/// How grave a class is in SARIF's words.
fn level(class: Class) -> &'static str {
    match class {
        Class::Silent | Class::Fault => "error",
        Class::Policy => "warning",
        Class::Noted => "note",
    }
}

/// One rule.
fn rule(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "shortDescription": { "text": rule.title },
        "fullDescription": { "text": format!("{}: {}.", rule.title, rule.why) },
        "help": { "text": format!("Instead: {}.", rule.instead) },
        "defaultConfiguration": { "level": level(rule.class) },
        "properties": { "class": rule.class.name(), "origin": text::origin(rule) },
    })
}

/// One finding. An allowed one is a suppressed one.
fn result(report: &Report, finding: &Finding) -> Value {
    let hit = &finding.hit;
    let index = RULES.iter().position(|rule| rule == hit.rule);
    let hidden = if hit.hidden { ", hidden in other bytes" } else { "" };
    let message = format!("`{}`{hidden}: {}. Instead: {}.", hit.text, hit.rule.why, hit.rule.instead);
    let mut result = json!({
        "ruleId": hit.rule.id,
        "ruleIndex": index,
        "level": if hit.hidden { "note" } else { level(hit.rule.class) },
        "message": { "text": message },
        "locations": [location(report, finding)],
    });
    if let (Some(reason), Some(result)) = (&finding.allowed, result.as_object_mut()) {
        result.insert("suppressions".to_owned(), json!([{ "kind": "external", "justification": reason }]));
    }
    result
}

/// Where a finding lies: in a source file if the program tells, else in the program itself.
fn location(report: &Report, finding: &Finding) -> Value {
    let mut physical = Map::new();
    let source = finding.line();
    physical.insert("artifactLocation".to_owned(), artifact(source.map_or(&report.file, |(file, _)| file)));
    // 0 stands for "no line" in debug information, and SARIF counts from 1.
    if let Some((_, line @ 1..)) = source {
        physical.insert("region".to_owned(), json!({ "startLine": line }));
    }
    physical.insert(
        "address".to_owned(),
        json!({
            "absoluteAddress": finding.hit.address,
            "fullyQualifiedName": format!("{}!{:#018x}", report.name, finding.hit.address),
        }),
    );
    let mut location = Map::new();
    location.insert("physicalLocation".to_owned(), Value::Object(physical));
    let logical = match &finding.place {
        Some(place) => json!({ "fullyQualifiedName": place.symbol, "kind": "function" }),
        None => json!({ "fullyQualifiedName": finding.hit.region, "kind": "section" }),
    };
    location.insert("logicalLocations".to_owned(), json!([logical]));
    Value::Object(location)
}

/// A file as a URI: below the checkout, or absolute.
fn artifact(path: &str) -> Value {
    let mut uri = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => uri.push(char::from(byte)),
            _ => uri += &format!("%{byte:02X}"),
        }
    }
    if path.starts_with('/') {
        json!({ "uri": format!("file://{uri}") })
    } else {
        json!({ "uri": uri, "uriBaseId": "SRCROOT" })
    }
}

/// Allowances that match nothing.
fn notifications(report: &Report) -> Vec<Value> {
    let notification = |stale: &String| {
        json!({
            "level": "error",
            "message": { "text": format!("{}: the allowance of {stale} matches nothing", report.name) },
        })
    };
    report.stale.iter().map(notification).collect()
}
