//! The emulated machine: its command line, its life, what its exit status means.

pub mod bochs;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use protocol::record::exit;

use crate::error::{Exit, Failure, codes};

/// The QEMU program and what it needs to run from where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Arguments for a private copy: where its firmware lies.
    pub arguments: Vec<String>,
    /// Environment for a private copy.
    pub environment: Vec<(String, String)>,
}

/// How the machine starts.
#[derive(Debug, Clone)]
pub enum Boot {
    /// The hypervisor's ELF file and the system image, by PVH.
    Direct {
        /// The hypervisor.
        hypervisor: PathBuf,
        /// The image.
        image: PathBuf,
    },
    /// An ISO as a CD, by BIOS.
    Iso(PathBuf),
    /// An ISO as a CD, by UEFI firmware.
    UefiIso {
        /// The ISO.
        iso: PathBuf,
        /// The firmware, such as OVMF.
        firmware: PathBuf,
    },
}

/// A machine to start.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The emulator.
    pub program: Program,
    /// How it starts.
    pub boot: Boot,
    /// CPUs.
    pub smp: u32,
    /// MiB of memory.
    pub memory_mib: u64,
    /// CPU model.
    pub cpu: String,
    /// Whether time is counted in instructions, the same in every run.
    pub icount: bool,
    /// More arguments for the emulator.
    pub more: Vec<String>,
}

/// Serial line at stdio, no devices but those the hypervisor knows, end instead of reboot.
const FIXED: &[&str] = &[
    "-M",
    "q35",
    "-accel",
    "tcg",
    "-chardev",
    "stdio,id=line,mux=on,signal=off",
    "-serial",
    "chardev:line",
    "-display",
    "none",
    "-monitor",
    "none",
    "-no-reboot",
    "-nodefaults",
    "-device",
    "isa-debug-exit,iobase=0xf4,iosize=4",
];

/// One instruction is one nanosecond, and the clock starts on a fixed day.
const ICOUNT: &[&str] = &["-icount", "shift=0,sleep=off", "-rtc", "base=2020-01-01,clock=vm"];

/// Keeps QEMU's main loop from running while a CPU executes; of the recording nothing is kept. Without this the
/// main loop can find a CPU halted whose last instructions are not counted yet, and let the clock jump by so
/// many too far: that depends on what else the host does.
const IN_TURN: &[&str] = &["-icount", "rr=record,rrfile=/dev/null"];

impl Machine {
    /// The command line as words.
    pub fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> = self.program.arguments.clone();
        let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        add(FIXED);
        add(&["-cpu", &self.cpu, "-smp", &self.smp.to_string()]);
        add(&["-m", &self.memory_mib.to_string()]);
        if self.icount {
            add(ICOUNT);
        }
        match &self.boot {
            Boot::Direct { hypervisor, image } => {
                add(&["-kernel", &text(hypervisor), "-initrd", &text(image)]);
            }
            Boot::Iso(iso) => add(&["-cdrom", &text(iso), "-boot", "d"]),
            Boot::UefiIso { iso, firmware } => {
                add(&["-bios", &text(firmware), "-cdrom", &text(iso), "-boot", "d"]);
            }
        }
        words.extend(self.more.iter().cloned());
        words
    }

    /// Starts it.
    pub fn start(&self) -> Result<Running, Failure> {
        self.spawn(&[], Stdio::piped(), Stdio::piped(), Stdio::piped())
    }

    /// Starts it with its serial line going into a file, which never keeps it waiting, and its threads in turn:
    /// only so are two runs under the instruction clock the same to the last instruction. QEMU records one CPU only.
    pub fn start_into(&self, file: std::fs::File) -> Result<Running, Failure> {
        let more = if self.icount && self.smp == 1 { IN_TURN } else { &[] };
        self.spawn(more, Stdio::null(), file.into(), Stdio::null())
    }

    fn spawn(&self, more: &[&str], input: Stdio, output: Stdio, complaints: Stdio) -> Result<Running, Failure> {
        let mut command = guarded(&self.program.path);
        let child = command
            .args(self.arguments())
            .args(more)
            .envs(self.program.environment.iter().cloned())
            .stdin(input)
            .stdout(output)
            .stderr(complaints)
            .spawn();
        match child {
            Ok(child) => Ok(Running { child }),
            Err(error) => {
                let code = codes::QEMU_BROKEN;
                Err(Failure::new(
                    Exit::Unfit,
                    format_args!(
                        "error[{}]: {}: {}: {error}\n  try: {}",
                        code.id,
                        code.title,
                        self.program.path.display(),
                        code.remedy
                    ),
                ))
            }
        }
    }
}

/// A command that ends when this process does, however it ends, where `setpriv` can arrange that.
fn guarded(program: &Path) -> Command {
    match crate::host::find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// A path as an argument.
fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A running machine. It ends when this value is dropped.
#[derive(Debug)]
pub struct Running {
    /// The process, for its pipes.
    pub child: Child,
}

impl Running {
    /// Ends the machine, if it still runs.
    pub fn kill(&mut self) {
        // It may have ended by itself a moment ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What an exit status of QEMU says about the hypervisor. None: QEMU itself failed.
pub fn verdict(status: Option<i32>) -> Option<Exit> {
    let written = |value: u32| i32::try_from((value << 1) | 1).ok();
    match status {
        // An ordinary end of QEMU: with -no-reboot that is a triple fault.
        Some(0) => Some(Exit::HypervisorPanic),
        status if status == written(exit::ALL_WELL) => Some(Exit::Success),
        status if status == written(exit::VM_FAILED) => Some(Exit::VmFailed),
        status if status == written(exit::PANIC) => Some(Exit::HypervisorPanic),
        status if status == written(exit::UNFIT) => Some(Exit::Unfit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::verdict;
    use crate::error::Exit;

    #[test]
    fn only_the_agreed_value_counts_as_success() {
        assert_eq!(verdict(Some(33)), Some(Exit::Success));
        assert_eq!(verdict(Some(35)), Some(Exit::VmFailed));
        assert_eq!(verdict(Some(37)), Some(Exit::HypervisorPanic));
        assert_eq!(verdict(Some(39)), Some(Exit::Unfit));
        assert_eq!(verdict(Some(0)), Some(Exit::HypervisorPanic));
        assert_eq!(verdict(Some(1)), None);
        assert_eq!(verdict(None), None);
    }
}
