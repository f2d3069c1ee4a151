//! `reference`: writes the generated pages of `docs/`.

use crate::error::Failure;
use crate::{generate, tree};

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
