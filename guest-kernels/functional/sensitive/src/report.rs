//! The table's lines.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use guest_sdk::Status;

use crate::bare::{Outcome, Runner, Values};
use crate::code;
use crate::item::{ITEMS, Item, Probe, Verdict, number};

/// Names of the exceptions.
const EXCEPTIONS: [(u8, &str); 6] = [(1, "#DB"), (3, "#BP"), (6, "#UD"), (13, "#GP"), (14, "#PF"), (17, "#AC")];

/// One line, and whether it is what is known of the item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What is printed.
    pub text: String,
    /// Whether nothing was unexpected.
    pub right: bool,
}

/// How many items both lists have.
#[must_use]
pub fn count() -> usize {
    ITEMS.iter().map(|items| items.len()).sum()
}

/// The line of an item, counted over both lists.
///
/// # Errors
/// None in practice.
pub fn line(runner: &mut Runner, at: usize) -> Result<Line, Status> {
    let [robin, modern] = ITEMS;
    let (list, at) = if at < robin.len() { (0, at) } else { (1, at - robin.len()) };
    let item = if list == 0 { robin.get(at) } else { modern.get(at) };
    let (Some(item), Some(number)) = (item, number(list, at)) else { return Err(Status::NotFound) };
    let (shown, verdicts) = match item.probe {
        Probe::Bare(code) => {
            let (kernel, user) = runner.both(code())?;
            let [in_kernel, in_user] = [kernel, user].map(|each| outcome(item, &each));
            let shown = match in_kernel == in_user {
                true => format!("both: {in_kernel}"),
                false => format!("kernel: {in_kernel} | user: {in_user}"),
            };
            (shown, [item.judge(&kernel), item.judge(&user)])
        }
        Probe::Shown(how) => match how() {
            Ok(words) => (format!("shown: {words}"), [item.runs; 2]),
            Err(words) => (format!("shown: {words}"), [Verdict::Unexpected; 2]),
        },
    };
    let Item { instruction, breaks, instead, by_abi, .. } = item;
    let text = format!(
        "{number} {instruction} | {shown} | breaks {breaks} | instead: {instead} | by ABI: {} | {}",
        by_abi(),
        both_words(verdicts)
    );
    Ok(Line { text, right: !verdicts.contains(&Verdict::Unexpected) })
}

/// Every line.
///
/// # Errors
/// None in practice.
pub fn all(runner: &mut Runner) -> Result<Vec<Line>, Status> {
    (0..count()).map(|at| line(runner, at)).collect()
}

/// Whether an item can be executed again, on any vCPU.
#[must_use]
pub fn is_bare(at: usize) -> bool {
    ITEMS.into_iter().flatten().nth(at).is_some_and(|item| matches!(item.probe, Probe::Bare(_)))
}

/// The CPU that this runs on and how many there are, as bare CPUID tells; nothing where it faults.
pub fn cpu(runner: &mut Runner) -> Option<(u64, u64)> {
    match runner.both(code::cpu()).ok()?.0 {
        Outcome::Ran(Values { rax, rdx, .. }) => Some((rax, rdx.max(1))),
        _ => None,
    }
}

/// Leaves what can be left in the registers.
pub fn disturb(runner: &mut Runner) {
    let _ = runner.both(code::disturb());
}

/// What happened, in words.
fn outcome(item: &Item, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ran(values) => (item.show)(values),
        Outcome::Call => "its kernel is called".into(),
        Outcome::Fault { vector, error } => {
            let name = EXCEPTIONS.iter().find(|(number, _)| number == vector);
            let name = name.map_or_else(|| format!("exception {vector}"), |(_, name)| String::from(*name));
            if *error == 0 { name } else { format!("{name}({error:#x})") }
        }
    }
}

/// The verdicts of both modes, as one when they agree.
fn both_words([kernel, user]: [Verdict; 2]) -> String {
    if kernel == user { words(kernel) } else { format!("kernel {}, user {}", words(kernel), words(user)) }
}

fn words(verdict: Verdict) -> String {
    match verdict {
        Verdict::Traps => "traps".into(),
        Verdict::Absent => "absent".into(),
        Verdict::Constant => "constant".into(),
        Verdict::Own => "its own".into(),
        Verdict::NoEffect => "no effect".into(),
        Verdict::Leaks(how) => format!("leaks: {how}"),
        Verdict::Unexpected => "UNEXPECTED".into(),
    }
}
