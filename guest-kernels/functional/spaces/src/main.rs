//! Claim: a space shows exactly the frames that were mapped in it, with exactly the rights that were
//! given, from the return of the call on; the kernel half is common to all spaces; user mode reaches
//! nothing of the kernel half.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
