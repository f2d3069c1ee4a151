//! Every error code that the sources name is in the table, so that it has a page.

use std::path::Path;

use super::{Complaint, Findings, is_test, rust_files};
use crate::error::codes::ALL;

/// Looks for codes in all sources but tests.
pub fn check(root: &Path, findings: &mut Findings) {
    for folder in ["hypervisor", "guest-sdk", "xtask/src"] {
        for file in rust_files(&root.join(folder)) {
            let shown = file.strip_prefix(root).unwrap_or(&file);
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if is_test(shown) {
                continue;
            }
            for code in named(&text) {
                if ALL.iter().all(|known| known.id != code) {
                    let what = format!("{}: {code} is not in xtask/src/error/codes.rs", shown.display());
                    findings.complaints.push(Complaint(what));
                }
            }
        }
    }
}

/// The codes that a text names: `HV-`, capital letters, `-` and three digits.
fn named(text: &str) -> Vec<&str> {
    text.match_indices("HV-")
        .filter_map(|(at, _)| {
            let tail = text.get(at..)?;
            let area = tail.get(3..)?.find(|c: char| !c.is_ascii_uppercase())?;
            let code = tail.get(..3 + area + 4)?;
            let number = code.get(3 + area..)?.strip_prefix('-')?;
            (area > 0 && number.bytes().all(|b| b.is_ascii_digit())).then_some(code)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_found_in_running_text() {
        assert_eq!(
            super::named("an HV-VM-001, `HV-CFG-012`; HV-BOOT and HV-X-1 are none"),
            ["HV-VM-001", "HV-CFG-012"]
        );
    }
}
