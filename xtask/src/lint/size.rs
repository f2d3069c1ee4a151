//! Ring 0 stays small enough to be read: budgets of lines, blanks, comments and tests not counted.

use std::path::Path;

use super::source::{code, lines_of_code, without_tests};
use super::{Complaint, Findings, is_test, rust_files};

/// What runs in ring 0.
const RING_0: [&str; 3] = ["hypervisor/core/src", "hypervisor/arch/src", "hypervisor/image/src"];
/// Lines that it may have without the Xen personality; docs/adr/0009-line-budget.md says why.
const BUDGET: usize = 10_800;
/// Lines that the personality may add; docs/adr/0013-xen-personality.md says why.
const XEN_BUDGET: usize = 7_200;
/// What a build without the feature `xen` leaves out: folders, and files by themselves.
const XEN: [&str; 9] = [
    "hypervisor/core/src/abi/xen",
    "hypervisor/core/src/frame/typed.rs",
    "hypervisor/core/src/paging",
    "hypervisor/core/src/vm/xen",
    "hypervisor/arch/src/cpu/xen.rs",
    "hypervisor/arch/src/guest/xen_info.rs",
    "hypervisor/arch/src/mmu/window.rs",
    "hypervisor/image/src/hypervisor/xen",
    "hypervisor/image/src/hypervisor/without_xen.rs",
];

/// Lines that may be added in builds for tests.
const TESTS_BUDGET: usize = 750;
/// What stands before each item and statement of builds for tests.
const FOR_TESTS: &str = "#[cfg(feature = \"recount\")]";
/// What stands before each item and statement of the personality in a file of every build.
const FOR_XEN: &str = "#[cfg(feature = \"xen\")]";

/// Lines of code of a file, by which builds have them.
#[derive(Debug, PartialEq, Eq)]
struct Lines {
    native: usize,
    xen: usize,
    tests: usize,
}

/// Counts a file's lines; `name` is its path in the project.
fn lines(name: &Path, text: &str) -> Lines {
    let count = |text: &str| lines_of_code(&without_tests(&code(text)));
    let all = count(text);
    if name.file_name().is_some_and(|name| name == "recount.rs") {
        return Lines { native: 0, xen: 0, tests: all };
    }
    let text = text.replace(FOR_TESTS, "#[cfg(test)]");
    let released = count(&text);
    let is_xen = XEN.iter().any(|part| name.starts_with(part));
    let native = if is_xen { 0 } else { count(&text.replace(FOR_XEN, "#[cfg(test)]")) };
    Lines { native, xen: released.saturating_sub(native), tests: all.saturating_sub(released) }
}

/// Counts and compares.
pub fn check(root: &Path, findings: &mut Findings) {
    let (mut native, mut xen, mut tests) = (0, 0, 0);
    for folder in RING_0 {
        let mut all = 0;
        for file in rust_files(&root.join(folder)) {
            let name = file.strip_prefix(root).unwrap_or(&file);
            if is_test(name) {
                continue;
            }
            let own = lines(name, &std::fs::read_to_string(&file).unwrap_or_default());
            native += own.native;
            xen += own.xen;
            tests += own.tests;
            all += own.native + own.xen;
        }
        findings.figures.push(format!("{folder}: {all} lines of code"));
    }
    for (what, lines, budget) in [
        ("ring 0", native, BUDGET),
        ("its Xen personality", xen, XEN_BUDGET),
        ("ring 0, in builds for tests besides", tests, TESTS_BUDGET),
    ] {
        findings.figures.push(format!("{what}: {lines} of {budget} lines of code"));
        if lines > budget {
            findings.complaints.push(Complaint(format!("{what}: {lines} lines of code, the budget is {budget}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Lines, lines};

    #[test]
    fn what_only_some_builds_have_is_counted_apart() {
        let text = "fn f() {\n    #[cfg(feature = \"recount\")]\n    g();\n    #[cfg(feature = \"xen\")]\n    h();\n    i();\n}\n";
        let count = |name: &str| lines(Path::new(name), text);
        assert_eq!(count("a/run.rs"), Lines { native: 3, xen: 2, tests: 2 });
        assert_eq!(count("hypervisor/core/src/paging/pin.rs"), Lines { native: 0, xen: 5, tests: 2 });
        assert_eq!(count("a/recount.rs"), Lines { native: 0, xen: 0, tests: 7 });
    }
}
