//! Every system file with a `[test]` table: booted with each number of CPUs and judged.

use std::time::Duration;

use super::{Bench, Case, Verdict};
use crate::build::Variant;
use crate::cmd::{self, load, prepare, system_names};
use crate::conformance::{Extent, Report};
use crate::error::{Context, Failure};
use crate::qemu::{Boot, Machine};
use crate::session::{self, Goal, Outcome, SilentView};
use crate::system::{System, TestSpec};
use protocol::policy::{Decision, Operation, Policy, Rule, allows, rule};

/// A test for each system and number of CPUs, and the hello system by each other way of booting.
pub fn cases() -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    for name in system_names().into_iter().filter(|name| !super::hostile::is_hostile(name)) {
        let system = load(&name)?;
        let Some(test) = &system.test else { continue };
        for (smp, cpu) in test.smp.iter().flat_map(|smp| test.cpu.iter().map(move |cpu| (*smp, cpu.clone()))) {
            let system = system.clone();
            let mut title = format!("guest/{name} smp={smp}");
            if test.cpu.len() > 1 {
                title += &format!(" cpu={cpu}");
            }
            let run = move |bench: &mut Bench| judge(run_system(bench, &system, smp, cpu), system.test.as_ref());
            cases.push(Case::new(title, run));
        }
    }
    for way in [Way::Bios, Way::Uefi, Way::Bochs] {
        cases.push(Case::new(format!("guest/hello {}", way.name()), move |bench| way.test(bench)));
    }
    for name in ["hello", "xen-abi"] {
        cases.push(Case::new(format!("guest/without-xen {name}"), move |bench| without_xen(bench, name)));
    }
    for (cpu, missing) in UNFIT {
        let title = format!("guest/unfit-cpu {cpu}");
        cases.push(Case::new(title, move |bench| {
            let outcome = run_hello(bench, cpu, |_| Ok(None));
            super::damage::expect_refusal(outcome, missing)
        }));
    }
    for smp in [1, 2] {
        cases.push(Case::new(format!("guest/conformance smp={smp}"), move |bench| {
            conformance(bench, smp).unwrap_or_else(|failure| Verdict::Failed(0, 1, failure.message))
        }));
    }
    cases.push(Case::new("guest/audit", |bench| audit(bench).into()));
    Ok(cases)
}

/// Runs the conformance suite.
fn conformance(bench: &mut Bench, smp: u32) -> Result<Verdict, Failure> {
    let program = bench.emulator()?;
    let run = cmd::conformance::Run { smp, ..cmd::conformance::Run::of(None)? };
    let outcome = cmd::conformance::boot(&mut bench.builder, program, run)?;
    Ok(conforms(&cmd::conformance::report(&outcome, Extent::Whole)))
}

/// Each case of the conformance suite counts.
pub fn conforms(report: &Report<'_>) -> Verdict {
    let (passed, failed) = report.counts();
    if report.conforms() {
        Verdict::Passed(passed)
    } else {
        Verdict::Failed(passed, failed.max(1), crate::conformance::text(report))
    }
}

/// Audits every guest; most are built by now.
fn audit(bench: &mut Bench) -> Result<(), Failure> {
    let reports = cmd::audit::audit_all(&cmd::audit::guests()?, &mut bench.builder, false)?;
    match cmd::audit::complaints(&reports, false) {
        None => Ok(()),
        Some(what) => Err(Failure::usage(what)),
    }
}

/// CPU models that lack something the hypervisor needs, and a word of the sentence that says so.
const UNFIT: [(&str, &str); 3] =
    [("qemu32", "long mode"), ("max,-nx", "cannot start"), ("max,-syscall", "cannot start")];

/// What each VM must print about each other one, and about itself, when the policy is kept.
fn cells(policy: &Policy) -> Vec<String> {
    let subjects = &policy.subjects;
    let pairs = subjects.iter().flat_map(|subject| subjects.iter().map(move |object| (subject, object)));
    let cells = pairs.flat_map(|pair| Operation::ALL.iter().map(move |operation| (pair, *operation)));
    let tried = cells.filter(|((subject, object), operation)| match rule(*operation) {
        Rule::Equal | Rule::SubjectToObject | Rule::ObjectToSubject => subject.name != object.name,
        // A VM cannot so much as name the console, memory or time of another.
        Rule::Own => subject.name == object.name && *operation != Operation::ConsoleRead,
        // No call of a VM has this effect.
        Rule::Role(_) => false,
    });
    tried
        .map(|((subject, object), operation)| {
            let is_allowed = allows(subject, operation, object) != Decision::Refused;
            let word = if is_allowed { "allowed" } else { "refused" };
            format!("[{}] {} -> {}, {}: {word}", subject.name, subject.name, object.name, operation.name())
        })
        .collect()
}

/// Boots a system as its test table says.
pub fn run_system(bench: &mut Bench, system: &System, smp: u32, cpu: String) -> Result<Outcome, Failure> {
    let Some(test) = &system.test else {
        return Err(Failure::usage("the system has no [test] table"));
    };
    let program = bench.emulator()?;
    let prepared = prepare(system, &mut bench.builder, test.memory_mib)?;
    let cpu = cmd::suited_cpu(&cpu, system, &program);
    let script = match &test.script {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).context(path.display())?;
            session::parse_script(&text).context(path.display())?
        }
    };
    let goal = Goal {
        to_end: test.exit.is_some() || (test.expect.is_empty() && script.is_empty()),
        expect: [test.expect.clone(), if test.cells { cells(&system.policy.policy) } else { Vec::new() }].concat(),
        script,
        timeout: Some(Duration::from_secs(test.timeout)),
        interactive: false,
        reactions: Vec::new(),
        save: None,
    };
    let machine = Machine {
        program,
        boot: Boot::Direct { hypervisor: prepared.hypervisor, image: prepared.image },
        smp,
        memory_mib: prepared.memory_mib,
        cpu,
        icount: test.icount,
        more: Vec::new(),
    };
    session::run(&machine, &prepared.programs, &goal, &mut SilentView)
}

/// Whether a run came to what its table says.
pub fn judge(outcome: Result<Outcome, Failure>, test: Option<&TestSpec>) -> Verdict {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(failure) => return Verdict::Failed(0, 1, failure.message),
    };
    let wanted = test.and_then(|test| test.exit).unwrap_or(0);
    let mut wrong = Vec::new();
    if outcome.exit.code() != wanted {
        wrong.push(format!("it ended with code {} ({}), not {wanted}", outcome.exit.code(), outcome.exit.words()));
    }
    wrong.extend(cmd::audit_log::verify(&outcome.audit).err());
    wrong.extend(outcome.unmet.iter().map(|text| format!("not reached: {text}")));
    for text in test.iter().flat_map(|test| &test.forbid) {
        let found = outcome.transcript.iter().find(|line| line.contains(text.as_str()));
        wrong.extend(found.map(|line| format!("forbidden: `{line}`")));
    }
    if let Some(test) = test {
        let names: Vec<&str> = test.same.iter().map(|name| name.value.as_str()).collect();
        wrong.extend(difference(&names, &outcome.console));
    }
    if wrong.is_empty() {
        return Verdict::Passed(1);
    }
    Verdict::Failed(0, 1, explain(&wrong, &outcome))
}

/// The first difference between what the first of some VMs wrote to its console and what each other
/// one did. Where a VM writes its own name, it may differ. To have said nothing is a difference too.
fn difference(names: &[&str], console: &[(String, String)]) -> Option<String> {
    let lines = |name: &str| -> Vec<String> {
        console.iter().filter(|(vm, _)| vm == name).map(|(_, text)| text.replace(name, "NAME")).collect()
    };
    let (first, others) = names.split_first()?;
    let wanted = lines(first);
    if wanted.is_empty() {
        return Some(format!("`{first}`, which is to be compared, said nothing"));
    }
    others.iter().find_map(|other| {
        let found = lines(other);
        let at = (0..wanted.len().max(found.len())).find(|at| wanted.get(*at) != found.get(*at))?;
        let [one, two] = [&wanted, &found].map(|lines| lines.get(at).map_or("nothing", String::as_str));
        Some(format!("line {} differs:\n`{first}`: {one}\n`{other}`: {two}", at + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::difference;

    fn console(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        lines.iter().map(|(vm, text)| ((*vm).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn equal_lines_in_any_interleaving_are_no_difference() {
        let lines = [("a1", "x"), ("b1", "x"), ("c", "noise"), ("b1", "PASS b1"), ("a1", "PASS a1")];
        assert_eq!(difference(&["a1", "b1"], &console(&lines)), None);
        assert_eq!(difference(&[], &console(&lines)), None);
    }

    #[test]
    fn one_differing_byte_an_order_or_a_missing_line_is_named() {
        for other in [&[("b", "x"), ("b", "Y")][..], &[("b", "y"), ("b", "x")], &[("b", "x")], &[]] {
            let lines = [&[("a", "x"), ("a", "y")][..], other].concat();
            let found = difference(&["a", "b"], &console(&lines));
            assert!(found.is_some_and(|text| text.contains("line")), "{other:?}");
        }
        let more = console(&[("a", "x"), ("b", "x"), ("b", "y")]);
        assert!(difference(&["a", "b"], &more).is_some_and(|text| text.contains("line 2")));
    }

    #[test]
    fn silence_is_not_equal_to_silence() {
        assert!(difference(&["a", "b"], &[]).is_some());
    }
}

/// What went wrong, with the end of what was shown.
pub fn explain(wrong: &[String], outcome: &Outcome) -> String {
    let start = outcome.transcript.len().saturating_sub(60);
    let shown = outcome.transcript.get(start..).unwrap_or_default();
    let parts = [wrong, &outcome.complaints, &["the last lines:".to_owned()], shown];
    parts.concat().join("\n")
}

/// Boots a system on a hypervisor that leaves the Xen personality out: a native one runs, another is refused.
fn without_xen(bench: &mut Bench, name: &str) -> Verdict {
    let build = |bench: &mut Bench| bench.builder.hypervisor(Variant::WithoutXen);
    let outcome = build(bench).and_then(|hypervisor| {
        run_other(bench, name, "max,-smap", |prepared| {
            Ok(Some(Boot::Direct { hypervisor, image: prepared.image.clone() }))
        })
    });
    if name == "hello" {
        return judge(outcome, None);
    }
    super::damage::expect_refusal(outcome, "VM 0: it speaks Xen's ABI, which this hypervisor was built without")
}

/// Boots the hello system on a machine of one CPU model. `change` may replace the way it boots.
pub fn run_hello(
    bench: &mut Bench,
    cpu: &str,
    change: impl FnOnce(&cmd::Prepared) -> Result<Option<Boot>, Failure>,
) -> Result<Outcome, Failure> {
    run_other(bench, "hello", cpu, change)
}

/// The same for any system.
fn run_other(
    bench: &mut Bench,
    name: &str,
    cpu: &str,
    change: impl FnOnce(&cmd::Prepared) -> Result<Option<Boot>, Failure>,
) -> Result<Outcome, Failure> {
    let program = bench.emulator()?;
    let system = load(name)?;
    let prepared = prepare(&system, &mut bench.builder, 256)?;
    let boot = change(&prepared)?
        .unwrap_or_else(|| Boot::Direct { hypervisor: prepared.hypervisor.clone(), image: prepared.image.clone() });
    let machine =
        Machine { program, boot, smp: 2, memory_mib: 256, cpu: cpu.to_owned(), icount: false, more: Vec::new() };
    let goal = Goal { to_end: true, timeout: Some(Duration::from_secs(60)), ..Goal::default() };
    session::run(&machine, &prepared.programs, &goal, &mut SilentView)
}

/// Another way to boot the same files.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// ISO as a CD, by BIOS.
    Bios,
    /// ISO as a CD, by UEFI.
    Uefi,
    /// The same ISO in the other emulator.
    Bochs,
}

impl Way {
    /// For the test's name.
    fn name(self) -> &'static str {
        match self {
            Way::Bios => "by BIOS from an ISO",
            Way::Uefi => "by UEFI from an ISO",
            Way::Bochs => "in Bochs",
        }
    }

    /// Boots the hello system this way.
    fn test(self, bench: &mut Bench) -> Verdict {
        match self {
            Way::Bios => judge(run_hello(bench, "max", |prepared| Ok(Some(Boot::Iso(iso(prepared)?)))), None),
            Way::Uefi => judge(
                run_hello(bench, "max", |prepared| {
                    crate::host::fetch::ensure_files(&[(cmd::image::OVMF, "ovmf")])?;
                    Ok(Some(Boot::UefiIso { iso: iso(prepared)?, firmware: cmd::image::firmware()? }))
                }),
                None,
            ),
            Way::Bochs => load("hello")
                .and_then(|system| bochs(bench, &system, Duration::from_secs(180), &["[hello] ended with code 0"]))
                .unwrap_or_else(|failure| Verdict::Skipped(failure.message)),
        }
    }
}

/// The ISO of a prepared system.
fn iso(prepared: &cmd::Prepared) -> Result<std::path::PathBuf, Failure> {
    let iso = prepared.image.with_extension("iso");
    cmd::image::write_iso(&prepared.hypervisor, &prepared.image, &iso)?;
    Ok(iso)
}

/// Boots a system in Bochs until the machine ends, and looks whether some line begins with each of the texts.
pub fn bochs(bench: &mut Bench, system: &System, timeout: Duration, expected: &[&str]) -> Result<Verdict, Failure> {
    crate::host::fetch::ensure_programs(&[("bochs", "bochs")])?;
    let prepared = prepare(system, &mut bench.builder, crate::qemu::bochs::MEMORY_MIB)?;
    let seen = crate::qemu::bochs::run(&iso(&prepared)?, timeout)?;
    let lines: Vec<String> =
        cmd::log::decode(&seen, &prepared.programs).iter().flat_map(session::Shown::lines).collect();
    match expected.iter().find(|text| !lines.iter().any(|line| line.starts_with(**text))) {
        None => Ok(Verdict::Passed(1)),
        Some(text) => Ok(Verdict::Failed(0, 1, format!("not seen: {text}\n{}", lines.join("\n")))),
    }
}
