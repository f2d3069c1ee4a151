//! Claim: the hypervisor below keeps every promise of the table of calls.
//!
//! Method: cases, each of which says what of the table it shows; `docs/conformance.md` tells how they
//! are written and what the lines mean. One program plays all VMs of the system; its command line
//! names the part.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod assembly;
#[cfg(target_os = "none")]
mod board;
#[cfg(target_os = "none")]
mod case;
#[cfg(target_os = "none")]
mod cases;
#[cfg(target_os = "none")]
mod parts;
#[cfg(target_os = "none")]
mod record;
#[cfg(target_os = "none")]
mod runner;
#[cfg(target_os = "none")]
mod scene;

#[cfg(target_os = "none")]
guest_sdk::entry!(parts::main);

#[cfg(not(target_os = "none"))]
fn main() {}
