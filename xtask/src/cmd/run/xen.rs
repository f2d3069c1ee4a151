//! What the command line changes of a system with one VM of Xen's ABI, and the system that consists of a kernel.

use std::path::{Path, PathBuf};

use clap::Args;
use protocol::layout::PAGE_SIZE;

use crate::error::Failure;
use crate::host::debian::Flavour;
use crate::system::document::{Place, Placed, Source};
use crate::system::xen::Initrd;
use crate::system::{self, Artifact, System, VmSpec, most_of_command_line};

/// Arguments of `run` for systems with one VM of Xen's ABI.
#[derive(Debug, Args)]
pub struct XenOptions {
    /// Boots a Linux kernel (bzImage) or another 64-bit PV kernel (ELF) as the only VM.
    #[arg(long, value_name = "KERNEL", conflicts_with_all = ["system", "kernel", "flavour"])]
    pub pv: Option<PathBuf>,
    /// Another kernel for the system's Xen VM: a bzImage or an ELF file.
    #[arg(long, value_name = "FILE", conflicts_with = "flavour")]
    kernel: Option<PathBuf>,
    /// Another of Debian's kernels for it: cloud or generic.
    #[arg(long, value_parser = flavour)]
    flavour: Option<Flavour>,
    /// Another initial RAM disk for it.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Another command line for it.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Another number of vCPUs for it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(protocol::layout::limit::VCPUS)))]
    vcpus: Option<u32>,
}

/// Reads the name of a kernel of Debian's.
fn flavour(word: &str) -> Result<Flavour, String> {
    let found = Flavour::ALL.iter().find(|(known, _)| *known == word);
    found.map(|(_, flavour)| *flavour).ok_or_else(|| "it can be cloud or generic".to_owned())
}

/// A system of one VM; the options replace what it lacks.
const SYSTEM: &str = "
[[vm]]
name = \"pv\"
personality = \"xen\"
path = \"kernel\"
";

/// The system that consists of a kernel.
pub fn system_of_kernel() -> Result<System, Failure> {
    let source = Source { file: "the command line", text: SYSTEM };
    system::parse(source, "pv", Path::new(".")).map_err(|errors| Failure::usage(format_args!("{errors:?}")))
}

/// Whether `--mem` is about the VM: it is the only one, and not one of ours.
pub fn is_alone(system: &System) -> bool {
    matches!(system.vms.as_slice(), [vm] if vm.xen.is_some())
}

/// Changes the system's Xen VM. `memory_mib` is its memory.
pub fn change(system: &mut System, options: &XenOptions, memory_mib: Option<u64>) -> Result<(), Failure> {
    let is_changed = options.pv.is_some()
        || options.kernel.is_some()
        || options.flavour.is_some()
        || options.initrd.is_some()
        || options.cmdline.is_some()
        || options.vcpus.is_some();
    if !is_changed && memory_mib.is_none() {
        return Ok(());
    }
    let mut of_xen: Vec<&mut VmSpec> = system.vms.iter_mut().filter(|vm| vm.xen.is_some()).collect();
    let [vm] = of_xen.as_mut_slice() else {
        let what =
            "--kernel, --flavour, --initrd, --cmdline and --vcpus are for a system with one Xen VM, such as linux";
        return Err(Failure::usage(what));
    };
    change_vm(vm, options, memory_mib)
}

/// Changes the VM.
fn change_vm(vm: &mut VmSpec, options: &XenOptions, memory_mib: Option<u64>) -> Result<(), Failure> {
    if let Some(path) = &options.pv {
        vm.kernel = given("--pv", Artifact::File(path.clone()));
    }
    if let Some(path) = &options.kernel {
        vm.kernel = given("--kernel", Artifact::File(path.clone()));
    }
    if let Some(flavour) = options.flavour {
        vm.kernel = given("--flavour", Artifact::DebianKernel(flavour));
    }
    if let (Some(path), Some(xen)) = (&options.initrd, &mut vm.xen) {
        xen.initrd = Some(Initrd::File(given("--initrd", Artifact::File(path.clone()))));
    }
    if let Some(line) = &options.cmdline {
        let most = most_of_command_line(true);
        if line.len() > most {
            return Err(Failure::usage(format_args!("--cmdline has {} bytes, at most {most}", line.len())));
        }
        vm.command_line.clone_from(line);
    }
    vm.vcpus = options.vcpus.unwrap_or(vm.vcpus);
    if let Some(mib) = memory_mib {
        vm.memory = given("--mem", mib.saturating_mul((1 << 20) / PAGE_SIZE));
    }
    Ok(())
}

/// A value of the command line.
fn given<T>(option: &str, value: T) -> Placed<T> {
    Placed { value, place: Place { line: 0, key: option.to_owned() } }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{XenOptions, change, is_alone, system_of_kernel};
    use crate::host::debian::Flavour;
    use crate::system::Artifact;
    use crate::system::xen::Initrd;

    #[derive(Parser)]
    struct Line {
        // What `run` has beside them.
        system: Option<String>,
        #[command(flatten)]
        options: XenOptions,
    }

    fn options(words: &str) -> Option<XenOptions> {
        let line = Line::try_parse_from(std::iter::once("run").chain(words.split_whitespace())).ok()?;
        Some(line.options)
    }

    #[test]
    fn a_kernel_is_a_system() {
        let options = options("--pv k --initrd i --vcpus 3 --cmdline -x").unwrap();
        let mut system = system_of_kernel().unwrap();
        assert!(is_alone(&system));
        change(&mut system, &options, Some(64)).unwrap();
        let vm = &system.vms[0];
        assert_eq!((system.name.as_str(), vm.name.as_str()), ("pv", "pv"));
        assert_eq!((&vm.kernel.value, vm.vcpus, vm.memory.value), (&Artifact::File("k".into()), 3, 16384));
        assert_eq!(vm.command_line, "-x");
        let Some(Initrd::File(file)) = &vm.xen.as_ref().unwrap().initrd else { panic!("{vm:?}") };
        assert_eq!((&file.value, file.place.key.as_str()), (&Artifact::File("i".into()), "--initrd"));
    }

    #[test]
    fn the_kernel_of_linux_can_be_another() {
        let mut system = crate::cmd::load("linux").unwrap();
        assert!(is_alone(&system) && matches!(system.vms[0].kernel.value, Artifact::DebianKernel(Flavour::Cloud)));
        let before = system.clone();
        change(&mut system, &options("linux").unwrap(), None).unwrap();
        assert_eq!(system, before);
        change(&mut system, &options("linux --flavour generic").unwrap(), None).unwrap();
        assert_eq!(system.vms[0].kernel.value, Artifact::DebianKernel(Flavour::Generic));
        change(&mut system, &options("linux --kernel k").unwrap(), None).unwrap();
        assert_eq!(system.vms[0].kernel.value, Artifact::File("k".into()));
        assert_eq!(system.vms[0].command_line, before.vms[0].command_line);
    }

    #[test]
    fn options_that_make_no_sense_together_are_refused() {
        for words in ["--pv k linux", "--pv k --kernel l", "--flavour x", "--kernel k --flavour cloud", "--vcpus 17"] {
            assert!(options(words).is_none(), "{words}");
        }
        let mut demo = crate::cmd::load("hello").unwrap();
        assert!(!is_alone(&demo));
        assert!(change(&mut demo, &options("hello").unwrap(), None).is_ok());
        assert!(change(&mut demo, &options("hello --vcpus 2").unwrap(), None).is_err());
        let long = options(&format!("linux --cmdline {}", "x".repeat(1024))).unwrap();
        assert!(change(&mut crate::cmd::load("linux").unwrap(), &long, None).is_err());
    }
}
