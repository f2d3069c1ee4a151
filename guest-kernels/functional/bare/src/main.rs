//! Claim: the SDK's lowest layer can be used alone: this kernel has its own entry, note, panic handler
//! and stack use, no heap and no logger, and links nothing that it does not call.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the symbols that the SDK would give otherwise")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {}
