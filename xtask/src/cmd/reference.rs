//! `reference`: writes the generated pages of `docs/`.

use clap::Args;

use crate::error::{Exit, Failure};
use crate::{generate, tree};

/// Arguments of `reference`.
#[derive(Debug, Args)]
pub struct Options {
    /// Writes nothing; fails if a page differs.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    write(options.check)?;
    Ok(Exit::Success)
}

/// Writes or checks the pages.
pub fn write(check: bool) -> Result<(), Failure> {
    let docs = tree::root().join("docs");
    for (folder, pages) in [("reference", generate::reference::pages()), ("errors", generate::errors::pages())] {
        for (name, text) in pages {
            super::generate(&docs.join(folder).join(name), &text, check)?;
        }
    }
    Ok(())
}
