//! A report as a table, as JSON and as `JUnit` XML.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{CaseResult, Extent, Report, Share, Verdict};

/// The table, a row for each call, then what is wrong and the sums.
pub fn text(report: &Report<'_>) -> String {
    let mut text = format!("{:<20} {:>5} {:>7} {:>7}  verdict\n", "call", "cases", "errors", "clauses");
    for call in report.table {
        let of_call: Vec<&CaseResult> = report.cases.iter().filter(|case| case.about() == call.name).collect();
        if of_call.is_empty() && report.extent == Extent::Chosen {
            continue;
        }
        let shares = report.shares(std::iter::once(call));
        let [_, errors, clauses] = shares;
        let is_complete = report.extent == Extent::Chosen || shares.iter().all(|share| share.shown == share.of);
        let verdict = verdict_of(&of_call, is_complete);
        let count = of_call.len();
        let _ =
            writeln!(text, "{:<20} {count:>5} {:>7} {:>7}  {verdict}", call.name, fraction(errors), fraction(clauses));
    }
    let rest: Vec<&CaseResult> =
        report.cases.iter().filter(|case| !report.table.iter().any(|call| call.name == case.about())).collect();
    if !rest.is_empty() {
        let _ = writeln!(text, "{:<20} {:>5} {:>7} {:>7}  {}", "(all)", rest.len(), "", "", verdict_of(&rest, true));
    }
    for case in &report.cases {
        match &case.verdict {
            Verdict::Passed => {}
            Verdict::Failed(why) => {
                let _ = writeln!(text, "failed: {}: {why}", case.id);
            }
            Verdict::Unknown => {
                let _ = writeln!(text, "failed: {}: the suite ended without a word about it", case.id);
            }
        }
    }
    for item in report.missing() {
        let _ = writeln!(text, "not shown: {item}");
    }
    for trouble in report.all_troubles() {
        let _ = writeln!(text, "wrong: {trouble}");
    }
    text + &sums(report)
}

fn verdict_of(cases: &[&CaseResult], is_complete: bool) -> &'static str {
    match () {
        () if cases.iter().any(|case| case.verdict != Verdict::Passed) => "FAILED",
        () if !is_complete => "INCOMPLETE",
        () => "ok",
    }
}

fn fraction(share: Share) -> String {
    if share.of == 0 { "-".to_owned() } else { format!("{}/{}", share.shown, share.of) }
}

/// The last lines: what was shown in all, and how many cases passed.
fn sums(report: &Report<'_>) -> String {
    let mut text = String::new();
    let (passed, failed) = report.counts();
    if report.extent == Extent::Whole {
        let [calls, errors, clauses] = report.shares(report.table.iter());
        let shown = calls.shown + errors.shown + clauses.shown;
        let percent = shown * 100 / (calls.of + errors.of + clauses.of).max(1);
        let _ = writeln!(
            text,
            "{} calls, {} errors, {} clauses: {percent} %",
            fraction(calls),
            fraction(errors),
            fraction(clauses)
        );
    }
    text + &format!("{passed} cases passed, {failed} failed\n")
}

/// The cases with what each declares to show.
pub fn list(report: &Report<'_>) -> String {
    let line = |case: &CaseResult| {
        let items: Vec<&str> = case.items.iter().map(String::as_str).collect();
        format!("{} {}", case.id, items.join(" ")).trim_end().to_owned() + "\n"
    };
    report.cases.iter().map(line).collect()
}

/// One JSON object. Documented in `docs/conformance.md`.
pub fn json(report: &Report<'_>) -> Value {
    let cases: Vec<Value> = report
        .cases
        .iter()
        .map(|case| {
            let (verdict, detail) = match &case.verdict {
                Verdict::Passed => ("pass", None),
                Verdict::Failed(why) => ("fail", Some(why)),
                Verdict::Unknown => ("none", None),
            };
            json!({"id": case.id, "about": case.about(), "items": case.items, "verdict": verdict, "detail": detail})
        })
        .collect();
    let [calls, errors, clauses] =
        report.shares(report.table.iter()).map(|share| json!({"shown": share.shown, "of": share.of}));
    let (passed, failed) = report.counts();
    json!({
        "conforms": report.conforms(), "whole": report.extent == Extent::Whole,
        "passed": passed, "failed": failed,
        "calls": calls, "errors": errors, "clauses": clauses,
        "missing": report.missing(), "troubles": report.all_troubles(), "cases": cases,
    })
}

/// `JUnit` XML: a test case for each case, and a failed one for each thing that was not shown.
pub fn junit(report: &Report<'_>) -> String {
    let mut cases = String::new();
    let mut failures = 0;
    let mut add = |class: &str, name: &str, failure: Option<&str>| {
        let _ = write!(cases, "    <testcase classname=\"conformance.{}\" name=\"{}\"", escaped(class), escaped(name));
        match failure {
            None => cases.push_str("/>\n"),
            Some(why) => {
                failures += 1;
                let _ = writeln!(cases, "><failure message=\"{}\"/></testcase>", escaped(why));
            }
        }
    };
    for case in &report.cases {
        let name = case.id.split_once('/').map_or(case.id.as_str(), |(_, name)| name);
        match &case.verdict {
            Verdict::Passed => add(case.about(), name, None),
            Verdict::Failed(why) => add(case.about(), name, Some(why)),
            Verdict::Unknown => add(case.about(), name, Some("the suite ended without a word about it")),
        }
    }
    for item in report.missing() {
        add("coverage", &item, Some("no case has shown it"));
    }
    for trouble in report.all_troubles() {
        add("suite", &trouble, Some(&trouble));
    }
    let tests = cases.lines().count();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  \
         <testsuite name=\"conformance\" tests=\"{tests}\" failures=\"{failures}\">\n{cases}  </testsuite>\n</testsuites>\n"
    )
}

/// Text as it may stand in an attribute.
fn escaped(text: &str) -> String {
    let mut result = String::new();
    for c in text.chars() {
        match c {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '"' => result.push_str("&quot;"),
            c if c.is_control() => result.push(' '),
            c => result.push(c),
        }
    }
    result
}
