//! Claim (with `grants-peer`): a granted frame can be used by its peer and nobody else, only as
//! granted, and not at all once the grant is revoked.
//!
//! This VM grants and revokes; the peer uses what it gets. They talk over the channel `control`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
