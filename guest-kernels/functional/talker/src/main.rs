//! Does things that depend on a secret, to let another VM know of it if anything can: the high side of the
//! two-run test of non-interference. `cargo xtask noninterference` compares what the other one saw.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
