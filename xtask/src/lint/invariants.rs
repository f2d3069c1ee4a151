//! Every invariant that ring 0 names, in a `SAFETY` comment of hv-arch or when it ends the machine, is explained in
//! `docs/soundness.md`.

use std::path::Path;

use super::{Complaint, Findings, rust_files};
use crate::generate::ledger::{arguments, ids, known_ids};

/// Where they are explained.
const PAGE: &str = "docs/soundness.md";

/// Compares.
pub fn check(root: &Path, findings: &mut Findings) {
    let known = known_ids(&std::fs::read_to_string(root.join(PAGE)).unwrap_or_default());
    for folder in ["hypervisor/arch/src", "hypervisor/image/src"] {
        for file in rust_files(&root.join(folder)) {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let shown = file.strip_prefix(root).unwrap_or(&file).display();
            for id in named(&text).into_iter().filter(|id| !known.contains(id)) {
                findings.complaints.push(Complaint(format!("{shown}: invariant {id} is not in {PAGE}")));
            }
        }
    }
}

/// The ids that a source names.
fn named(text: &str) -> Vec<String> {
    let ends = text.split("broken(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')?.split_once('"'));
    let in_ends = ends.flat_map(|(id, _)| ids(id));
    arguments(text).iter().flat_map(|argument| ids(argument)).chain(in_ends).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_of_arguments_and_of_ends_are_found() {
        let text =
            "// SAFETY: by M1.\nunsafe { x() }\npanic::broken(\n    \"R2\",\n    \"why Q9\");\n// M7 is no argument\n";
        assert_eq!(super::named(text), ["M1", "R2"]);
    }
}
