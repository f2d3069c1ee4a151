//! Cases that only somebody outside the VMs can judge: what went out, and what is refused before
//! anything boots.

use protocol::version::{CURRENT, WireVersion};

use super::{CaseResult, Verdict};
use crate::session::Outcome;

/// One text on the machine's line, and what it shows.
struct Seen {
    id: &'static str,
    items: &'static [&'static str],
    text: &'static str,
}

const SEEN: [Seen; 4] = [
    Seen { id: "exit/last-words-go-out", items: &["SCH-4"], text: "[leaver] conform last words" },
    Seen {
        id: "trap_table_set/report-of-an-exception",
        items: &["TRP-3"],
        text: "[phoenix] died: HV-VM-001: invalid opcode",
    },
    Seen { id: "entry_points_set/report-of-a-system-call", items: &["TRP-5"], text: "[phoenix] died: HV-VM-004" },
    Seen {
        id: "console_write/lines-come-out-whole",
        items: &["CON-1"],
        text: "[suite] conform note: this line was written in pieces",
    },
];

/// The cases, judged by what a whole run of the suite left on the line.
pub fn outside_cases(outcome: &Outcome) -> Vec<CaseResult> {
    let seen = SEEN.iter().map(|seen| {
        let is_there = outcome.transcript.iter().any(|line| line.starts_with(seen.text));
        let why = || format!("no line begins with `{}`", seen.text);
        case(seen.id, seen.items, is_there, why)
    });
    seen.chain([newer_versions()]).collect()
}

fn case(id: &str, items: &[&str], is_so: bool, why: impl Fn() -> String) -> CaseResult {
    let verdict = if is_so { Verdict::Passed } else { Verdict::Failed(why()) };
    CaseResult { id: id.to_owned(), items: items.iter().map(|item| (*item).to_owned()).collect(), verdict }
}

/// A kernel that was built for a newer ABI than this is refused, and one for an older minor is not.
/// That the builder asks exactly this of a kernel's note is a test of `elf`.
fn newer_versions() -> CaseResult {
    let WireVersion { major, minor } = CURRENT;
    let newer = [WireVersion { major, minor: minor + 1 }, WireVersion { major: major + 1, minor: 0 }];
    let is_so = CURRENT.serves(CURRENT) && newer.into_iter().all(|version| !CURRENT.serves(version));
    case("table/newer-versions-are-refused", &[], is_so, || "a newer version is served".to_owned())
}
