//! What a conformance suite has to show, taken from the table of calls: every call, every error that
//! it documents, every clause.

use core::fmt;

use crate::call::CallInfo;
use crate::status::Status;

/// One thing of the table that a case of a suite can show. No two have the same text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// The call succeeds: `map`.
    Call(&'a str),
    /// The call is refused with a status: `map/Misaligned`.
    Error(&'a str, Status),
    /// What the clause says holds: `MAP-1`.
    Clause(&'a str),
}

impl fmt::Display for Item<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Call(name) => f.write_str(name),
            Item::Error(call, status) => write!(f, "{call}/{status}"),
            Item::Clause(id) => f.write_str(id),
        }
    }
}

/// Everything that one call wants shown.
pub fn items_of(call: &CallInfo) -> impl Iterator<Item = Item<'_>> {
    let errors = call.errors.iter().map(|status| Item::Error(call.name, *status));
    let clauses = call.clauses.iter().map(|(id, _)| Item::Clause(id));
    core::iter::once(Item::Call(call.name)).chain(errors).chain(clauses)
}

/// Everything that a table wants shown.
pub fn items(table: &[CallInfo]) -> impl Iterator<Item = Item<'_>> {
    table.iter().flat_map(items_of)
}

#[cfg(test)]
mod tests {
    use super::{Item, items, items_of};
    use crate::call::CALLS;
    use crate::status::Status;

    #[test]
    fn a_call_wants_itself_its_errors_and_its_clauses_shown() {
        let map = CALLS.iter().find(|call| call.name == "map").unwrap();
        let all: Vec<Item<'_>> = items_of(map).collect();
        assert_eq!(all.len(), 1 + map.errors.len() + map.clauses.len());
        for item in [Item::Call("map"), Item::Error("map", Status::Misaligned), Item::Clause("MAP-1")] {
            assert!(all.contains(&item), "{item}");
        }
    }

    #[test]
    fn no_two_items_have_the_same_text() {
        let mut texts: Vec<String> = items(CALLS).map(|item| item.to_string()).collect();
        let count = texts.len();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), count);
    }
}
