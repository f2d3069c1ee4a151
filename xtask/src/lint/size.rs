//! Ring 0 stays small enough to be read: a budget of lines, blanks, comments and tests not counted.

use std::path::Path;

use super::source::{code, lines_of_code, without_tests};
use super::{Complaint, Findings, is_test, rust_files};

/// What runs in ring 0.
const RING_0: [&str; 3] = ["hypervisor/core/src", "hypervisor/arch/src", "hypervisor/image/src"];
/// Lines that it may have; docs/adr/0009-line-budget.md says why.
const BUDGET: usize = 10_500;

/// Whether a file is only in builds for tests: what the feature `recount` adds.
fn is_for_tests(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "recount.rs")
}

/// Counts and compares.
pub fn check(root: &Path, findings: &mut Findings) {
    let mut total = 0;
    for folder in RING_0 {
        let lines: usize = rust_files(&root.join(folder))
            .iter()
            .filter(|file| !is_test(file.strip_prefix(root).unwrap_or(file)) && !is_for_tests(file))
            .map(|file| std::fs::read_to_string(file).unwrap_or_default())
            .map(|text| lines_of_code(&without_tests(&code(&text))))
            .sum();
        findings.figures.push(format!("{folder}: {lines} lines of code"));
        total += lines;
    }
    findings.figures.push(format!("ring 0: {total} of {BUDGET} lines of code"));
    if total > BUDGET {
        let what = format!("ring 0 has {total} lines of code, the budget is {BUDGET}");
        findings.complaints.push(Complaint(what));
    }
}
