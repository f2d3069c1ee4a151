//! `hostile`: random programs from a seed, shrunk when they fail; and hypervisors with one check left
//! out, each of which some attack must find.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;
use toml::de::{DeTable, DeValue};

use super::{load, prepare, test};
use crate::build::{Builder, Profile, TARGET};
use crate::error::{Context, Exit, Failure};
use crate::generate::table;
use crate::host::fetch;
use crate::qemu::{Boot, Machine, Program};
use crate::session::{self, Goal, Outcome, SilentView};
use crate::system::System;
use crate::{cmd, tree};

/// Arguments of `hostile`.
#[derive(Debug, Args)]
pub struct Options {
    /// Seed of the random programs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many programs.
    #[arg(long, default_value_t = 500)]
    programs: u64,
    /// Runs one program and prints its steps.
    #[arg(long, value_name = "PROGRAM")]
    replay: Option<u64>,
    /// With --replay: a bit for each step that is done, in hexadecimal.
    #[arg(long, default_value = "ffffffffffffffff")]
    keep: String,
    /// CPUs of the machine.
    #[arg(long, default_value_t = 2)]
    smp: u32,
    /// Instead: leaves out one check of the hypervisor at a time and expects an attack to find it.
    #[arg(long)]
    mutants: bool,
    /// With --mutants: only those whose name holds this text; writes no page.
    #[arg(long)]
    filter: Option<String>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    if options.mutants {
        return mutate(options.filter.as_deref());
    }
    let mut lab = Lab::new(options.smp)?;
    if let Some(program) = options.replay {
        let outcome = lab.random(&format!("seed={} program={program} keep={}", options.seed, options.keep))?;
        outcome.transcript.iter().for_each(|line| println!("{line}"));
        return Ok(if has_failed(&outcome) { Exit::Unmet } else { Exit::Success });
    }
    let outcome = lab.random(&format!("seed={} programs={}", options.seed, options.programs))?;
    if !has_failed(&outcome) {
        println!("{} programs of seed {}: nothing failed", options.programs, options.seed);
        return Ok(Exit::Success);
    }
    let mut programs = outcome.transcript.iter().rev().filter_map(|line| line.strip_prefix("[random] program "));
    let Some(program) = programs.next().and_then(|number| number.parse::<u64>().ok()) else {
        return Err(Failure::new(Exit::Unmet, test::explain(&[], &outcome)));
    };
    println!("program {program} of seed {} fails; it is made smaller", options.seed);
    let kept = shrink(u64::MAX, |keep| {
        let line = format!("seed={} program={program} keep={keep:x}", options.seed);
        Ok(has_failed(&lab.random(&line)?))
    })?;
    let line = format!("seed={} program={program} keep={kept:x}", options.seed);
    let outcome = lab.random(&line)?;
    println!(
        "{}",
        test::explain(
            &[format!("cargo xtask hostile --seed {} --replay {program} --keep {kept:x}", options.seed)],
            &outcome
        )
    );
    Ok(Exit::Unmet)
}

/// Whether a run of random programs came to anything but its end.
fn has_failed(outcome: &Outcome) -> bool {
    outcome.exit != Exit::Success || outcome.transcript.iter().any(|line| line.contains("FAIL"))
}

/// Takes out bits as long as what is left still fails, halves first. Nothing is taken out when the
/// whole does not fail again: then it depends on time.
fn shrink(all: u64, mut fails: impl FnMut(u64) -> Result<bool, Failure>) -> Result<u64, Failure> {
    if !fails(all)? {
        return Ok(all);
    }
    let mut kept = all;
    let mut size = 32;
    while size > 0 {
        for start in (0..64).step_by(size) {
            let part = (u64::MAX >> (64 - size)) << start;
            if kept & part != 0 && fails(kept & !part)? {
                kept &= !part;
            }
        }
        size /= 2;
    }
    Ok(kept)
}

/// What runs need.
struct Lab {
    builder: Builder,
    program: Program,
    smp: u32,
    /// A hypervisor in place of the one that is built.
    hypervisor: Option<PathBuf>,
}

impl Lab {
    fn new(smp: u32) -> Result<Lab, Failure> {
        fetch::ensure_target()?;
        let program = fetch::ready()?;
        Ok(Lab { builder: Builder::new(Profile::Release), program, smp, hypervisor: None })
    }

    /// Runs the system of random programs with a command line.
    fn random(&mut self, command_line: &str) -> Result<Outcome, Failure> {
        self.boot("hostile-random", "random", command_line, 240)
    }

    /// Runs a system in which one VM has another command line.
    fn boot(&mut self, name: &str, vm: &str, command_line: &str, seconds: u64) -> Result<Outcome, Failure> {
        let mut system: System = load(name)?;
        for spec in system.vms.iter_mut().filter(|spec| spec.name == vm) {
            command_line.clone_into(&mut spec.command_line);
        }
        let prepared = prepare(&system, &mut self.builder, crate::system::DEFAULT_MEMORY_MIB)?;
        let hypervisor = self.hypervisor.clone().unwrap_or(prepared.hypervisor);
        let test = system.test.as_ref();
        let goal = Goal {
            expect: test.map(|test| test.expect.clone()).unwrap_or_default(),
            timeout: Some(Duration::from_secs(seconds)),
            ..Goal::default()
        };
        let machine = Machine {
            program: self.program.clone(),
            boot: Boot::Direct { hypervisor, image: prepared.image },
            smp: self.smp,
            memory_mib: crate::system::DEFAULT_MEMORY_MIB,
            cpu: "max".to_owned(),
            icount: false,
            more: Vec::new(),
        };
        session::run(&machine, &prepared.programs, &goal, &mut SilentView)
    }
}

/// A check that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mutant {
    name: String,
    file: String,
    from: String,
    to: String,
    system: String,
    ids: String,
}

/// The list.
const MUTANTS: &str = "hypervisor/mutants.toml";

/// Reads the list.
fn mutants() -> Result<Vec<Mutant>, Failure> {
    let text = std::fs::read_to_string(tree::root().join(MUTANTS)).context(MUTANTS)?;
    let wrong = |what: &str| Failure::usage(format_args!("{MUTANTS}: {what}"));
    let document = DeTable::parse(&text).map_err(|error| wrong(error.message()))?;
    let Some(DeValue::Array(list)) = document.get_ref().get("mutant").map(|list| list.get_ref()) else {
        return Err(wrong("no [[mutant]]"));
    };
    let mutants = list.iter().map(|entry| {
        let text = |key: &str| Some(entry.get_ref().get(key)?.get_ref().as_str()?.to_owned());
        Some(Mutant {
            name: text("name")?,
            file: text("file")?,
            from: text("from")?,
            to: text("to")?,
            system: text("system")?,
            ids: text("ids")?,
        })
    });
    mutants.collect::<Option<_>>().ok_or_else(|| wrong("each has name, file, from, to, system and ids"))
}

/// Makes each mutant in a copy of the sources, runs its attacks, and writes what found it.
fn mutate(filter: Option<&str>) -> Result<Exit, Failure> {
    let mutants = mutants()?;
    let copy = tree::work().join("mutants");
    copy_sources(&copy)?;
    let mut lab = Lab::new(2)?;
    let mut rows = Vec::new();
    let mut survivors = 0;
    for mutant in mutants.iter().filter(|mutant| filter.is_none_or(|filter| mutant.name.contains(filter))) {
        let found = kill(&mut lab, &copy, mutant)?;
        println!("{:40} {}", mutant.name, found.as_deref().unwrap_or("SURVIVES"));
        survivors += usize::from(found.is_none());
        let found = found.unwrap_or_else(|| "**nothing**".to_owned());
        rows.push(vec![mutant.name.clone(), format!("`{}`", mutant.file), mutant.ids.clone(), found]);
    }
    if filter.is_none() {
        let head = "<!-- Generated by `cargo xtask hostile --mutants`; do not edit. -->\n\n# Checks left out\n\nEach row is a hypervisor in which one check of hv-core does not hold, and what the named attacks then said first.\n\n";
        let text = format!("{head}{}", table(&["left out", "in", "attacks", "found by"], &rows));
        cmd::write(&tree::root().join("docs/security/mutants.md"), text.as_bytes())?;
    }
    println!("{} mutants, {survivors} survive", rows.len());
    Ok(if survivors == 0 { Exit::Success } else { Exit::Unmet })
}

/// Builds one mutant and runs its attacks: what found it, if anything did.
fn kill(lab: &mut Lab, copy: &Path, mutant: &Mutant) -> Result<Option<String>, Failure> {
    let file = copy.join(&mutant.file);
    let text = std::fs::read_to_string(tree::root().join(&mutant.file)).context(&mutant.file)?;
    std::fs::write(&file, text.replacen(&mutant.from, &mutant.to, 1)).context(&mutant.file)?;
    let target = copy.join("target");
    let built = Command::new("cargo")
        .current_dir(copy)
        .args(["build", "--quiet", "--release", "--target", TARGET, "-p", "hv", "--features", "recount"])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", "--cap-lints warn")
        .env("DEFMT_LOG", "info")
        .status();
    std::fs::write(&file, text).context(&mutant.file)?;
    if !built.is_ok_and(|status| status.success()) {
        return Err(Failure::usage(format_args!("mutant `{}` does not build", mutant.name)));
    }
    lab.hypervisor = Some(target.join(TARGET).join("release/hv"));
    let group = mutant.system.trim_start_matches("hostile-");
    let outcome = lab.boot(&mutant.system, "attacker", &format!("{group} only={}", mutant.ids), 90)?;
    let panic = outcome.transcript.iter().find(|line| line.contains("cloister: panic")).cloned();
    let found = test::wrong_attacks(&outcome).into_iter().next().or(panic);
    let ended = (outcome.exit != Exit::Success).then(|| outcome.exit.words().to_owned());
    Ok(found.or(ended))
}

/// Copies what the hypervisor is built from, each file only when it changed.
fn copy_sources(to: &Path) -> Result<(), Failure> {
    let listed = Command::new("git").current_dir(tree::root()).args(["ls-files"]).output().context("git ls-files")?;
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        let (from, copy) = (tree::root().join(name), to.join(name));
        let Ok(bytes) = std::fs::read(&from) else { continue };
        if std::fs::read(&copy).is_ok_and(|old| old == bytes) {
            continue;
        }
        cmd::write(&copy, &bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{mutants, shrink};
    use crate::tree;

    #[test]
    fn every_mutant_still_applies_and_changes_something() {
        let mutants = mutants().map_err(|failure| failure.message).unwrap_or_default();
        assert!(mutants.len() >= 20, "{} mutants", mutants.len());
        for mutant in mutants {
            let text = std::fs::read_to_string(tree::root().join(&mutant.file)).unwrap_or_default();
            assert_eq!(text.matches(&mutant.from).count(), 1, "{}", mutant.name);
            assert_ne!(mutant.from, mutant.to, "{}", mutant.name);
            for id in mutant.ids.split(',') {
                assert!(hostile_catalogue::ROWS.iter().any(|row| row.id == id), "{}: {id}", mutant.name);
            }
        }
    }

    #[test]
    fn a_failure_is_shrunk_to_the_steps_that_it_needs() {
        let needed = 1 << 3 | 1 << 40 | 1 << 63;
        let kept = shrink(u64::MAX, |keep| Ok(keep & needed == needed));
        assert_eq!(kept.ok(), Some(needed));
        assert_eq!(shrink(u64::MAX, |_| Ok(false)).ok(), Some(u64::MAX));
    }
}
