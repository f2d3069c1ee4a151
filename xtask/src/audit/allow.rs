//! Known-good sites, named in the manifest of the crate that has them:
//!
//! ```toml
//! [package.metadata.cloister]
//! audit = [
//!     { rules = ["pushf"], symbol = "probe::flags", reason = "its claim is what PUSHF shows" },
//! ]
//! ```
//!
//! An allowance that matches nothing is an error: it would hide the next one that comes there.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Finding;
use super::rules;

/// One entry of `audit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Rules that may be broken.
    pub rules: Vec<String>,
    /// Where: a function, or a module with all that is in it; anywhere in the program if not named.
    pub symbol: Option<String>,
    /// Why that is right.
    pub reason: String,
}

impl Allowance {
    /// Whether it names the place of a finding.
    fn reaches(&self, finding: &Finding) -> bool {
        let Some(wanted) = &self.symbol else {
            return true;
        };
        let is_it = |name: &str| {
            let rest = name.strip_prefix(wanted.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let Some(place) = &finding.place else {
            return false;
        };
        is_it(&place.symbol) || place.frames.iter().any(|frame| is_it(&frame.function))
    }

    /// Where it holds, as text.
    fn shown(&self) -> String {
        self.symbol.as_ref().map_or_else(|| "anywhere".to_owned(), |symbol| format!("in `{symbol}`"))
    }
}

/// Gives each finding the reason of the first allowance that names it; what matched nothing.
pub fn apply(allowances: &[Allowance], findings: &mut [Finding]) -> Vec<String> {
    let mut stale = Vec::new();
    for allowance in allowances {
        for rule in &allowance.rules {
            let mut used = false;
            for finding in findings.iter_mut().filter(|finding| finding.hit.rule.id == *rule) {
                if allowance.reaches(finding) {
                    used = true;
                    finding.allowed.get_or_insert_with(|| allowance.reason.clone());
                }
            }
            if !used {
                stale.push(format!("`{rule}` {}", allowance.shown()));
            }
        }
    }
    stale
}

/// The packages of a workspace, as far as an audit needs them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its Cargo.toml.
    pub manifest: PathBuf,
    /// Its programs.
    pub programs: Vec<String>,
    /// Its allowances, or what is wrong with them.
    pub allowances: Result<Vec<Allowance>, String>,
}

/// The packages of a folder's workspace, if cargo tells.
pub fn packages(folder: &Path) -> Option<Vec<Package>> {
    let metadata = crate::build::metadata(folder, &["--no-deps"])?;
    metadata.get("packages")?.as_array()?.iter().map(package).collect()
}

/// One package of cargo's description.
fn package(value: &Value) -> Option<Package> {
    let is_program = |target: &&Value| {
        let kinds = target.get("kind").and_then(Value::as_array);
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "bin"))
    };
    let programs = value.get("targets")?.as_array()?.iter().filter(is_program);
    Some(Package {
        name: value.get("name")?.as_str()?.to_owned(),
        manifest: PathBuf::from(value.get("manifest_path")?.as_str()?),
        programs: programs.filter_map(|target| target.get("name")?.as_str().map(str::to_owned)).collect(),
        allowances: read(value.get("metadata").and_then(|metadata| metadata.get("cloister")?.get("audit"))),
    })
}

/// Reads the value of `audit`.
pub fn read(value: Option<&Value>) -> Result<Vec<Allowance>, String> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(entries)) => entries.iter().map(read_entry).collect(),
        Some(_) => Err("`audit` is a list of tables".to_owned()),
    }
}

/// Reads one entry.
fn read_entry(entry: &Value) -> Result<Allowance, String> {
    let table = entry.as_object().ok_or("an entry of `audit` is a table")?;
    if let Some(key) = table.keys().find(|key| !["rules", "symbol", "reason"].contains(&key.as_str())) {
        return Err(format!("`{key}` is not a key of `audit`; it has rules, symbol and reason"));
    }
    let text = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(Some(text.clone())),
        Some(_) => Err(format!("`{key}` is a text that is not empty")),
    };
    let rules = table.get("rules").and_then(Value::as_array).ok_or("`rules` is a list of rules")?;
    let rules: Vec<String> = rules
        .iter()
        .map(|rule| {
            let rule = rule.as_str().ok_or("`rules` is a list of texts")?;
            let known = rules::find(rule).ok_or_else(|| format!("there is no rule `{rule}`"))?;
            Ok(known.id.to_owned())
        })
        .collect::<Result<_, String>>()?;
    if rules.is_empty() {
        return Err("`rules` names at least one rule".to_owned());
    }
    Ok(Allowance { rules, symbol: text("symbol")?, reason: text("reason")?.ok_or("`reason` is missing")? })
}
