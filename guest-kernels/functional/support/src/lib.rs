//! What several functional guests need.
#![cfg_attr(not(test), no_std)]

pub mod grants;
pub mod probe;
pub mod restart;
pub mod program;
#[expect(unsafe_code, reason = "accesses that may fault")]
mod touch;
#[expect(unsafe_code, reason = "reads the bytes between two labels")]
pub mod code;
#[expect(unsafe_code, reason = "hypercalls with arguments that no safe wrapper would pass")]
pub mod wild;
