//! `reference`: writes the generated pages of `docs/`.

use crate::error::Failure;
use crate::{generate, tree};

/// Writes or checks the pages.
pub fn write(check: bool) -> Result<(), Failure> {
    let docs = tree::root().join("docs");
    let all = [
        ("reference", generate::reference::pages()),
        ("reference", vec![generate::instructions::page()]),
        ("errors", generate::errors::pages()),
        (
            "security",
            vec![generate::attacks::page(), generate::advisories::page(), generate::ledger::page(&tree::root())],
        ),
    ];
    for (folder, pages) in all {
        for (name, text) in pages {
            super::generate(&docs.join(folder).join(name), &text, check)?;
        }
    }
    Ok(())
}
