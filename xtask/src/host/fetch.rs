//! Gets what is missing, after saying so: the Rust target through rustup, programs through the
//! system's package manager when we may, QEMU otherwise into a folder of our own.

use std::path::Path;
use std::process::{Command, Stdio};

use super::debian::{self, Apt};
use super::{find, has_target, is_root, private_tools, qemu};
use crate::build::TARGET;
use crate::error::codes::{self, Code};
use crate::error::{Context, Exit, Failure};
use crate::qemu::Program;

/// What is needed to build and boot; missing parts are fetched.
pub fn ready() -> Result<Program, Failure> {
    ensure_target()?;
    if let Some(program) = qemu() {
        return Ok(program);
    }
    if std::env::var_os("QEMU").is_some_and(|named| !named.is_empty()) {
        return Err(missing(codes::QEMU_MISSING, "QEMU names no program"));
    }
    install_qemu()?;
    qemu().ok_or_else(|| missing(codes::QEMU_MISSING, "it is not there after its installation"))
}

/// Installs the bare-metal target, if it is missing.
pub fn ensure_target() -> Result<(), Failure> {
    if has_target() {
        return Ok(());
    }
    say(&format!("the Rust target {TARGET} is missing: rustup target add {TARGET}"));
    let added = Command::new("rustup").current_dir(crate::tree::root()).args(["target", "add", TARGET]).status();
    if added.is_ok_and(|status| status.success()) && has_target() {
        return Ok(());
    }
    Err(missing(codes::TARGET_MISSING, "it could not be added"))
}

/// The toolchain that has Miri. Nothing else is built with it.
pub const NIGHTLY: &str = "nightly";
/// What Miri consists of.
const MIRI: [&str; 2] = ["miri", "rust-src"];

/// Whether Miri and the sources that it interprets are there.
pub fn has_miri() -> bool {
    let listed =
        super::output(Command::new("rustup").args(["component", "list", "--toolchain", NIGHTLY, "--installed"]));
    let listed = listed.unwrap_or_default();
    MIRI.iter().all(|component| listed.lines().any(|line| line.starts_with(component)))
}

/// The command that installs Miri: components for a nightly toolchain that is there, or all of it.
pub fn miri_command() -> String {
    let has_nightly = super::output(Command::new("rustup").args(["run", NIGHTLY, "rustc", "--version"])).is_some();
    if has_nightly {
        format!("rustup component add --toolchain {NIGHTLY} {}", MIRI.join(" "))
    } else {
        format!("rustup toolchain install {NIGHTLY} --profile minimal -c {}", MIRI.join(" -c "))
    }
}

/// Installs Miri, if it is missing. Says why it cannot be had.
pub fn ensure_miri() -> Result<(), String> {
    if has_miri() {
        return Ok(());
    }
    let command = miri_command();
    say(&format!("Miri is missing: {command}"));
    let mut words = command.split(' ');
    let installed = Command::new(words.next().unwrap_or_default()).args(words).stdin(Stdio::null()).status();
    if installed.is_ok_and(|status| status.success()) && has_miri() {
        return Ok(());
    }
    Err(format!("Miri is not here, and this did not get it: {command}"))
}

/// Installs packages of Debian or Ubuntu, if we may, for the programs that are missing.
pub fn ensure_programs(wanted: &[(&str, &str)]) -> Result<(), Failure> {
    let lacking: Vec<&(&str, &str)> = wanted.iter().filter(|(program, _)| find(program).is_none()).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = lacking.iter().map(|(_, package)| *package).collect();
    install(&packages)?;
    match lacking.iter().find(|(program, _)| find(program).is_none()) {
        None => Ok(()),
        Some((program, package)) => Err(missing(codes::TOOL_MISSING, &format!("`{program}` (package {package})"))),
    }
}

/// Installs packages for files that are missing.
pub fn ensure_files(wanted: &[(&str, &str)]) -> Result<(), Failure> {
    let lacking = |path: &str| !Path::new(path).exists();
    let packages: Vec<&str> = wanted.iter().filter(|(path, _)| lacking(path)).map(|(_, package)| *package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages) }
}

/// Gets QEMU: as a package, or unpacked into our folder.
fn install_qemu() -> Result<(), Failure> {
    if find("apt-get").is_none() {
        return Err(missing(codes::QEMU_MISSING, &instructions()));
    }
    if is_root() {
        return install(&["qemu-system-x86"]);
    }
    say("QEMU is missing: unpacking Debian's packages below target/");
    unpack_qemu(&private_tools()).map_err(|what| missing(codes::QEMU_MISSING, &format!("{what}; {}", instructions())))
}

/// Installs packages with apt-get, as root.
fn install(packages: &[&str]) -> Result<(), Failure> {
    if find("apt-get").is_none() || !is_root() {
        let what = format!("packages {} (as Debian names them)", packages.join(" "));
        return Err(missing(codes::TOOL_MISSING, &what));
    }
    say(&format!("missing here: {0}; apt-get install {0}", packages.join(" ")));
    // Old lists are better than none: the installation decides.
    let _ = apt(&["update", "-q"], &[]);
    let words = ["install", "-q", "-y", "--no-install-recommends"];
    if apt(&words, packages)? {
        return Ok(());
    }
    Err(missing(codes::TOOL_MISSING, &format!("apt-get could not install {}", packages.join(" "))))
}

/// Runs apt-get; whether it went well. What it says goes to standard error.
fn apt(words: &[&str], packages: &[&str]) -> Result<bool, Failure> {
    let status = Command::new("apt-get")
        .args(words)
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .context("apt-get does not start")?;
    Ok(status.success())
}

/// What QEMU is made of, for a host that has all it depends on.
const QEMU_PACKAGES: [&str; 4] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// Downloads QEMU's packages with what they need, and unpacks them into a folder.
fn unpack_qemu(folder: &Path) -> Result<(), String> {
    let apt = Apt::new(&debian::shelf())?;
    apt.update()?;
    let listed = apt.listed("qemu-system-x86");
    let mut names: Vec<&str> = listed.lines().filter_map(package_name).collect();
    names.extend(QEMU_PACKAGES.iter().filter(|name| !listed.contains(&format!(" {name}_"))));
    apt.unpack(&names, &[], folder)
}

/// The package of a line `'URI' name_version_arch.deb size hash`.
fn package_name(line: &str) -> Option<&str> {
    let file = line.strip_prefix('\'')?.split_whitespace().nth(1)?;
    file.split('_').next()
}

/// The command that installs QEMU on the system at hand.
pub fn instructions() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let known = [
        ("debian", "sudo apt-get install qemu-system-x86"),
        ("ubuntu", "sudo apt-get install qemu-system-x86"),
        ("fedora", "sudo dnf install qemu-system-x86-core"),
        ("arch", "sudo pacman -S qemu-system-x86"),
        ("suse", "sudo zypper install qemu-x86"),
        ("alpine", "sudo apk add qemu-system-x86_64"),
        ("nixos", "nix-shell -p qemu"),
    ];
    let identity: String =
        release.lines().filter(|line| line.starts_with("ID=") || line.starts_with("ID_LIKE=")).collect();
    known
        .iter()
        .find(|(name, _)| identity.contains(name))
        .map_or("install QEMU for x86-64 (macOS: brew install qemu)", |(_, command)| command)
        .to_owned()
}

/// Says what is done on the person's behalf.
fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// The failure of something that is not there and cannot be had.
pub fn missing(code: &Code, what: &str) -> Failure {
    Failure::new(
        Exit::Unfit,
        format_args!(
            "error[{}]: {}: {what}\n  try: {}\n  see: docs/errors/{}.md",
            code.id, code.title, code.remedy, code.id
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::package_name;

    #[test]
    fn package_names_are_taken_from_print_uris() {
        let line = "'http://host/pool/q/qemu-system-x86_7.2_amd64.deb' qemu-system-x86_1%3a7.2_amd64.deb 123 MD5Sum:0";
        assert_eq!(package_name(line), Some("qemu-system-x86"));
        assert_eq!(package_name("Reading package lists..."), None);
    }
}
