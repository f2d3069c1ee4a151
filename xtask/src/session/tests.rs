//! Sessions with a shell script in the emulator's place.

use std::time::{Duration, Instant};

use super::{Goal, Outcome, SilentView, parse_script, run};
use crate::decode::Programs;
use crate::error::Exit;
use crate::qemu::{Boot, Machine, Program};

/// Runs a script as the machine of a system with the VM `a`.
fn session(script: &str, goal: &Goal) -> Outcome {
    let machine = Machine {
        program: Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into(), "machine".into()],
            environment: Vec::new(),
        },
        boot: Boot::Iso("none".into()),
        smp: 1,
        memory_mib: 1,
        cpu: "none".into(),
        icount: false,
        more: Vec::new(),
    };
    let programs = Programs::new("/nonexistent", &[("a".to_owned(), Vec::new())]);
    run(&machine, &programs, goal, &mut SilentView).unwrap()
}

fn expecting(text: &str) -> Goal {
    Goal { expect: vec![text.to_owned()], timeout: Some(Duration::from_secs(20)), ..Goal::default() }
}

#[test]
fn the_machines_exit_status_decides_when_nothing_is_expected() {
    for (status, exit) in [
        (33, Exit::Success),
        (35, Exit::VmFailed),
        (37, Exit::HypervisorPanic),
        (39, Exit::Unfit),
        (0, Exit::HypervisorPanic),
        (1, Exit::Usage),
    ] {
        let outcome = session(&format!("echo '[a] x'; exit {status}"), &Goal::default());
        assert_eq!((outcome.exit, outcome.reset), (exit, status == 0), "{status}");
        assert_eq!(outcome.transcript, ["[a] x"]);
    }
}

#[test]
fn the_run_ends_when_the_text_was_seen_and_the_machine_with_it() {
    let start = Instant::now();
    let outcome = session("echo '[a] done'; exec sleep 15", &expecting("[a] done"));
    assert_eq!(outcome.exit, Exit::Success);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_text_in_the_last_line_without_an_end_counts() {
    assert_eq!(session("printf '[a] done'; exit 33", &expecting("done")).exit, Exit::Success);
}

#[test]
fn a_text_that_is_not_seen_fails_a_good_end_and_is_named() {
    let outcome = session("echo '[a] other'; exit 33", &expecting("done"));
    assert_eq!(outcome.exit, Exit::Unmet);
    assert_eq!(outcome.unmet, ["expect `done`"]);
    assert_eq!(session("exit 35", &expecting("done")).exit, Exit::VmFailed);
}

#[test]
fn the_time_ends_a_machine_that_does_not() {
    let goal = Goal { timeout: Some(Duration::from_millis(300)), ..Goal::default() };
    assert_eq!(session("exec sleep 15", &goal).exit, Exit::TimeOut);
}

#[test]
fn a_run_to_the_end_is_judged_by_its_end_even_when_all_was_seen() {
    let goal = Goal { to_end: true, ..expecting("done") };
    let outcome = session("echo done; exit 35", &goal);
    assert_eq!((outcome.exit, outcome.unmet.len()), (Exit::VmFailed, 0));
}

#[test]
fn a_script_talks_to_the_machine() {
    let goal = Goal {
        script: parse_script("a expect name?\n* send Bo\na expect hello Bo\n").unwrap(),
        timeout: Some(Duration::from_secs(20)),
        ..Goal::default()
    };
    let outcome = session("printf '[a] name? '; read name; echo; echo \"[a] hello $name\"; exec sleep 15", &goal);
    assert_eq!(outcome.exit, Exit::Success, "{outcome:?}");
}

#[test]
fn a_script_talks_to_a_shell_whose_prompt_ends_no_line() {
    let goal = Goal {
        script: parse_script(
            "* expect goes to\na prompt / #\na send one\na prompt / #\na send two\na expect did two\n",
        )
        .unwrap(),
        timeout: Some(Duration::from_secs(20)),
        ..Goal::default()
    };
    // The terminal echoes what is typed; the prompt comes in pieces, and again before it is answered.
    let shell =
        "echo 'cloister: the console'\\''s input goes to [a] from now on'; printf '[a] / '; sleep 0.1; printf '# ';
        read word; printf '\\r\\033[K[a] / # '; sleep 0.1; echo \"$word\"; sleep 0.2; echo \"[a] did $word\";
        printf '[a] / # '; read word; echo \"$word\"; echo \"[a] did $word\"; exec sleep 15";
    let outcome = session(shell, &goal);
    assert_eq!(outcome.exit, Exit::Success, "{outcome:?}");
    let lines: Vec<&str> = outcome.transcript.iter().map(String::as_str).collect();
    assert!(lines.contains(&"[a] did one") && lines.contains(&"[a] / # two"), "{lines:?}");
}

#[test]
fn what_the_emulator_complains_about_is_kept() {
    let outcome = session("echo 'no such machine' >&2; exit 1", &Goal::default());
    assert_eq!((outcome.exit, outcome.complaints.len()), (Exit::Usage, 1), "{outcome:?}");
}
