//! `run`: builds a system, boots it and follows it.

mod xen;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{Prepared, load, prepare, profile, suited_cpu};
use crate::build::Builder;
use crate::error::codes::{self, Code};
use crate::error::{Context, Exit, Failure};
use crate::host::fetch;
use crate::qemu::{Boot, Machine, Program};
use crate::session::{self, Goal, JsonView, Outcome, TerminalView, View};
use crate::system::processor::warnings;
use crate::term;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct Options {
    /// A name of guest-kernels/systems, or the path of a system file.
    #[arg(default_value = "demo")]
    system: String,
    /// CPUs of the machine.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Memory in MiB: of the VM with --pv and in a system of one Xen VM such as linux, of the machine
    /// otherwise. A machine of which nothing is said has enough.
    #[arg(long)]
    mem: Option<u64>,
    /// CPU model as QEMU names it, with features added or taken (max,-smep). Without it, max.
    #[arg(long)]
    cpu: Option<String>,
    #[command(flatten)]
    xen: xen::XenOptions,
    /// Ends the run after so many seconds.
    #[arg(long)]
    timeout: Option<u64>,
    /// Ends the run well when this text was seen (each, if given several times).
    #[arg(long)]
    expect: Vec<String>,
    /// Ends the run well after this script: lines `VM expect TEXT` and `VM send TEXT`.
    #[arg(long)]
    script: Option<PathBuf>,
    /// Prints a JSON object a line.
    #[arg(long)]
    json: bool,
    /// Builds without optimisation.
    #[arg(long)]
    debug: bool,
    /// Counts time in instructions: every run is the same.
    #[arg(long)]
    icount: bool,
    /// Boots the ISO as a CD by BIOS instead of the ELF file.
    #[arg(long)]
    iso: bool,
    /// Boots the ISO by UEFI firmware.
    #[arg(long, conflicts_with = "iso")]
    uefi: bool,
    /// Another argument for QEMU (can be given several times).
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    qemu: Vec<String>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let goal = goal(options)?;
    let mut system = match &options.xen.pv {
        Some(_) => xen::system_of_kernel()?,
        None => load(&options.system)?,
    };
    let (of_vm, of_machine) = if xen::is_alone(&system) { (options.mem, None) } else { (None, options.mem) };
    xen::change(&mut system, &options.xen, of_vm)?;
    warnings(&system).iter().for_each(|warning| eprintln!("{warning}"));
    let program = fetch::ready()?;
    let mut builder = Builder::new(profile(options.debug));
    eprintln!("xtask: building {}", system.name);
    let prepared = prepare(&system, &mut builder, of_machine)?;
    let goal = Goal { save: Some(prepared.image.with_extension("serial")), ..goal };
    let cpu = options.cpu.clone().unwrap_or_else(|| suited_cpu("max", &system, &program));
    let machine = machine(options, program, &prepared, cpu)?;
    let mut view: Box<dyn View> = if options.json {
        Box::new(JsonView)
    } else {
        Box::new(TerminalView::new(term::colours(), prepared.programs.names()))
    };
    if goal.interactive {
        eprintln!("xtask: booting {}; Ctrl-] switches consoles, Ctrl-C ends", system.name);
    } else {
        eprintln!("xtask: booting {}", system.name);
    }
    let outcome = session::run(&machine, &prepared.programs, &goal, view.as_mut())?;
    conclude(&outcome, options.json);
    Ok(outcome.exit)
}

/// What the options wait for.
fn goal(options: &Options) -> Result<Goal, Failure> {
    let script = match &options.script {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).context(path.display())?;
            session::parse_script(&text).context(path.display())?
        }
    };
    let goal = Goal {
        expect: options.expect.clone(),
        script,
        to_end: false,
        timeout: options.timeout.map(Duration::from_secs),
        interactive: false,
        reactions: Vec::new(),
        save: None,
    };
    Ok(Goal {
        // A script types by itself.
        interactive: goal.script.is_empty() && !options.json && term::interactive(),
        to_end: !goal.expects_something(),
        ..goal
    })
}

/// The machine that the options ask for.
fn machine(options: &Options, program: Program, prepared: &Prepared, cpu: String) -> Result<Machine, Failure> {
    let boot = if options.iso || options.uefi {
        let iso = prepared.image.with_extension("iso");
        super::image::write_iso(&prepared.hypervisor, &prepared.image, &iso)?;
        if options.uefi {
            let firmware = super::image::firmware()?;
            Boot::UefiIso { iso, firmware }
        } else {
            Boot::Iso(iso)
        }
    } else {
        Boot::Direct { hypervisor: prepared.hypervisor.clone(), image: prepared.image.clone() }
    };
    Ok(Machine {
        program,
        boot,
        smp: options.smp,
        memory_mib: prepared.memory_mib,
        cpu,
        icount: options.icount,
        more: options.qemu.clone(),
    })
}

/// Says how it ended.
fn conclude(outcome: &Outcome, json: bool) {
    for line in &outcome.complaints {
        eprintln!("qemu: {line}");
    }
    if json {
        let end = json!({
            "kind": "end", "exit": outcome.exit.code(), "why": outcome.exit.words(), "unmet": outcome.unmet,
        });
        println!("{end}");
        return;
    }
    if let Some(code) = code_of(outcome) {
        eprintln!("error[{}]: {}", code.id, code.title);
        for text in &outcome.unmet {
            eprintln!("  not reached: {text}");
        }
        eprintln!("  try: {}\n  see: docs/errors/{}.md", code.remedy, code.id);
    }
    eprintln!("xtask: {} (exit code {})", outcome.exit.words(), outcome.exit.code());
}

/// The stable code of an end that was not meant.
fn code_of(outcome: &Outcome) -> Option<&'static Code> {
    match outcome.exit {
        Exit::TimeOut => Some(codes::TIMED_OUT),
        Exit::Unmet => Some(codes::UNMET),
        Exit::Unfit => Some(codes::REFUSED),
        Exit::Usage => Some(codes::QEMU_BROKEN),
        Exit::HypervisorPanic if outcome.reset => Some(codes::MACHINE_RESET),
        Exit::Success | Exit::SystemFile | Exit::VmFailed | Exit::HypervisorPanic => None,
    }
}
