//! What the hostile guests share: the board on which they write to each other, calls with any
//! arguments, and all registers at once.
#![cfg_attr(not(test), no_std)]

#[expect(unsafe_code, reason = "a shared region as atomics")]
pub mod board;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "loads all registers at once")]
pub mod registers;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "accesses that may fault")]
pub mod touch;
#[expect(unsafe_code, reason = "hypercalls with arguments that no safe wrapper would pass")]
pub mod wild;
