//! The terminal: colours when it is one, raw input while a system runs.

use std::io::IsTerminal;
use std::process::{Command, Stdio};

/// Whether colours are wanted on standard output.
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Whether a person types.
pub fn interactive() -> bool {
    std::io::stdin().is_terminal()
}

/// The terminal hands over each key as it is typed, without echo, until this value is dropped.
#[derive(Debug)]
pub struct RawInput {
    saved: String,
}

impl RawInput {
    /// Switches the terminal, if standard input is one and `stty` can be had. Keys that would
    /// raise a signal arrive as bytes, so that the run can end in order.
    pub fn enter() -> Option<RawInput> {
        if !interactive() {
            return None;
        }
        let output = Command::new("stty").arg("-g").stdin(Stdio::inherit()).output().ok()?;
        let saved = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        let switched = stty(&["-icanon", "-echo", "-isig", "-ixon", "-icrnl", "min", "1"]);
        (output.status.success() && switched).then_some(RawInput { saved })
    }
}

impl Drop for RawInput {
    fn drop(&mut self) {
        stty(&[&self.saved]);
    }
}

/// Runs `stty` on our own terminal.
fn stty(arguments: &[&str]) -> bool {
    Command::new("stty")
        .args(arguments)
        .stdin(Stdio::inherit())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
