use protocol::call::{CallInfo, Right};
use protocol::status::Status;

use super::{Extent, Report, Verdict, json, junit, text};

/// A table of two calls, the second of which has an error and a clause more.
const TABLE: [CallInfo; 2] = [
    CallInfo { name: "first", clauses: &[("ONE-1", "It does.")], errors: &[], ..CALL },
    CallInfo {
        name: "second",
        clauses: &[("TWO-1", "It does."), ("TWO-2", "It does not.")],
        errors: &[Status::Busy],
        ..CALL
    },
];
const CALL: CallInfo = CallInfo {
    number: 0,
    name: "",
    doc: "",
    arguments: &[],
    result: "()",
    result_registers: 0,
    errors: &[],
    right: Right::Own,
    since_minor: 0,
    in_batch: true,
    clauses: &[],
};

const PLAN: &str = "\
conform suite 1.0
conform plan first/does ONE-1
conform plan second/does TWO-1
conform plan second/does-not TWO-2
conform plan second/does-not second/Busy
";

fn read(lines: &str) -> Report<'static> {
    Report::read(&TABLE, Extent::Whole, lines.lines())
}

fn whole() -> String {
    PLAN.to_owned()
        + "conform pass first/does first,ONE-1\nconform pass second/does second,TWO-1\n\
           conform pass second/does-not TWO-2\nconform pass second/does-not second/Busy\nconform end\n"
}

#[test]
fn a_run_that_shows_everything_conforms() {
    let report = read(&whole());
    assert!(report.conforms(), "{}", text(&report));
    assert_eq!(report.counts(), (3, 0));
    assert!(text(&report).ends_with("2/2 calls, 1/1 errors, 3/3 clauses: 100 %\n3 cases passed, 0 failed\n"));
}

#[test]
fn an_entry_of_the_table_without_a_case_is_reported() {
    let without = |left_out: &str| {
        let lines: Vec<String> = whole().lines().filter(|line| !line.contains(left_out)).map(str::to_owned).collect();
        let report = read(&lines.join("\n"));
        assert!(!report.conforms());
        report.missing()
    };
    assert_eq!(without("first/does"), ["first", "ONE-1"]);
    assert_eq!(without("TWO-1"), ["second", "TWO-1"]);
    assert_eq!(without("second/Busy"), ["second/Busy"]);
    assert_eq!(without("second/does-not"), ["second/Busy", "TWO-2"]);
}

#[test]
fn what_a_failed_case_declares_is_not_shown() {
    let lines = whole().replace("conform pass second/does second,TWO-1", "conform fail second/does 1 instead of 2");
    let report = read(&lines);
    assert!(!report.conforms());
    assert_eq!(report.missing(), ["second", "TWO-1"]);
    assert_eq!(report.counts(), (2, 1));
    assert!(text(&report).contains("failed: second/does: 1 instead of 2\n"), "{}", text(&report));
    assert_eq!(json(&report)["cases"][1]["detail"], "1 instead of 2");
    assert!(junit(&report).contains("name=\"does\"><failure message=\"1 instead of 2\"/>"));
}

#[test]
fn a_case_without_a_result_fails() {
    let report = read(PLAN);
    assert_eq!(report.counts(), (0, 3));
    assert!(report.cases.iter().all(|case| case.verdict == Verdict::Unknown));
    assert!(junit(&report).contains("tests=\"9\" failures=\"9\""), "{}", junit(&report));
}

#[test]
fn results_that_do_not_fit_the_table_or_the_plan_are_troubles() {
    let unknown = read(&whole().replace("ONE-1", "ONE-9"));
    assert_eq!(unknown.all_troubles(), ["the table has no ONE-9"]);
    let unplanned = read(&(whole() + "conform pass third/does -\n"));
    assert_eq!(unplanned.all_troubles(), ["third/does was never planned"]);
    let both = read(&(whole() + "conform fail first/does no\nconform pass first/does ONE-1\n"));
    assert!(!both.conforms());
    assert_eq!(read("").all_troubles(), ["no case was planned"]);
}

#[test]
fn chosen_cases_need_not_show_everything() {
    let lines = "conform plan first/does ONE-1\nconform pass first/does ONE-1\n";
    let report = Report::read(&TABLE, Extent::Chosen, lines.lines());
    assert!(report.conforms(), "{}", text(&report));
    assert!(!text(&report).contains("second"));
}
