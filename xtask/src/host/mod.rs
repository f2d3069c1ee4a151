//! What this host has and lacks. `check` looks, `fetch` gets what is missing.

pub mod check;
pub mod debian;
pub mod fetch;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::build::TARGET;
use crate::qemu::Program;
use crate::tree;

/// The name of the emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// A program of the search path (or of the system's folders, which not every path names).
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Where a private copy of QEMU lies.
pub fn private_tools() -> PathBuf {
    tree::work().join("tools")
}

/// The emulator: what `QEMU` names, what the search path has, or a private copy.
pub fn qemu() -> Option<Program> {
    if let Some(named) = std::env::var_os("QEMU").filter(|named| !named.is_empty()) {
        let path = PathBuf::from(&named);
        let path = if path.components().count() == 1 { find(path.to_str()?)? } else { path };
        return path.is_file().then(|| Program { path, ..Program::default() });
    }
    find(QEMU).map(|path| Program { path, ..Program::default() }).or_else(|| private_qemu(&private_tools()))
}

/// The first number of an emulator's version, if it tells.
pub fn major_version(program: &Program) -> Option<u32> {
    let text = output(Command::new(&program.path).arg("--version").envs(program.environment.iter().cloned()))?;
    major(&text)
}

/// The first number behind the word `version`.
fn major(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("version ")?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A copy of QEMU that was unpacked into a folder of our own.
fn private_qemu(folder: &Path) -> Option<Program> {
    let path = folder.join("usr/bin").join(QEMU);
    if !path.is_file() {
        return None;
    }
    let share = |name: &str| folder.join("usr/share").join(name).display().to_string();
    let library = folder.join("usr/lib/x86_64-linux-gnu");
    Some(Program {
        path,
        arguments: ["-L", &share("qemu"), "-L", &share("seabios"), "-vga", "none"].map(str::to_owned).to_vec(),
        environment: vec![
            ("QEMU_MODULE_DIR".to_owned(), library.join("qemu").display().to_string()),
            ("LD_LIBRARY_PATH".to_owned(), library.display().to_string()),
        ],
    })
}

/// Whether the library of the bare-metal target is installed.
pub fn has_target() -> bool {
    let Some(sysroot) = output(Command::new("rustc").args(["--print", "sysroot"])) else {
        return false;
    };
    Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

/// Whether this is the superuser, who may install packages.
pub fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}

/// What a command prints, if it ends well.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_of_an_emulator_is_read() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022";
        assert_eq!(super::major(debian), Some(7));
        assert_eq!(super::major("QEMU emulator version 10.0.2"), Some(10));
        assert_eq!(super::major("something else"), None);
    }
}
