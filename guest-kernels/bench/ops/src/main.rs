//! What each operation costs, in ticks of the time-stamp counter: under an instruction clock, in
//! executed instructions, hypervisor and guest together.
//!
//! Prints `bench NAME TICKS`, the median of many runs less the cost of measuring.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "handlers with nothing around them")]
mod bare;
#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod meter;
#[cfg(target_os = "none")]
mod peer;
#[cfg(target_os = "none")]
mod user;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
