//! `header`: writes the C header from the protocol's tables.

use clap::Args;

use crate::error::{Exit, Failure};
use crate::{generate, tree};

/// Arguments of `header`.
#[derive(Debug, Args)]
pub struct Options {
    /// Writes nothing; fails if the file differs.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    write(options.check)?;
    Ok(Exit::Success)
}

/// Writes or checks the header.
pub fn write(check: bool) -> Result<(), Failure> {
    let path = tree::root().join("guest-sdk/c/cloister.h");
    super::generate(&path, &generate::header::text(), check)
}
