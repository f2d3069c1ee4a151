//! The witness. Two of these stand beside the attacker: `neighbour`, which the attacker can ask for a
//! check, and its `partner`. Each keeps a secret in memory, registers and vector registers, a grant to
//! the other and one from it; each looks at all of that again and again, and says what changed.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(target_os = "none")]
guest_sdk::entry!(kernel::main);

#[cfg(not(target_os = "none"))]
fn main() {}
