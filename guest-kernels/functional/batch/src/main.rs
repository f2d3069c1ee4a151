//! Claim: a batch makes its calls in order, each with a result of its own; calls that cannot stand in
//! a batch are refused one by one; memory batches do the same for mappings.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
