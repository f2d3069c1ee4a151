//! Claim: what each VM can do to each other one is what the policy says, cell by cell.
//!
//! Every VM of the system runs this kernel: it grants frames to all others, then tries each operation
//! on each of them and prints what came of it. `xtask` compares with the table of the policy.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
