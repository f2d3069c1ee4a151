//! Offers `guest.ld` to the linker of every kernel that depends on the SDK. With the feature `log`
//! the script pulls in defmt's, which lays out the table of log texts.

use std::path::PathBuf;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=guest.ld");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut script = fs::read_to_string("guest.ld")?;
    if env::var_os("CARGO_FEATURE_LOG").is_some() {
        script.push_str("\nINCLUDE defmt.x\n");
    }
    fs::write(out.join("guest.ld"), script)?;
    println!("cargo:rustc-link-search={}", out.display());
    Ok(())
}
