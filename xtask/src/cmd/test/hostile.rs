//! Systems whose guests attack. Beside what each system's `[test]` table says, every attack that a
//! guest announces must end as announced, and all together must be those of the catalogue.

use std::collections::BTreeMap;

use hostile_catalogue::{Group, ROWS, XEN_ROWS};
use protocol::audit::AuditKind;
use protocol::shared::AuditRecord;

use super::guest::{explain, judge, run_system};
use super::{Bench, Case, Verdict};
use crate::cmd::noninterference::{Options, Which, compare};
use crate::cmd::{load, system_names};
use crate::error::Failure;
use crate::session::Outcome;
use crate::system::System;

/// How the names of these systems begin.
pub fn is_hostile(name: &str) -> bool {
    name.starts_with("hostile-")
}

/// Distinct attacks that must be withstood at least.
const LEAST: usize = 120;

/// Instructions that ring 0 may keep the CPU for at most. A step of any work takes up to 64,000. Only the death of
/// a VM takes more than the 100,000 of the design: its report (81,000: text, and a record with all that is known),
/// the record of it in the chain of the audit log (35,000), and the choice of who runs next. The strict profile
/// leaves 200,000 free at the end of a slot, so that what begins in a slot ends in it.
const LONGEST_STAY: u64 = 150_000;

/// A test for each system and number of CPUs, and one that counts.
pub fn cases() -> Result<Vec<Case>, Failure> {
    let mut cases = Vec::new();
    for name in system_names().into_iter().filter(|name| is_hostile(name)) {
        let system = load(&name)?;
        for smp in system.test.iter().flat_map(|test| test.smp.clone()) {
            let mut system = system.clone();
            // On one CPU, time is counted in instructions, and so is the longest stay in ring 0.
            if let Some(test) = &mut system.test {
                test.icount = smp == 1;
            }
            let title = format!("{} smp={smp}", name.replacen("hostile-", "hostile/", 1));
            cases.push(Case::new(title, move |bench| {
                let (verdict, withstood) = attack(bench, &system, smp);
                for (id, times) in withstood {
                    *bench.attacks.entry(id).or_default() += times;
                }
                verdict
            }));
        }
    }
    cases.push(Case::new("hostile/all attacks", |bench| count(&bench.attacks)));
    for (what, options) in [
        ("strict: none can be told apart", Options::short(Which::Strict, 8)),
        ("shared: they can, the control", Options::short(Which::Shared, 2)),
    ] {
        let run = move |bench: &mut Bench| {
            bench.emulator().and_then(|emulator| compare(&options, &mut bench.builder, emulator)).into()
        };
        cases.push(Case::new(format!("hostile/secrets, {what}"), run));
    }
    Ok(cases)
}

/// Boots a system and judges each attack, then the rest; also how often each attack was withstood.
pub fn attack(bench: &mut Bench, system: &System, smp: u32) -> (Verdict, BTreeMap<String, usize>) {
    match run_system(bench, system, smp, "max".to_owned()) {
        Ok(outcome) => {
            let Attacks { withstood, wrong } = attacks(&outcome);
            (judge_attacks(system, outcome, wrong, withstood.values().sum()), withstood)
        }
        Err(failure) => (Verdict::Failed(0, 1, failure.message), BTreeMap::new()),
    }
}

/// Judges a run in which so many attacks were withstood, and these were not.
fn judge_attacks(system: &System, outcome: Outcome, mut wrong: Vec<String>, total: usize) -> Verdict {
    let figures = figures(&outcome);
    if system.test.as_ref().is_some_and(|test| test.recount && test.icount) {
        wrong.extend(judge_stay(figures.as_deref()));
    }
    if !wrong.is_empty() {
        return Verdict::Failed(total, wrong.len(), explain(&wrong, &outcome));
    }
    match figures {
        // A test that does not wait for the machine's end does not see that line.
        None if system.test.as_ref().is_some_and(|test| test.recount && test.exit.is_some()) => {
            return Verdict::Failed(
                total,
                1,
                explain(&["the hypervisor did not say what it measured".to_owned()], &outcome),
            );
        }
        None => {}
        Some(figures) => {
            println!("        {total} attacks; {figures}");
            if let Some(wrong) = unlike_the_log(&figures, &outcome.audit) {
                return Verdict::Failed(total, 1, explain(&[wrong], &outcome));
            }
        }
    }
    match judge(Ok(outcome), system.test.as_ref()) {
        Verdict::Passed(_) => Verdict::Passed(total),
        other => other,
    }
}

/// The hypervisor's own last line about what it measured.
fn figures(outcome: &Outcome) -> Option<String> {
    let line = outcome.transcript.iter().find_map(|line| line.strip_prefix("cloister: recount: "));
    line.map(str::to_owned)
}

/// The longest stay in ring 0 among the figures.
fn longest_stay(figures: &str) -> Option<u64> {
    figures.split_once("longest in ring 0 ")?.1.split(' ').next()?.parse().ok()
}

/// What is wrong with a run's figures, where time is counted in instructions.
fn judge_stay(figures: Option<&str>) -> Option<String> {
    match figures.and_then(longest_stay) {
        None => Some("the hypervisor did not say how long ring 0 kept the CPU".to_owned()),
        Some(stay) if stay > LONGEST_STAY => {
            Some(format!("ring 0 kept the CPU for {stay} instructions, more than {LONGEST_STAY}: {}", figures?))
        }
        Some(_) => None,
    }
}

/// Compares the refusals that the hypervisor counted beside its audit log with the records that came.
fn unlike_the_log(figures: &str, records: &[AuditRecord]) -> Option<String> {
    let is_denial = |record: &&AuditRecord| matches!(record.meaning(), Some(AuditKind::Denied | AuditKind::DeniedMore));
    let came: u64 = records.iter().filter(is_denial).map(|record| record.count).sum();
    let counted = figures.split("; ").find_map(|part| part.split_once(" refusals recorded")?.0.parse::<u64>().ok());
    (counted != Some(came)).then(|| format!("records of {came} refusals came; the hypervisor says: {figures}"))
}

/// What a run's attacks came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Attacks {
    /// Each attack that ended as it should, and how often.
    withstood: BTreeMap<String, usize>,
    /// What went otherwise.
    wrong: Vec<String>,
}

/// The attacks of a run that did not end as they should, and deaths that nobody announced.
pub fn wrong_attacks(outcome: &Outcome) -> Vec<String> {
    attacks(outcome).wrong
}

/// Takes the attacks out of what was shown: `attack ID MODE ok`, `attack ID MODE FAIL: why`, or
/// `attack ID MODE dies CODE` and then the report of that death.
fn attacks(outcome: &Outcome) -> Attacks {
    let mut found = Attacks::default();
    let mut dying: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in outcome.transcript.iter().filter(|line| !line.starts_with("[random] ")) {
        let Some((vm, text)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else {
            // Guests print such lines as other people's; none may come out as that.
            found.wrong.extend(line.contains("spoofed").then(|| line.clone()));
            continue;
        };
        if let Some(report) = text.strip_prefix("died: ") {
            match dying.remove(vm) {
                Some((id, code)) if report.starts_with(&code) => *found.withstood.entry(id).or_default() += 1,
                Some((id, code)) => found.wrong.push(format!("{id}: {vm} died of {report}, not {code}")),
                None => found.wrong.push(format!("{vm} died, which was not announced: {report}")),
            }
            continue;
        }
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["attack", id, mode, "ok", ..] => *found.withstood.entry(named(id, mode)).or_default() += 1,
            ["attack", id, mode, "dies", code] => {
                dying.insert(vm.to_owned(), (named(id, mode), (*code).to_owned()));
            }
            ["attack", ..] => found.wrong.push(line.clone()),
            ["spoofed", ..] if vm != "attacker" => found.wrong.push(line.clone()),
            _ => {}
        }
    }
    // Deaths that a case orders belong to it, and to no row of their own.
    found.withstood.remove("-");
    found.wrong.extend(dying.into_values().map(|(id, code)| format!("{id}: no report {code} came")));
    found
}

/// The mode of attacks by kernels of Xen's ABI, which have a table of their own.
const XEN: &str = "xen";

/// The name of a row.
fn named(id: &str, mode: &str) -> String {
    if mode == XEN { format!("{id} by {XEN}") } else { id.to_owned() }
}

/// Compares with the catalogue.
fn count(withstood: &BTreeMap<String, usize>) -> Verdict {
    let native = ROWS.iter().filter(|row| row.group != Group::Absent).map(|row| row.id.to_owned());
    let expected: Vec<String> = native.chain(XEN_ROWS.iter().map(|row| named(row.id, XEN))).collect();
    let mut wrong: Vec<String> = Vec::new();
    wrong.extend(expected.iter().filter(|id| !withstood.contains_key(*id)).map(|id| format!("{id} did not run")));
    wrong
        .extend(withstood.keys().filter(|id| !expected.contains(id)).map(|id| format!("{id} is not in the catalogue")));
    if withstood.len() < LEAST {
        wrong.push(format!("{} distinct ids, at least {LEAST} are wanted", withstood.len()));
    }
    let times: usize = withstood.values().sum();
    println!("        {} distinct ids, {times} attacks withstood", withstood.len());
    if wrong.is_empty() { Verdict::Passed(withstood.len()) } else { Verdict::Failed(0, wrong.len(), wrong.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::{attacks, judge_stay, unlike_the_log};
    use protocol::shared::AuditRecord;

    use crate::error::Exit;
    use crate::session::Outcome;

    fn outcome(lines: &[&str]) -> Outcome {
        Outcome {
            exit: Exit::Success,
            unmet: Vec::new(),
            transcript: lines.iter().map(|line| (*line).to_owned()).collect(),
            complaints: Vec::new(),
            console: Default::default(),
            audit: Default::default(),
            reset: false,
        }
    }

    #[test]
    fn ring_0_keeps_the_cpu_for_so_long_and_no_longer() {
        let figures = |ticks| format!("3 times all frames agreed; longest in ring 0 {ticks} ticks (vector 6, rax 0x0)");
        assert_eq!(judge_stay(Some(&figures(150_000))), None);
        assert!(judge_stay(Some(&figures(150_001))).is_some());
        assert!(judge_stay(Some("3 times all frames agreed")).is_some());
        assert!(judge_stay(None).is_some());
    }

    #[test]
    fn refusals_that_have_no_record_are_noticed() {
        let record = |kind, count| AuditRecord { kind, count, ..AuditRecord::default() };
        let records = [record(6, 1), record(2, 1), record(7, 30)];
        assert_eq!(unlike_the_log("stack 1; 31 refusals recorded, 2 lost", &records), None);
        for figures in ["stack 1; 32 refusals recorded, 0 lost", "31 refused"] {
            assert!(unlike_the_log(figures, &records).is_some(), "{figures}");
        }
    }

    #[test]
    fn an_attack_counts_only_when_it_ends_as_announced() {
        let good = attacks(&outcome(&[
            "[a] attack PT-01 alone ok",
            "[a] attack EX-02 alone dies HV-VM-001",
            "[a] died: HV-VM-001: x",
        ]));
        assert_eq!(good.withstood.len(), 2);
        assert_eq!(good.wrong, Vec::<String>::new());
        for lines in [
            &["[a] attack PT-01 alone FAIL: 1 instead of 2"][..],
            &["[a] died: HV-VM-001: x"],
            &["[a] attack EX-02 alone dies HV-VM-001", "[a] died: HV-VM-002: x"],
            &["[a] attack EX-02 alone dies HV-VM-001", "[b] died: HV-VM-001: x"],
            &["[a] attack EX-02 alone dies HV-VM-001"],
        ] {
            let bad = attacks(&outcome(lines));
            assert!(!bad.wrong.is_empty() && bad.withstood.is_empty(), "{lines:?}: {bad:?}");
        }
    }
}
