//! Native systems with Linux beside them: neither notices the other. And that Linux alone in the other emulator.

use std::time::Duration;

use protocol::policy::Hardware;

use super::{Bench, Case, Verdict, guest, hostile};
use crate::cmd::{conformance, load};
use crate::conformance::Extent;
use crate::error::Failure;
use crate::session::parse_script;
use crate::system::System;
use crate::tree;

/// The system of the one VM that is added.
const BESIDE: &str = "linux-beside";
/// What systems that attack wait for.
const SCRIPT: &str = "guest-kernels/systems/linux-beside.script";
/// The systems that attack, without how their names begin.
const ATTACKS: [&str; 4] = ["calls", "entry", "memory", "sharing"];
/// CPUs of the machine.
const CPUS: u32 = 2;

/// How long Linux may take in Bochs, which interprets every instruction.
const IN_BOCHS: Duration = Duration::from_secs(900);

/// The conformance suite and the attacks, each with Linux.
pub fn cases() -> Vec<Case> {
    let conforms = Case::new("guest/beside-linux conformance", |bench| {
        conform(bench).unwrap_or_else(|failure| Verdict::Failed(0, 1, failure.message))
    });
    let attacks = ATTACKS.map(|name| {
        Case::new(format!("guest/beside-linux {name}"), move |bench| {
            // These do not stand for attacks that the catalogue wants without Linux.
            attacked(name).map_or_else(
                |failure| Verdict::Failed(0, 1, failure.message),
                |system| hostile::attack(bench, &system, CPUS).0,
            )
        })
    });
    let in_bochs = Case::new("guest/linux in Bochs", |bench| {
        bochs(bench).unwrap_or_else(|failure| Verdict::Skipped(failure.message))
    });
    [conforms, in_bochs].into_iter().chain(attacks).collect()
}

/// Boots Linux in Bochs, whose processor has SMAP, for two rounds of work.
fn bochs(bench: &mut Bench) -> Result<Verdict, Failure> {
    let mut system = load(BESIDE)?;
    for vm in &mut system.vms {
        vm.command_line.push_str(" rounds=2");
    }
    guest::bochs(bench, &system, IN_BOCHS, &["[linux] beside: round 2 ok", "[linux] ended with code 0"])
}

/// A system with Linux added as its last VM.
fn with_linux(name: &str) -> Result<System, Failure> {
    let mut system = load(name)?;
    let linux = load(BESIDE)?;
    system.name = format!("{name}-{BESIDE}");
    system.vms.extend(linux.vms);
    system.policy.policy.subjects.extend(linux.policy.policy.subjects);
    // The emulator may have to do without SMAP for Linux.
    system.policy.policy.hardware = Hardware::Degraded;
    Ok(system)
}

/// A system that attacks. Linux works on for ever, so the run ends when the script does.
fn attacked(name: &str) -> Result<System, Failure> {
    let mut system = with_linux(&format!("hostile-{name}"))?;
    if let Some(test) = &mut system.test {
        test.exit = None;
        test.script = Some(tree::root().join(SCRIPT));
        test.forbid.push("Kernel panic".to_owned());
        test.timeout *= 2;
        test.memory_mib = None;
    }
    Ok(system)
}

/// Runs the conformance suite until Linux works after it.
fn conform(bench: &mut Bench) -> Result<Verdict, Failure> {
    let program = bench.emulator()?;
    let script = parse_script("suite expect conform end\nlinux expect beside: round\n").map_err(Failure::usage)?;
    let system = with_linux(conformance::SYSTEM)?;
    let run = conformance::Run { system, script, smp: CPUS, timeout: 2 * conformance::TIMEOUT };
    let report = conformance::report(&conformance::boot(&mut bench.builder, program, run)?, Extent::Whole);
    Ok(guest::conforms(&report))
}
