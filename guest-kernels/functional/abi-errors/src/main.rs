//! Claim: bad arguments of each call get exactly the status that the call's page names, and change
//! nothing.
//!
//! Method: a table of calls with one thing wrong each; before and after, everything that the VM can
//! ask about itself is compared. Then every number that is no call.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod cases;
#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "moves the stack pointer")]
mod resume;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
