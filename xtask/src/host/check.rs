//! What `doctor` looks at: each thing with its state and the command that gets it.

use std::path::Path;
use std::process::Command;

use super::{QEMU, fetch, find, has_target, output, qemu};
use crate::error::codes;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is there.
    Good,
    /// It is missing, and some commands need it.
    Optional,
    /// It is missing, and nothing boots without it.
    Missing,
}

impl State {
    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            State::Good => "ok",
            State::Optional => "optional",
            State::Missing => "missing",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How it is.
    pub state: State,
    /// The stable code, if it is not there.
    pub code: Option<&'static str>,
    /// Where it is, or what needs it.
    pub detail: String,
    /// The command that gets it, if it is not there.
    pub command: Option<String>,
}

/// Programs and files that only some commands need: name, what needs it, package.
const OPTIONAL: [(&str, &str, &str); 6] = [
    ("grub-mkrescue", "image --iso", "grub-common"),
    ("xorriso", "image --iso", "xorriso"),
    ("mformat", "image --iso", "mtools"),
    ("gcc", "guests in C and the header's test", "gcc"),
    ("bochs", "the second emulator", "bochs bochsbios vgabios"),
    ("setpriv", "ending QEMU when xtask is killed", "util-linux"),
];

/// Folders and files that only some commands need: what it is, path, what needs it, package.
const FILES: [(&str, &str, &str, &str); 3] = [
    ("GRUB for BIOS", "/usr/lib/grub/i386-pc", "image --iso", "grub-pc-bin"),
    ("GRUB for UEFI", "/usr/lib/grub/x86_64-efi", "image --iso", "grub-efi-amd64-bin"),
    ("OVMF", super::super::cmd::image::OVMF, "booting the ISO by UEFI", "ovmf"),
];

/// Looks at everything.
pub fn all() -> Vec<Finding> {
    let mut findings = vec![compiler(), target(), emulator()];
    for (name, needed_by, package) in OPTIONAL {
        let place = find(name).map(|path| path.display().to_string());
        findings.push(optional(name, place, needed_by, package));
    }
    findings.push(miri());
    for (what, path, needed_by, package) in FILES {
        let place = Path::new(path).exists().then(|| path.to_owned());
        findings.push(optional(what, place, needed_by, package));
    }
    findings
}

/// The Rust compiler.
fn compiler() -> Finding {
    let version = output(Command::new("rustc").arg("--version"));
    Finding {
        what: "Rust compiler",
        state: if version.is_some() { State::Good } else { State::Missing },
        code: version.is_none().then_some(codes::TOOL_MISSING.id),
        command: version.is_none().then(|| "rustup toolchain install".to_owned()),
        detail: version.unwrap_or_default().trim().to_owned(),
    }
}

/// The bare-metal target.
fn target() -> Finding {
    let present = has_target();
    Finding {
        what: "Rust target",
        state: if present { State::Good } else { State::Missing },
        code: (!present).then_some(codes::TARGET_MISSING.id),
        detail: crate::build::TARGET.to_owned(),
        command: (!present).then(|| codes::TARGET_MISSING.remedy.to_owned()),
    }
}

/// The emulator, and whether it starts.
fn emulator() -> Finding {
    let Some(program) = qemu() else {
        return Finding {
            what: QEMU,
            state: State::Missing,
            code: Some(codes::QEMU_MISSING.id),
            detail: "needed to boot; `run` and `test` fetch it".to_owned(),
            command: Some(fetch::instructions()),
        };
    };
    let mut command = Command::new(&program.path);
    command.arg("--version").envs(program.environment.iter().cloned());
    let version = output(&mut command);
    let path = program.path.display();
    Finding {
        what: QEMU,
        state: if version.is_some() { State::Good } else { State::Missing },
        code: version.is_none().then_some(codes::QEMU_BROKEN.id),
        command: version.is_none().then(fetch::instructions),
        detail: match version.as_deref().and_then(|text| text.lines().next()) {
            Some(line) => format!("{path}: {line}"),
            None => format!("{path} does not start"),
        },
    }
}

/// The interpreter that finds undefined behaviour in tests.
fn miri() -> Finding {
    let present = fetch::has_miri();
    Finding {
        what: "Miri",
        state: if present { State::Good } else { State::Optional },
        code: (!present).then_some(codes::TOOL_MISSING.id),
        detail: (if present { fetch::NIGHTLY } else { "needed for the tests unit/miri-*, which fetch it" }).to_owned(),
        command: (!present).then(fetch::miri_command),
    }
}

/// Something that not every command needs.
fn optional(what: &'static str, place: Option<String>, needed_by: &str, package: &str) -> Finding {
    let present = place.is_some();
    Finding {
        what,
        state: if present { State::Good } else { State::Optional },
        code: (!present).then_some(codes::TOOL_MISSING.id),
        detail: place.unwrap_or_else(|| format!("needed for {needed_by}")),
        command: (!present).then(|| format!("sudo apt-get install {package}")),
    }
}
