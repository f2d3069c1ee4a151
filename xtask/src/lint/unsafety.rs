//! `unsafe` stands only in hv-arch and in the SDK's raw layer (guests may do to themselves what they
//! like); `static mut` stands nowhere.

use std::path::Path;

use super::source::{code, lines_with_word, without_tests};
use super::{Complaint, Findings, is_test, rust_files};

/// Folders whose code must be safe.
const SAFE: [&str; 6] = [
    "protocol/src",
    "hypervisor/core/src",
    "hypervisor/image/src",
    "guest-sdk/src",
    "guest-sdk/build/src",
    "xtask/src",
];
/// What below them need not be: the raw layer, and the macro that a guest's entry expands to.
const RAW: [&str; 2] = ["guest-sdk/src/raw", "guest-sdk/src/macros.rs"];
/// All folders with code of ours.
const ALL: [&str; 5] = ["protocol", "hypervisor", "guest-sdk", "guest-kernels", "xtask"];

/// Checks every file.
pub fn check(root: &Path, findings: &mut Findings) {
    for folder in SAFE {
        for file in rust_files(&root.join(folder)) {
            let shown = file.strip_prefix(root).unwrap_or(&file);
            if RAW.iter().any(|raw| shown.starts_with(raw)) || is_test(shown) {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            for line in unsafe_lines(&text) {
                let what = format!("{}:{line}: `unsafe` outside hv-arch and the SDK's raw layer", shown.display());
                findings.complaints.push(Complaint(what));
            }
        }
    }
    for file in ALL.iter().flat_map(|folder| rust_files(&root.join(folder))) {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if has_static_mut(&code(&text)) {
            let shown = file.strip_prefix(root).unwrap_or(&file).display();
            findings.complaints.push(Complaint(format!("{shown}: `static mut`")));
        }
    }
    for folder in ["hypervisor/arch/src", "guest-sdk/src/raw"] {
        let blocks: usize = rust_files(&root.join(folder))
            .iter()
            .map(|file| std::fs::read_to_string(file).unwrap_or_default())
            .map(|text| unsafe_lines(&text).len())
            .sum();
        findings.figures.push(format!("{folder}: {blocks} lines with `unsafe`"));
    }
}

/// Whether the code has a mutable static, which is not the reference `&'static mut`.
fn has_static_mut(code: &str) -> bool {
    code.match_indices("static mut ").any(|(at, _)| !code.get(..at).is_some_and(|before| before.ends_with('\'')))
}

/// The lines whose code says `unsafe`, apart from attributes such as `#[unsafe(no_mangle)]`, which
/// macros for guests need.
pub fn unsafe_lines(text: &str) -> Vec<usize> {
    let code = without_attributes(&without_tests(&code(text)));
    lines_with_word(&code, "unsafe")
}

/// The code with `unsafe(` of attributes blanked.
fn without_attributes(code: &str) -> String {
    code.replace("#[unsafe(", "#[      (")
}

#[cfg(test)]
mod tests {
    use super::{has_static_mut, unsafe_lines};

    #[test]
    fn a_mutable_static_is_no_mutable_reference() {
        assert!(has_static_mut("static mut X: u32 = 0;"));
        assert!(!has_static_mut("fn f(x: &'static mut u32) {}"));
    }

    #[test]
    fn blocks_and_functions_are_found_attributes_and_lint_names_are_not() {
        let text = "#![forbid(unsafe_code)]\n#[unsafe(no_mangle)]\nunsafe fn f() {}\nfn g() { unsafe { f() } }\n";
        assert_eq!(unsafe_lines(text), [3, 4]);
    }
}
