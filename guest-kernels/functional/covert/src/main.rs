//! Two ends of a covert channel: a sender that modulates one resource by a string of bits, and a receiver that measures
//! something in each symbol's time. `cargo xtask channels` decodes what the receiver saw.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
mod receive;
#[cfg(target_os = "none")]
mod send;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
