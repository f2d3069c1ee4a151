//! `lint`: checks the rules that no other tool checks.

use clap::Args;

use crate::error::{Exit, Failure};
use crate::{lint, tree};

/// Arguments of `lint`.
#[derive(Debug, Args)]
pub struct Options {}

/// Runs the command.
pub fn run(_options: &Options) -> Result<Exit, Failure> {
    check()?;
    Ok(Exit::Success)
}

/// Checks the checkout; prints its figures.
pub fn check() -> Result<(), Failure> {
    let findings = lint::check(&tree::root());
    for figure in &findings.figures {
        println!("{figure}");
    }
    if findings.complaints.is_empty() {
        return Ok(());
    }
    let lines: Vec<&str> = findings.complaints.iter().map(|complaint| complaint.0.as_str()).collect();
    Err(Failure::new(Exit::Unmet, format_args!("error: {}", lines.join("\nerror: "))))
}
