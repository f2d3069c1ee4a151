//! Links a kernel of Xen's ABI with the script beside this file.
use std::env;

fn main() {
    println!("cargo:rerun-if-changed=xen.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for argument in ["--no-pie", "--build-id=sha1", &format!("-T{folder}/xen.ld")] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
