//! Claim: a VM starts with its floating-point and vector registers in their initial state; each vCPU
//! keeps its own while others run.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "vector registers, which compiled code does not use")]
mod vector;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
