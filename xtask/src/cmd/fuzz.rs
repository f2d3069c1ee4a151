//! `fuzz`: runs the fuzz targets, on stable Rust or by libFuzzer.

use std::process::Command;

use clap::Args;

use crate::error::{Context, Exit, Failure};
use crate::host::fetch;
use crate::tree;

/// The targets, cheap ones first: the table of `fuzz/src/lib.rs`.
pub const TARGETS: [&str; 8] = ["calls", "events", "grants", "decode", "spaces", "policy", "manifest", "image"];

/// Arguments of `fuzz`.
#[derive(Debug, Args)]
pub struct Options {
    /// One target; otherwise all, one after the other.
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How many inputs for each.
    #[arg(long, default_value_t = 100_000)]
    executions: u64,
    /// Chooses the inputs; the same seed makes the same ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Has libFuzzer choose inputs by what code they reach. Needs nightly and cargo-fuzz.
    #[arg(long)]
    coverage: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    for target in TARGETS.iter().filter(|name| options.target.as_ref().is_none_or(|target| target == *name)) {
        let mut command =
            if options.coverage { guided(target, options) } else { plain(target, options.executions, options.seed) };
        let status = command.status().context(command.get_program().display())?;
        if !status.success() {
            return Ok(Exit::Unmet);
        }
    }
    Ok(Exit::Success)
}

/// The runner of stable Rust.
pub fn plain(target: &str, executions: u64, seed: u64) -> Command {
    let mut command = Command::new("cargo");
    let words = ["run", "--quiet", "--release", "--bin", "run", "--target-dir"];
    command.current_dir(tree::root().join("fuzz")).args(words).arg(tree::work().join("fuzz")).arg("--");
    command.args([target.to_owned(), executions.to_string(), seed.to_string()]);
    command
}

/// libFuzzer, through cargo-fuzz.
fn guided(target: &str, options: &Options) -> Command {
    let mut command = Command::new("rustup");
    let words = ["run", fetch::NIGHTLY, "cargo", "fuzz", "run", "--features", "coverage", target, "--"];
    command.current_dir(tree::root()).args(words);
    command.args([format!("-runs={}", options.executions), format!("-seed={}", options.seed)]);
    command
}
