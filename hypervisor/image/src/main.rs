//! The Cloister hypervisor: the program that boots.
//!
//! Everything is in `hypervisor`, which exists for the bare machine only; on a host this is an empty
//! program, so that commands over the whole workspace work there.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod hypervisor;

#[cfg(not(target_os = "none"))]
fn main() {}
