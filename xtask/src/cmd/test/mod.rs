//! `test`: the tests on the host, in guests, or all, each with a line of its own.

mod beside;
mod damage;
mod guest;
mod host;
mod hostile;
mod outside;

use std::time::Instant;

use clap::{Args, ValueEnum};

use crate::error::{Exit, Failure};

pub use guest::explain;
pub use hostile::wrong_attacks;

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct Options {
    /// Which tests.
    #[arg(value_enum, default_value_t = Suite::All)]
    suite: Suite,
    /// Prints their names and runs none.
    #[arg(long)]
    list: bool,
    /// Runs only those whose name holds this text.
    #[arg(long)]
    filter: Option<String>,
}

/// Which tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Those that need no emulator.
    Unit,
    /// Those that boot.
    Guest,
    /// Guests that attack the hypervisor and each other.
    Hostile,
    /// All of these.
    All,
}

/// One test: its name and what to do.
struct Case {
    name: String,
    run: Box<dyn FnOnce(&mut Bench) -> Verdict>,
}

impl Case {
    /// A test with its name.
    fn new(name: impl Into<String>, run: impl FnOnce(&mut Bench) -> Verdict + 'static) -> Case {
        Case { name: name.into(), run: Box::new(run) }
    }
}

/// What a test came to.
enum Verdict {
    /// So many checks passed.
    Passed(usize),
    /// It cannot be run here, for this reason.
    Skipped(String),
    /// So many passed, so many failed, and this tells why.
    Failed(usize, usize, String),
}

impl From<Result<(), Failure>> for Verdict {
    fn from(result: Result<(), Failure>) -> Verdict {
        match result {
            Ok(()) => Verdict::Passed(1),
            Err(failure) => Verdict::Failed(0, 1, failure.message),
        }
    }
}

/// What the tests share.
struct Bench {
    builder: crate::build::Builder,
    emulator: Option<crate::qemu::Program>,
    /// Attacks that were withstood, and how often.
    attacks: std::collections::BTreeMap<String, usize>,
}

impl Bench {
    /// The emulator; fetched when it is needed for the first time.
    fn emulator(&mut self) -> Result<crate::qemu::Program, Failure> {
        if let Some(program) = &self.emulator {
            return Ok(program.clone());
        }
        let program = crate::host::fetch::ready()?;
        self.emulator = Some(program.clone());
        Ok(program)
    }
}

/// Runs the command.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let mut cases = Vec::new();
    let asked = |suite| options.suite == suite || options.suite == Suite::All;
    if asked(Suite::Unit) {
        cases.extend(host::cases());
    }
    if asked(Suite::Guest) {
        cases.extend(guest::cases()?);
        cases.extend(damage::cases());
        cases.extend(outside::cases());
        cases.extend(beside::cases());
    }
    if asked(Suite::Hostile) {
        cases.extend(hostile::cases()?);
    }
    let wanted = |case: &Case| {
        let filter = options.filter.as_deref();
        filter.is_none_or(|filter| case.name.contains(filter))
    };
    let cases: Vec<Case> = cases.into_iter().filter(wanted).collect();
    if options.list {
        for case in &cases {
            println!("{}", case.name);
        }
        return Ok(Exit::Success);
    }
    if cases.is_empty() {
        return Err(Failure::usage("no test has such a name; --list shows them"));
    }
    crate::host::fetch::ensure_target()?;
    Ok(run_all(cases))
}

/// Runs tests one after the other and counts.
fn run_all(cases: Vec<Case>) -> Exit {
    let mut bench = Bench {
        builder: crate::build::Builder::new(crate::build::Profile::Release),
        emulator: None,
        attacks: std::collections::BTreeMap::new(),
    };
    let (mut passed, mut failed) = (0, 0);
    let mut failures = Vec::new();
    for case in cases {
        let start = Instant::now();
        println!("test    {}", case.name);
        let verdict = (case.run)(&mut bench);
        let seconds = start.elapsed().as_secs_f32();
        match verdict {
            Verdict::Passed(count) => {
                passed += count;
                println!("ok      {} ({count} passed, {seconds:.1} s)", case.name);
            }
            Verdict::Skipped(why) => println!("skipped {}: {why}", case.name),
            Verdict::Failed(good, bad, why) => {
                passed += good;
                failed += bad;
                println!("FAILED  {} ({seconds:.1} s)\n{}", case.name, indented(&why));
                failures.push(case.name);
            }
        }
    }
    for name in &failures {
        println!("failed: {name}");
    }
    println!("{passed} passed, {failed} failed");
    if failures.is_empty() { Exit::Success } else { Exit::Unmet }
}

/// A text moved to the right, so that the next test's line stands out.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    | {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use crate::tree;

    /// Names of tests and rows in a text, between backticks or not.
    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && !"-/_:".contains(c))
    }

    #[test]
    fn the_threat_model_names_tests_and_attacks_that_exist() {
        let page = std::fs::read_to_string(tree::root().join("docs/security/threat-model.md")).unwrap_or_default();
        let (Ok(guest), Ok(hostile)) = (super::guest::cases(), super::hostile::cases()) else {
            panic!("the systems cannot be read");
        };
        let cases = [
            super::host::cases(),
            guest,
            super::damage::cases(),
            super::outside::cases(),
            super::beside::cases(),
            hostile,
        ]
        .into_iter()
        .flatten()
        .map(|case| case.name)
        .collect::<Vec<_>>();
        let mut claims = 0;
        for word in words(&page) {
            let is_test = ["guest/", "hostile/", "unit/"].iter().any(|suite| word.starts_with(suite));
            if is_test {
                claims += 1;
                assert!(cases.iter().any(|case| case.starts_with(word)), "no test {word}");
            }
            let is_row = matches!(word.as_bytes(), [b'A'..=b'Z', b'A'..=b'Z', b'-', b'0'..=b'9', b'0'..=b'9']);
            let is_known = hostile_catalogue::ROWS.iter().any(|row| row.id == word);
            assert!(!is_row || is_known, "no attack {word}");
        }
        assert!(claims > 10, "{claims} tests named");
    }
}
