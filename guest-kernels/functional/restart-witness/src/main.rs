//! Claim (with `restart-phoenix`): a VM that dies is built again from the image, as often as the system
//! file says; its neighbour does not notice.
//!
//! This VM counts the lives of the other.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
