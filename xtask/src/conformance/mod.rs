//! What a conformance suite said on its console, held against the table of calls. The lines are
//! described in `docs/conformance.md`.

mod outside;
mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use protocol::call::CallInfo;
use protocol::conformance::{Item, items_of};

pub use outside::outside_cases;
pub use show::{json, junit, list, text};

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It failed, for this reason.
    Failed(String),
    /// The suite ended before it said so.
    Unknown,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// Its name: the call, or `table`, and what is tried.
    pub id: String,
    /// What it says that it shows, or when it passed what it has shown.
    pub items: BTreeSet<String>,
    /// What came of it.
    pub verdict: Verdict,
}

impl CaseResult {
    /// The call that it is about, or `table`.
    pub fn about(&self) -> &str {
        self.id.split_once('/').map_or(self.id.as_str(), |(about, _)| about)
    }
}

/// Whether all of the table must be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All cases run.
    Whole,
    /// Some were chosen.
    Chosen,
}

/// How much of a kind of thing was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// So many.
    pub shown: usize,
    /// Of so many.
    pub of: usize,
}

impl Share {
    fn count(&mut self, shown: bool) {
        self.of += 1;
        self.shown += usize::from(shown);
    }
}

/// A run of a suite.
#[derive(Debug)]
pub struct Report<'t> {
    table: &'t [CallInfo],
    extent: Extent,
    /// Every case that was planned, in order.
    pub cases: Vec<CaseResult>,
    /// What was shown that the table does not have, and what does not fit otherwise.
    pub troubles: Vec<String>,
    shown: BTreeSet<String>,
}

impl<'t> Report<'t> {
    /// Reads the console lines of a suite.
    pub fn read<'l>(table: &'t [CallInfo], extent: Extent, lines: impl Iterator<Item = &'l str>) -> Report<'t> {
        let mut report = Report { table, extent, cases: Vec::new(), troubles: Vec::new(), shown: BTreeSet::new() };
        for line in lines {
            let Some((word, rest)) = line.strip_prefix("conform ").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            let (id, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            match word {
                "plan" => report.plan(id, rest),
                "pass" => report.pass(id, rest),
                "fail" => report.set(id, Verdict::Failed(rest.to_owned())),
                "trouble:" => report.troubles.push(line.to_owned()),
                _ => {}
            }
        }
        report
    }

    fn position(&self, id: &str) -> Option<usize> {
        self.cases.iter().position(|case| case.id == id)
    }

    fn plan(&mut self, id: &str, items: &str) {
        let items = items_in(items);
        match self.position(id).and_then(|place| self.cases.get_mut(place)) {
            Some(case) => case.items.extend(items),
            None => {
                self.cases.push(CaseResult { id: id.to_owned(), items: items.collect(), verdict: Verdict::Unknown })
            }
        }
    }

    fn pass(&mut self, id: &str, items: &str) {
        let is_failed = |case: &CaseResult| matches!(case.verdict, Verdict::Failed(_));
        if self.cases.iter().any(|case| case.id == id && is_failed(case)) {
            self.troubles.push(format!("{id} both failed and passed"));
            return;
        }
        self.shown.extend(items_in(items));
        if let Some(case) = self.position(id).and_then(|place| self.cases.get_mut(place)) {
            case.items.extend(items_in(items));
        }
        self.set(id, Verdict::Passed);
    }

    fn set(&mut self, id: &str, verdict: Verdict) {
        match self.position(id).and_then(|place| self.cases.get_mut(place)) {
            Some(case) => case.verdict = verdict,
            None => self.troubles.push(format!("{id} was never planned")),
        }
    }

    /// Adds a case that was tried from outside the suite.
    pub fn add(&mut self, case: CaseResult) {
        if case.verdict == Verdict::Passed {
            self.shown.extend(case.items.iter().cloned());
        }
        self.cases.push(case);
    }

    /// Everything that the table wants shown and no case has.
    pub fn missing(&self) -> Vec<String> {
        if self.extent == Extent::Chosen {
            return Vec::new();
        }
        let all = self.table.iter().flat_map(items_of).map(|item| item.to_string());
        all.filter(|item| !self.shown.contains(item)).collect()
    }

    /// What speaks against the run, beside failed cases and what is missing.
    pub fn all_troubles(&self) -> Vec<String> {
        let known: BTreeSet<String> = self.table.iter().flat_map(items_of).map(|item| item.to_string()).collect();
        let unknown = self.shown.difference(&known).map(|item| format!("the table has no {item}"));
        let none = self.cases.is_empty().then(|| "no case was planned".to_owned());
        self.troubles.iter().cloned().chain(unknown).chain(none).collect()
    }

    /// How many cases passed, and how many did not.
    pub fn counts(&self) -> (usize, usize) {
        let passed = self.cases.iter().filter(|case| case.verdict == Verdict::Passed).count();
        (passed, self.cases.len() - passed)
    }

    /// Whether every case passed and, for a whole run, everything was shown.
    pub fn conforms(&self) -> bool {
        self.counts().1 == 0 && self.missing().is_empty() && self.all_troubles().is_empty()
    }

    /// How many of some calls, of their errors and of their clauses were shown.
    fn shares<'c>(&self, calls: impl Iterator<Item = &'c CallInfo>) -> [Share; 3] {
        let mut shares = [Share::default(); 3];
        for item in calls.flat_map(items_of) {
            let text = item.to_string();
            let kind = match item {
                Item::Call(_) => 0,
                Item::Error(..) => 1,
                Item::Clause(_) => 2,
            };
            if let Some(share) = shares.get_mut(kind) {
                share.count(self.shown.contains(&text));
            }
        }
        shares
    }
}

/// The items of a list; `-` stands for none.
fn items_in(list: &str) -> impl Iterator<Item = String> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty() && *item != "-").map(str::to_owned)
}
