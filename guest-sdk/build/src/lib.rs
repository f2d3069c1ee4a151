//! What the `build.rs` of a guest calls, so that the link arguments stand in one place.
//!
//! The `main` of a kernel's `build.rs` is `guest_build::kernel()`, and nothing more.
//!
//! The arguments are given only for the target without an operating system: on the host, the same
//! crate links as an ordinary program (that does nothing), so that `cargo test` and `cargo clippy`
//! of a whole workspace work.

use std::env;

/// Links the binaries of this package as a guest kernel, with the script that guest-sdk offers.
pub fn kernel() {
    link(&["-Tguest.ld"]);
}

/// Links the binaries of this package as a program for user mode, from `base` on. The base lies in
/// the lower half of the address space; which programs use which is up to their kernel.
pub fn user_program(base: u64) {
    link(&[&format!("--image-base={base:#x}"), "-znorelro"]);
}

fn link(special: &[&str]) {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    // The target makes position-independent executables unless told otherwise; a guest has no loader
    // that would relocate one.
    let common = ["--no-pie", "--build-id=sha1", "-zmax-page-size=0x1000"];
    for argument in common.iter().chain(special) {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
