//! What several functional guests need.
#![cfg_attr(not(test), no_std)]

#[expect(unsafe_code, reason = "calls in batches are as unsafe as alone")]
pub mod batch;
pub mod bench;
#[expect(unsafe_code, reason = "reads the bytes between two labels")]
pub mod code;
pub mod grants;
pub mod probe;
pub mod program;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "loads all registers at once")]
pub mod registers;
pub mod restart;
#[expect(unsafe_code, reason = "accesses that may fault")]
mod touch;
#[expect(unsafe_code, reason = "hypercalls with arguments that no safe wrapper would pass")]
pub mod wild;
