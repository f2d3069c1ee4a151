//! A VM that must not notice what its neighbours do. It keeps a pattern in its memory, one in the registers of its
//! second vCPU, and looks at its clock; again and again it says that all is untouched, or `FAIL` and what is not.
//! It goes on until something is typed for it; then it ends with `PASS`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
