//! `doctor`: says what this machine lacks, and the command that gets it.

use clap::Args;
use serde_json::{Value, json};

use crate::error::{Exit, Failure};
use crate::host::check::{self, Finding, State};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Options {
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let findings = check::all();
    let fit = findings.iter().all(|finding| finding.state != State::Missing);
    if options.json {
        let findings: Vec<Value> = findings.iter().map(to_json).collect();
        println!("{}", json!({"fit": fit, "findings": findings}));
    } else {
        for finding in &findings {
            println!("{}", line(finding));
        }
        let words = if fit { "everything needed is there" } else { "something needed is missing" };
        println!("{words}");
    }
    Ok(if fit { Exit::Success } else { Exit::Unfit })
}

/// One finding as JSON.
fn to_json(finding: &Finding) -> Value {
    json!({
        "what": finding.what,
        "state": finding.state.word(),
        "code": finding.code,
        "detail": finding.detail,
        "command": finding.command,
    })
}

/// One finding as a line, with a second one for its command.
fn line(finding: &Finding) -> String {
    let mut line = format!("{:<8} {:<18} {}", finding.state.word(), finding.what, finding.detail);
    if let Some(code) = finding.code {
        line += &format!(" [{code}]");
    }
    if let Some(command) = &finding.command {
        line += &format!("\n{:<27} try: {command}", "");
    }
    line
}
