//! Makes the binary a fixed-address ELF with the layout of `link.ld`. Nothing is left to RUSTFLAGS,
//! which a user may set for other reasons.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link.ld");
    // On the host the binary is a stub that only has to link.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    for argument in
        [&format!("-T{folder}/link.ld"), "-Tdefmt.x", "--no-pie", "--build-id=sha1", "-zmax-page-size=0x1000"]
    {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
