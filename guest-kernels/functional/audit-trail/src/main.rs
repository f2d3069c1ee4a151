//! Claim: what one VM is refused stands in the audit log to the last denial, in a chain without a gap, and
//! only the auditor reads it. One VM offends, another reads; their command lines say which.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
