//! Who may depend on whom: guests on the SDK, the SDK on the protocol, hv on hv-arch on hv-core on
//! the protocol, xtask on the protocol and the catalogue of attacks.

use std::path::Path;

use serde_json::Value;

use super::{Complaint, Findings};
use crate::build::metadata;

/// Packages of ours that each of ours may depend on, apart from tests.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("protocol", &[]),
    ("hv-core", &["protocol"]),
    ("hv-arch", &["protocol", "hv-core"]),
    ("hv", &["protocol", "hv-core", "hv-arch"]),
    ("guest-build", &[]),
    ("guest-sdk", &["protocol"]),
    ("guest-c", &["guest-sdk", "protocol"]),
    ("hostile-catalogue", &[]),
    ("xtask", &["protocol", "hostile-catalogue"]),
];
/// What must never be below a guest.
const NOT_FOR_GUESTS: [&str; 4] = ["hv-core", "hv-arch", "hv", "xtask"];

/// Compares the workspace with the table.
pub fn check(root: &Path, findings: &mut Findings) {
    let Some(metadata) = metadata(root, &["--no-deps"]) else {
        findings.complaints.push(Complaint("cargo metadata does not run".to_owned()));
        return;
    };
    let packages = edges(&metadata);
    let ours: Vec<&str> = packages.iter().map(|(name, _)| name.as_str()).collect();
    for (name, dependencies) in &packages {
        let allowed = ALLOWED.iter().find(|(other, _)| other == name);
        for dependency in dependencies.iter().filter(|other| ours.contains(&other.as_str())) {
            let good = match allowed {
                Some((_, allowed)) => allowed.contains(&dependency.as_str()),
                None => !NOT_FOR_GUESTS.contains(&dependency.as_str()),
            };
            if !good {
                let what = format!("`{name}` depends on `{dependency}`, which lies outside its layer");
                findings.complaints.push(Complaint(what));
            }
        }
    }
}

/// Each package with its dependencies, apart from those of tests.
fn edges(metadata: &Value) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    list(metadata, "packages")
        .iter()
        .filter_map(|package| {
            let dependencies = list(package, "dependencies")
                .iter()
                .filter(|dependency| text(dependency, "kind").as_deref() != Some("dev"))
                .filter_map(|dependency| text(dependency, "name"))
                .collect();
            Some((text(package, "name")?, dependencies))
        })
        .collect()
}
