//! `bench`.

use clap::Args;

use crate::error::{Exit, Failure};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct Options {}

/// Runs the command.
pub fn run(_options: &Options) -> Result<Exit, Failure> {
    Err(Failure::usage("not there yet"))
}
