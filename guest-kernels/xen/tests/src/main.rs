//! A kernel that speaks Xen's ABI for paravirtual guests and nothing else: no SDK, no native call. Its command
//! line says what it does:
//! * `abi`: claim: every call answers as the ABI says, its errors included, and traps arrive as it says. Ends with
//!   `PASS` and how many checks that were;
//! * `attacks`, or `attacks ID`: the rows of the attack catalogue that a guest of this ABI can try, one by one. After each, a
//!   hypervisor that is built for it recounts all frames;
//! * `die NAME`: one of the attacks after which the guest must be dead.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kernel;

#[cfg(not(target_os = "none"))]
fn main() {}
