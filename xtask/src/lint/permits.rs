//! A permit is made at one place only: where the policy decides.

use std::path::Path;

use super::source::{code, without_tests};
use super::{Complaint, Findings, is_test, rust_files};

/// The only module that can see a permit's fields, and so make one.
const MODULE: &str = "hypervisor/core/src/policy";

/// Counts the places.
pub fn check(root: &Path, findings: &mut Findings) {
    let files = rust_files(&root.join(MODULE));
    let texts = files.iter().filter(|file| !is_test(file.strip_prefix(root).unwrap_or(file)));
    let sources: Vec<String> = texts
        .map(|file| std::fs::read_to_string(file).unwrap_or_default())
        .map(|text| without_tests(&code(&text)))
        .collect();
    let made: usize = sources.iter().map(|source| constructions(source)).sum();
    if made != 1 {
        let what = format!("{MODULE}: a permit is made at {made} places, it must be exactly one");
        findings.complaints.push(Complaint(what));
    }
    if sources.iter().any(|source| can_be_copied(source)) {
        findings.complaints.push(Complaint(format!("{MODULE}: a permit can be copied or made from bytes")));
    }
}

/// How often code makes a permit: by its name, or by `Self` in its own `impl`.
fn constructions(code: &str) -> usize {
    let named = code.match_indices("Permit {").filter(|(at, _)| {
        let before = code.get(..*at).unwrap_or("").trim_end();
        !before.ends_with("struct") && !before.ends_with("impl") && !before.ends_with("for") && !before.ends_with("->")
    });
    let own = code.split("impl").filter(|block| block.trim_start().starts_with("Permit {"));
    named.count() + own.map(|block| block.matches("Self {").count()).sum::<usize>()
}

/// Whether the attributes of the permit derive more than comparing and showing.
fn can_be_copied(code: &str) -> bool {
    let Some(at) = code.find("pub struct Permit") else {
        return true;
    };
    let before = code.get(..at).unwrap_or("");
    let derive = before.rfind("#[derive(").and_then(|at| before.get(at..)).unwrap_or("");
    let traits = derive.split(']').next().unwrap_or("");
    traits.split(['(', ')', ',']).skip(1).map(str::trim).any(|name| !matches!(name, "" | "Debug" | "PartialEq" | "Eq"))
}

#[cfg(test)]
mod tests {
    use super::{can_be_copied, constructions};

    const GOOD: &str = "#[derive(Debug, PartialEq, Eq)]\npub struct Permit {\n a: u8\n}\nimpl Permit {\n}\nfn f() -> Permit { Permit { a: 1 } }\n";

    #[test]
    fn declarations_are_no_constructions() {
        assert_eq!(constructions(GOOD), 1);
        assert_eq!(constructions(&format!("{GOOD}fn g() {{ Some(Permit {{ a: 2 }}); }}")), 2);
        assert_eq!(constructions("impl Permit { fn new() -> Permit { Self { a: 1 } } }"), 1);
    }

    #[test]
    fn a_permit_that_can_be_cloned_is_found() {
        assert!(!can_be_copied(GOOD));
        assert!(can_be_copied(&GOOD.replace("Debug", "Debug, Clone")));
    }
}
