//! `conformance`: boots the conformance suite and holds what it says against the table of calls.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use protocol::call::CALLS;

use super::{load, prepare, suited_cpu, write};
use crate::build::{Builder, Profile};
use crate::conformance::{self, Extent, Report};
use crate::error::{Exit, Failure};
use crate::host::fetch;
use crate::qemu::{Boot, Machine, Program};
use crate::session::{self, Goal, Outcome, Reaction, SilentView, Step};
use crate::system::System;

/// Arguments of `conformance`.
#[derive(Debug, Args)]
pub struct Options {
    /// Names the cases with what each shows, and runs none.
    #[arg(long)]
    list: bool,
    /// Runs only the cases whose name holds this text; then not all of the table must be shown.
    #[arg(long)]
    filter: Option<String>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// Writes the results as `JUnit` XML, too.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// CPUs of the machine.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Ends the run after so many seconds.
    #[arg(long, default_value_t = TIMEOUT)]
    timeout: u64,
}

/// Seconds after which a run is given up; on an idle machine it takes a twentieth of that.
pub const TIMEOUT: u64 = 300;
/// The system of the suite.
pub const SYSTEM: &str = "conformance";
/// The VM that runs the cases.
const SUITE: &str = "suite";

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let program = fetch::ready()?;
    let mut builder = Builder::new(Profile::Release);
    let wish = match (&options.filter, options.list) {
        (_, true) => Some("list".to_owned()),
        (Some(filter), false) if filter.contains(char::is_whitespace) => {
            return Err(Failure::usage("names of cases have no spaces"));
        }
        (Some(filter), false) => Some(format!("filter={filter}")),
        (None, false) => None,
    };
    eprintln!("xtask: building and booting {SYSTEM}");
    let run = Run { smp: options.smp, timeout: options.timeout, ..Run::of(wish.as_deref())? };
    let outcome = boot(&mut builder, program, run)?;
    let report = report(&outcome, if wish.is_none() { Extent::Whole } else { Extent::Chosen });
    if options.list {
        print!("{}", conformance::list(&report));
        return Ok(if report.cases.is_empty() { Exit::Unmet } else { Exit::Success });
    }
    if let Some(path) = &options.junit {
        write(path, conformance::junit(&report).as_bytes())?;
    }
    if options.json {
        println!("{}", conformance::json(&report));
    } else {
        print!("{}", conformance::text(&report));
    }
    Ok(verdict(&outcome, &report))
}

/// A run of the suite.
#[derive(Debug)]
pub struct Run {
    /// What is booted.
    pub system: System,
    /// What must be seen besides the suite's end.
    pub script: Vec<Step>,
    /// CPUs of the machine.
    pub smp: u32,
    /// Seconds.
    pub timeout: u64,
}

impl Run {
    /// The suite with what is added to its command line.
    pub fn of(wish: Option<&str>) -> Result<Run, Failure> {
        let mut system = load(SYSTEM)?;
        let suite = system.vms.iter_mut().find(|vm| vm.name == SUITE);
        if let (Some(suite), Some(wish)) = (suite, wish) {
            suite.command_line = format!("{SUITE} {wish}");
        }
        Ok(Run { system, script: Vec::new(), smp: 2, timeout: TIMEOUT })
    }
}

/// Boots the suite.
pub fn boot(builder: &mut Builder, program: Program, run: Run) -> Result<Outcome, Failure> {
    let prepared = prepare(&run.system, builder, crate::system::DEFAULT_MEMORY_MIB)?;
    let goal = Goal {
        expect: vec![format!("[{SUITE}] conform end")],
        script: run.script,
        reactions: vec![
            ("conform wants the input `conformance`".to_owned(), Reaction::Send(b"conformance\n".to_vec())),
            ("conform wants a slow reader".to_owned(), Reaction::Hold(Duration::from_secs(2))),
        ],
        timeout: Some(Duration::from_secs(run.timeout)),
        save: Some(prepared.image.with_extension("serial")),
        ..Goal::default()
    };
    let machine = Machine {
        cpu: suited_cpu("max", &run.system, &program),
        program,
        boot: Boot::Direct { hypervisor: prepared.hypervisor, image: prepared.image },
        smp: run.smp,
        memory_mib: crate::system::DEFAULT_MEMORY_MIB,
        icount: false,
        more: Vec::new(),
    };
    session::run(&machine, &prepared.programs, &goal, &mut SilentView)
}

/// What the run shows of the table.
pub fn report(outcome: &Outcome, extent: Extent) -> Report<'static> {
    let lines = outcome.console.iter().filter(|(vm, _)| vm == SUITE).map(|(_, line)| line.as_str());
    let mut report = Report::read(CALLS, extent, lines);
    if extent == Extent::Whole {
        conformance::outside_cases(outcome).into_iter().for_each(|case| report.add(case));
    }
    if outcome.exit != Exit::Success {
        report.troubles.push(format!("the run: {}", outcome.exit.words()));
        let start = outcome.transcript.len().saturating_sub(20);
        report.troubles.extend(outcome.transcript.iter().skip(start).cloned());
    }
    report
}

/// How the command ends.
fn verdict(outcome: &Outcome, report: &Report<'_>) -> Exit {
    match outcome.exit {
        Exit::Success if report.conforms() => Exit::Success,
        Exit::Success => Exit::Unmet,
        other => other,
    }
}
