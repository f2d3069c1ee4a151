//! Ring 0 stays small enough to be read: budgets of lines, blanks, comments and tests not counted.

use std::path::Path;

use super::source::{code, lines_of_code, without_tests};
use super::{Complaint, Findings, is_test, rust_files};

/// What runs in ring 0.
const RING_0: [&str; 3] = ["hypervisor/core/src", "hypervisor/arch/src", "hypervisor/image/src"];
/// Lines that it may have without the Xen personality; docs/adr/0009-line-budget.md says why.
const BUDGET: usize = 10_500;
/// Lines that the personality may add; docs/adr/0013-xen-personality.md says why.
const XEN_BUDGET: usize = 6_500;
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

/// Whether a file is only in builds for tests: what the feature `recount` adds.
fn is_for_tests(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "recount.rs")
}

/// Counts and compares.
pub fn check(root: &Path, findings: &mut Findings) {
    let (mut native, mut xen) = (0, 0);
    for folder in RING_0 {
        let mut lines = 0;
        for file in rust_files(&root.join(folder)) {
            let name = file.strip_prefix(root).unwrap_or(&file);
            if is_test(name) || is_for_tests(&file) {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let count = lines_of_code(&without_tests(&code(&text)));
            lines += count;
            if XEN.iter().any(|part| name.starts_with(part)) {
                xen += count;
            } else {
                native += count;
            }
        }
        findings.figures.push(format!("{folder}: {lines} lines of code"));
    }
    for (what, lines, budget) in [("ring 0", native, BUDGET), ("its Xen personality", xen, XEN_BUDGET)] {
        findings.figures.push(format!("{what}: {lines} of {budget} lines of code"));
        if lines > budget {
            findings.complaints.push(Complaint(format!("{what} has {lines} lines of code, the budget is {budget}")));
        }
    }
}
