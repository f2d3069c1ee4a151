//! Claim (with `grants-owner`): a granted frame can be used by its peer and nobody else, only as
//! granted, and not at all once the grant is revoked.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
