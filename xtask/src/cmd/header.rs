//! `header`: writes the C header from the protocol's tables.

use crate::error::Failure;
use crate::{generate, tree};

/// Writes or checks the header.
pub fn write(check: bool) -> Result<(), Failure> {
    let path = tree::root().join("guest-sdk/c/cloister.h");
    super::generate(&path, &generate::header::text(), check)
}
