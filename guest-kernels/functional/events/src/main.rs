//! Claim: an event is delivered exactly once, to the vCPU and handler of its port, and never while
//! it is masked; nobody sleeps over a pending event, and no kick is lost.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
