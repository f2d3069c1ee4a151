//! Ring 0 stays small enough to be read: a budget of lines, blanks, comments and tests not counted.

use std::path::Path;

use super::source::{code, lines_of_code, without_tests};
use super::{Complaint, Findings, is_test, rust_files};

/// What runs in ring 0.
const RING_0: [&str; 3] = ["hypervisor/core/src", "hypervisor/arch/src", "hypervisor/image/src"];
/// Lines that it may have; docs/adr/0009-line-budget.md says why.
const BUDGET: usize = 10_500;

/// Lines that may be added in builds for tests.
const TESTS_BUDGET: usize = 500;
/// What stands before each item and statement of builds for tests.
const FOR_TESTS: &str = "#[cfg(feature = \"recount\")]";

/// Lines of code of a file: in every build, and in builds for tests only (feature `recount`).
fn lines(file: &Path, text: &str) -> (usize, usize) {
    let all = lines_of_code(&without_tests(&code(text)));
    let is_for_tests = file.file_name().is_some_and(|name| name == "recount.rs");
    let in_every =
        if is_for_tests { 0 } else { lines_of_code(&without_tests(&code(&text.replace(FOR_TESTS, "#[cfg(test)]")))) };
    (in_every, all.saturating_sub(in_every))
}

/// Counts and compares.
pub fn check(root: &Path, findings: &mut Findings) {
    let (mut total, mut tests) = (0, 0);
    for folder in RING_0 {
        let counts = rust_files(&root.join(folder))
            .into_iter()
            .filter(|file| !is_test(file.strip_prefix(root).unwrap_or(file)))
            .map(|file| lines(&file, &std::fs::read_to_string(&file).unwrap_or_default()));
        let (own, own_tests) = counts.fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
        findings.figures.push(format!("{folder}: {own} lines of code"));
        total += own;
        tests += own_tests;
    }
    for (what, lines, budget) in
        [("ring 0", total, BUDGET), ("ring 0, in builds for tests besides", tests, TESTS_BUDGET)]
    {
        findings.figures.push(format!("{what}: {lines} of {budget} lines of code"));
        if lines > budget {
            findings.complaints.push(Complaint(format!("{what}: {lines} lines of code, the budget is {budget}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::lines;

    #[test]
    fn what_only_builds_for_tests_have_is_counted_apart() {
        let text = "fn f() {\n    #[cfg(feature = \"recount\")]\n    g();\n    h();\n}\n";
        assert_eq!(lines(Path::new("a/run.rs"), text), (3, 2));
        assert_eq!(lines(Path::new("a/recount.rs"), text), (0, 5));
    }
}
