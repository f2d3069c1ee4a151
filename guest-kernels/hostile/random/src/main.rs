//! Random programs of hypercalls and accesses, each from a seed and its number, with a neighbour as the
//! witness. The command line says which: `seed=1 programs=200` runs programs 0 to 199; `seed=1
//! program=17 keep=ff` runs one, and of its 64 steps those whose bits are set, and prints them.
//!
//! A program may end this VM: it is built again then and goes on with the next one. What must not
//! happen is anything else: the hypervisor recounts all frames after each program, and the neighbour
//! looks at its secrets.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
mod program;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
