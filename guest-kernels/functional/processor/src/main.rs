//! Claim: what a VM is told of the processor is its policy's and the same on all vCPUs; what it is not
//! told of, and a policy can withhold, faults; nothing privileged is open. The words of the command
//! line say what the policy is: `avx`, `fsgsbase`, `coarse`, `no-debug`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "instructions that may fault")]
mod instructions;
#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
