//! What the hostile guests share: the board on which they write to each other, and calls with any
//! arguments.
#![cfg_attr(not(test), no_std)]

#[expect(unsafe_code, reason = "a shared region as atomics")]
pub mod board;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "accesses that may fault")]
pub mod touch;
#[expect(unsafe_code, reason = "hypercalls with arguments that no safe wrapper would pass")]
pub mod wild;
