//! `image`: writes a system image, or a GRUB disk that boots it on BIOS and UEFI.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::{load, prepare, profile, write};
use crate::build::Builder;
use crate::error::{Context, Exit, Failure, codes};
use crate::host::fetch;
use crate::tree;

/// Arguments of `image`.
#[derive(Debug, Args)]
pub struct Options {
    /// A name of guest-kernels/systems, or the path of a system file.
    #[arg(default_value = "demo")]
    system: String,
    /// Writes an ISO with hypervisor and image: boots by BIOS and UEFI, from CD or disk.
    #[arg(long)]
    iso: bool,
    /// Where to write (otherwise below target/cloister).
    #[arg(long)]
    output: Option<PathBuf>,
    /// Memory in MiB that the system is checked against.
    #[arg(long, default_value_t = crate::system::DEFAULT_MEMORY_MIB)]
    mem: u64,
    /// Builds without optimisation.
    #[arg(long)]
    debug: bool,
}

/// UEFI firmware for QEMU, as Debian installs it.
pub const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

/// Programs that make an ISO, and their packages.
const ISO_PROGRAMS: [(&str, &str); 3] =
    [("grub-mkrescue", "grub-common"), ("xorriso", "xorriso"), ("mformat", "mtools")];

/// GRUB's modules for both kinds of firmware, and their packages.
const GRUB_MODULES: [(&str, &str); 2] =
    [("/usr/lib/grub/i386-pc", "grub-pc-bin"), ("/usr/lib/grub/x86_64-efi", "grub-efi-amd64-bin")];

/// The boot menu: one entry, at once, with the serial line as a second console.
const GRUB_CONFIG: &str = "\
set timeout=0
set default=0
menuentry \"Cloister\" {
    multiboot2 /boot/cloister.elf
    module2 /boot/system.img
}
";

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let system = load(&options.system)?;
    fetch::ensure_target()?;
    let mut builder = Builder::new(profile(options.debug));
    let prepared = prepare(&system, &mut builder, options.mem)?;
    let path = if options.iso {
        let iso = options.output.clone();
        let iso = iso.unwrap_or_else(|| prepared.image.with_extension("iso"));
        write_iso(&prepared.hypervisor, &prepared.image, &iso)?;
        iso
    } else if let Some(output) = &options.output {
        std::fs::copy(&prepared.image, output).context(output.display())?;
        output.clone()
    } else {
        prepared.image
    };
    println!("{}", tree::shown(&path));
    Ok(Exit::Success)
}

/// Writes an ISO that GRUB boots the hypervisor from.
pub fn write_iso(hypervisor: &Path, image: &Path, iso: &Path) -> Result<(), Failure> {
    fetch::ensure_programs(&ISO_PROGRAMS)?;
    fetch::ensure_files(&GRUB_MODULES)?;
    let folder = image.with_extension("iso-files");
    let boot = folder.join("boot");
    write(&boot.join("grub/grub.cfg"), GRUB_CONFIG.as_bytes())?;
    std::fs::copy(image, boot.join("system.img")).context(image.display())?;
    strip(hypervisor, &boot.join("cloister.elf"))?;
    let output = Command::new("grub-mkrescue")
        .arg("-o")
        .arg(iso)
        .arg(&folder)
        .stdin(Stdio::null())
        .output()
        .context("grub-mkrescue does not start")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::usage(format_args!("grub-mkrescue failed:\n{}", String::from_utf8_lossy(&output.stderr))))
}

/// Copies the hypervisor without debug information, which GRUB would load as well; whole when no
/// `objcopy` is there.
fn strip(from: &Path, to: &Path) -> Result<(), Failure> {
    let stripped = Command::new("objcopy").arg("--strip-debug").arg(from).arg(to).stderr(Stdio::null()).status();
    if !stripped.is_ok_and(|status| status.success()) {
        std::fs::copy(from, to).context(from.display())?;
    }
    Ok(())
}

/// The UEFI firmware.
pub fn firmware() -> Result<PathBuf, Failure> {
    let path = PathBuf::from(OVMF);
    if path.is_file() {
        return Ok(path);
    }
    Err(fetch::missing(codes::TOOL_MISSING, "UEFI firmware (package ovmf)"))
}
