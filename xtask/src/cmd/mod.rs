//! The commands of `cargo xtask`, one file each.

pub mod audit;
pub mod audit_log;
pub mod bench;
pub mod channels;
pub mod conformance;
pub mod doctor;
pub mod fuzz;
pub mod header;
pub mod hostile;
pub mod image;
pub mod lint;
pub mod log;
pub mod new;
pub mod noninterference;
pub mod policy;
pub mod reference;
pub mod run;
pub mod test;

use std::path::{Path, PathBuf};

use protocol::VmId;

use crate::build::{Builder, Profile, Variant};
use crate::decode::Programs;
use crate::error::{Context, Exit, Failure};
use crate::host::major_version;
use crate::pack;
use crate::qemu::Program;
use crate::system::assemble::{Assembly, assemble};
use crate::system::document::{ConfigError, Place, Source};
use crate::system::{self, System};
use crate::{error::codes, tree};

/// The argument of commands that write generated files.
#[derive(Debug, clap::Args)]
pub struct CheckOption {
    /// Writes nothing; fails if a file differs from what the tables say.
    #[arg(long)]
    pub check: bool,
}

/// A system that can be booted.
#[derive(Debug)]
pub struct Prepared {
    /// The hypervisor's ELF file.
    pub hypervisor: PathBuf,
    /// The image file.
    pub image: PathBuf,
    /// The ELF files, for decoding.
    pub programs: Programs,
    /// MiB of the machine.
    pub memory_mib: u64,
}

/// The system of a name or path, parsed and checked.
pub fn load(name: &str) -> Result<System, Failure> {
    let path = system_path(name);
    let shown = tree::shown(&path);
    let source = |text| Source { file: &shown, text };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let place = Place::default();
        let mut failure = source("").error(codes::FILE_UNREADABLE, &place, error.to_string());
        let known = system_names();
        if !known.is_empty() {
            failure = failure.remedy(format!("name a file, or one of: {}", known.join(", ")));
        }
        refused(&[failure])
    })?;
    let stem = path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    let folder = path.parent().unwrap_or(Path::new("."));
    system::parse(source(&text), &stem, folder).map_err(|errors| refused(&errors))
}

/// The file that a system's name means: a path if it looks like one.
fn system_path(name: &str) -> PathBuf {
    if name.contains('/') || name.ends_with(".toml") {
        PathBuf::from(name)
    } else {
        tree::systems().join(format!("{name}.toml"))
    }
}

/// The names of the systems that come with the checkout.
pub fn system_names() -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(tree::systems()) else {
        return Vec::new();
    };
    let mut names: Vec<String> = folder
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .filter(|name| !name.ends_with(".policy"))
        .collect();
    names.sort();
    names
}

/// The failure of a system file.
fn refused(errors: &[ConfigError]) -> Failure {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Failure::new(Exit::SystemFile, texts.join("\n\n"))
}

/// Builds everything that a system is made of and checks it, for a machine of so much memory or of enough.
pub fn build(system: &System, builder: &mut Builder, memory_mib: impl Into<Option<u64>>) -> Result<Assembly, Failure> {
    assemble(system, builder, memory_mib.into()).map_err(|errors| refused(&errors))
}

/// Builds a system and writes its image.
pub fn prepare(
    system: &System,
    builder: &mut Builder,
    memory_mib: impl Into<Option<u64>>,
) -> Result<Prepared, Failure> {
    let recounts = system.test.as_ref().is_some_and(|test| test.recount);
    let hypervisor = builder.hypervisor(if recounts { Variant::Recounting } else { Variant::Plain })?;
    let assembly = build(system, builder, memory_mib)?;
    let image = tree::work().join(format!("{}.img", system.name));
    write(&image, &pack::pack(&assembly)?)?;
    let memory_mib = assembly.memory_mib;
    let names = assembly.manifest.vms.iter().map(|vm| vm.name.clone());
    let vms: Vec<(String, Vec<PathBuf>)> = names.zip(assembly.programs).collect();
    let xen = (0..).zip(&system.vms).filter(|(_, vm)| vm.xen.is_some()).map(|(number, _)| VmId(number)).collect();
    let programs = Programs::new(&hypervisor, &vms).with_places(system.label_places()).with_xen(xen);
    Ok(Prepared { programs, hypervisor, image, memory_mib })
}

/// The first version of QEMU in which `iretq` of ring 3 reads its frame as ring 3 under SMAP.
const QEMU_WITH_SMAP: u32 = 9;

/// A CPU model on which the system's VMs run in this emulator. Kernels of Xen VMs execute `iretq` in ring 3.
pub fn suited_cpu(model: &str, system: &System, program: &Program) -> String {
    let has_xen = system.vms.iter().any(|vm| vm.xen.is_some());
    let is_old = || major_version(program).is_some_and(|version| version < QEMU_WITH_SMAP);
    if has_xen && !model.contains("smap") && is_old() {
        eprintln!("xtask: this QEMU reads the frame of a ring-3 iretq wrongly under SMAP: -cpu {model},-smap");
        return format!("{model},-smap");
    }
    model.to_owned()
}

/// The profile of a `--debug` flag.
pub fn profile(debug: bool) -> Profile {
    if debug { Profile::Debug } else { Profile::Release }
}

/// Writes a file, with the folders above it.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).context(folder.display())?;
    }
    std::fs::write(path, bytes).context(path.display())
}

/// Writes a generated file, or with `check` fails when it differs from what is there.
pub fn generate(path: &Path, text: &str, check: bool) -> Result<(), Failure> {
    if !check {
        return write(path, text.as_bytes());
    }
    if std::fs::read_to_string(path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Unmet,
        format_args!(
            "error: {} is not what the tables say\n  try: run this command without --check",
            tree::shown(path)
        ),
    ))
}
