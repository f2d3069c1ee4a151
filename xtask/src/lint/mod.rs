//! Rules that no other tool checks, each in a file: who may write `unsafe` or make a permit, who may depend on whom,
//! how large ring 0 may be, that every error code has a page and every invariant an explanation.

mod codes;
mod invariants;
mod layers;
mod permits;
mod size;
mod source;
mod unsafety;

pub use unsafety::unsafe_lines;

use std::path::{Path, PathBuf};

/// One broken rule: where and what.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaint(pub String);

/// What the checks found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Broken rules.
    pub complaints: Vec<Complaint>,
    /// Figures worth printing.
    pub figures: Vec<String>,
}

/// Checks a checkout.
pub fn check(root: &Path) -> Findings {
    let mut findings = Findings::default();
    unsafety::check(root, &mut findings);
    size::check(root, &mut findings);
    layers::check(root, &mut findings);
    codes::check(root, &mut findings);
    permits::check(root, &mut findings);
    invariants::check(root, &mut findings);
    findings
}

/// The Rust files below a folder, in order.
pub fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Whether a file holds tests only, by its name or folder.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs" | "fakes")))
}
