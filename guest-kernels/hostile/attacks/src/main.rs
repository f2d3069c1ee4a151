//! The attacker and its accomplice.
//!
//! The attacker runs every case of the group that its command line names, in three modes: alone, with
//! other vCPUs of its own racing against it, and interrupted all the time. After each case it has the
//! hypervisor recount all frames (builds for tests do), asks the neighbour whether anything of its own
//! changed, and prints `attack ID MODE ok`. A case that ends the VM is announced by
//! `attack ID MODE dies CODE`; the VM is built again then and goes on behind it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod accomplice;
#[cfg(target_os = "none")]
mod calls;
#[cfg(target_os = "none")]
mod driver;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "runs any bytes as instructions")]
mod execute;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod sharing;
#[cfg(target_os = "none")]
mod storm;
#[cfg(target_os = "none")]
mod workers;
#[cfg(target_os = "none")]
mod world;

#[cfg(target_os = "none")]
guest_sdk::entry!(driver::main);

#[cfg(not(target_os = "none"))]
fn main() {}
