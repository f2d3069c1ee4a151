//! Claim: a guest that executes instructions which are sensitive but do not trap (Robin and Irvine
//! 2000, and what came later) learns nothing that differs between VMs of one configuration or between
//! CPUs, and changes nothing but its own state; the ABI offers something for each.
//!
//! Prints one line for each instruction, in both modes. With the command line `busy` it disturbs the
//! others instead, for ever.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
