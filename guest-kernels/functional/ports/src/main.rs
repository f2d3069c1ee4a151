//! Claim: a VM reaches exactly the I/O ports that its system file gives it, by calls; the instructions
//! fault for all. The command line is `driver` for the VM that has the clock's ports (0x70 and 0x71).
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "instructions that must fault")]
mod instructions;
#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
