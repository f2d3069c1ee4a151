//! Runs the cases, tells each result in a line, and counts what of the table was shown.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use guest_sdk::protocol::call::CALLS;
use guest_sdk::protocol::conformance::{Item, items, items_of};
use guest_sdk::protocol::version;
use guest_sdk::{SpaceId, event, println};

use crate::case::{About, Case, Fault, Outcome};
use crate::{cases, record};

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish<'a> {
    /// Names the cases and runs none.
    List,
    /// Runs those whose id holds the text.
    Run(&'a str),
}

/// Does what is wished; whether all is well.
pub fn run(wish: Wish<'_>) -> bool {
    let all = cases::all();
    let version::WireVersion { major, minor } = version::CURRENT;
    println!("conform suite {major}.{minor}");
    let filter = match wish {
        Wish::List => "",
        Wish::Run(filter) => filter,
    };
    let wanted: Vec<&Case> = all.iter().filter(|case| case.id().contains(filter)).collect();
    for case in &wanted {
        tell("plan", &case.id(), &case.items().map(|item| item.to_string()).collect::<Vec<_>>());
    }
    if wish == Wish::List {
        println!("conform end");
        return true;
    }
    let mut shown = BTreeSet::new();
    let mut failed = 0_usize;
    for case in &wanted {
        match run_one(case) {
            Ok(()) => {
                let all = items_shown(case);
                tell("pass", &case.id(), &all);
                shown.extend(all);
            }
            Err(Fault(why)) => {
                println!("conform fail {} {}", case.id(), why.replace('\n', " "));
                failed += 1;
            }
        }
    }
    println!("conform cases {} passed, {failed} failed", wanted.len() - failed);
    // Chosen cases cannot show all.
    let missing = if filter.is_empty() { tell_coverage(&shown) } else { 0 };
    failed == 0 && missing == 0
}

/// Items that stand in one line at most, so that none is cut.
const ITEMS_IN_LINE: usize = 4;

/// Tells about a case and items, in as many lines as it takes.
fn tell(word: &str, id: &str, items: &[String]) {
    if items.is_empty() {
        println!("conform {word} {id} -");
    }
    for some in items.chunks(ITEMS_IN_LINE) {
        println!("conform {word} {id} {}", some.join(","));
    }
}

/// Runs a case from a known state, and holds what it declares against what was answered.
fn run_one(case: &Case) -> Outcome {
    if let Some(item) = case.unknown() {
        return Err(Fault(format!("the table has no {item}")));
    }
    record::clear();
    event::mask();
    let outcome = (case.run)();
    event::mask();
    crate::scene::enter(SpaceId::FIRST)?;
    outcome?;
    if let Some((number, rax)) = record::undocumented() {
        return Err(Fault(format!("{} answered {rax:#x}, which it does not document", record::name(number))));
    }
    let name = case.about.name();
    match case.errors.iter().find(|status| !record::was_refused(name, **status)) {
        None => Ok(()),
        Some(status) => Err(Fault(format!("{name} never answered {status}"))),
    }
}

/// What a case that passed has shown: what it declares, and the call if that succeeded.
fn items_shown(case: &Case) -> Vec<String> {
    let name = case.about.name();
    let call = (case.about != About::Table && record::has_succeeded(name)).then_some(Item::Call(name));
    call.into_iter().chain(case.items()).map(|item| item.to_string()).collect()
}

/// Tells how much of the table was shown, and names what was not; how much that is.
fn tell_coverage(shown: &BTreeSet<String>) -> usize {
    let missing: Vec<String> = items(CALLS).map(|item| item.to_string()).filter(|item| !shown.contains(item)).collect();
    for item in &missing {
        println!("conform missing {item}");
    }
    let wanted: usize = CALLS.iter().map(|call| items_of(call).count()).sum();
    println!("conform shown {} of {wanted}", wanted - missing.len());
    missing.len()
}
