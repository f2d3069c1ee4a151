//! Claim: each exception of kernel code reaches its handler with the right vector, error code,
//! address and registers; what the handler changes is what the code goes on with; flags that a guest
//! may not set are not taken from a frame; handlers nest.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "instructions that raise exceptions")]
mod instructions;
#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
