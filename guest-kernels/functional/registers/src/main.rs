//! Claim: a hypercall keeps every register but rax, rcx, r11 and, with two results, rdx; an event
//! upcall keeps all of them, in kernel mode and in user mode.
//!
//! Method: fill all registers with patterns, make calls of each kind, compare; compute on patterns in
//! a loop while a timer interrupts.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "fills all registers at once")]
mod patterns;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
