//! What a case is, and how it says that something is not so.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use guest_sdk::Status;
use guest_sdk::protocol::call::CALLS;
use guest_sdk::protocol::conformance::Item;

/// Why a case failed.
#[derive(Debug)]
pub struct Fault(pub String);

impl From<Status> for Fault {
    fn from(status: Status) -> Fault {
        Fault(format!("a call answered {status}, which this case does not expect"))
    }
}

/// What a case came to.
pub type Outcome = Result<(), Fault>;

/// Which call of the table a case is about, by its number; or the table as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The call of this number.
    Call(u64),
    /// All of it.
    Table,
}

impl About {
    /// The name that the case's id begins with.
    pub fn name(self) -> &'static str {
        match self {
            About::Call(number) => crate::record::name(number),
            About::Table => "table",
        }
    }
}

/// One case.
pub struct Case {
    /// What it is about.
    pub about: About,
    /// What is tried, in words.
    pub what: Cow<'static, str>,
    /// Clauses that it shows.
    pub clauses: &'static [&'static str],
    /// Refusals of the call that it shows.
    pub errors: Vec<Status>,
    /// Tries it.
    pub run: Box<dyn Fn() -> Outcome>,
}

impl Case {
    /// A case of plain functions.
    pub fn new(
        number: u64,
        what: &'static str,
        clauses: &'static [&'static str],
        errors: &[Status],
        run: fn() -> Outcome,
    ) -> Case {
        Case { about: About::Call(number), what: what.into(), clauses, errors: errors.to_vec(), run: Box::new(run) }
    }

    /// The name on the console: no spaces.
    pub fn id(&self) -> String {
        format!("{}/{}", self.about.name(), self.what.replace(' ', "-"))
    }

    /// What it declares to show.
    pub fn items(&self) -> impl Iterator<Item = Item<'static>> {
        let call = self.about.name();
        let clauses = self.clauses.iter().map(|id| Item::Clause(id));
        let errors: Vec<Item<'static>> = self.errors.iter().map(|status| Item::Error(call, *status)).collect();
        clauses.chain(errors)
    }

    /// Something that it declares and the table does not have.
    pub fn unknown(&self) -> Option<Item<'static>> {
        let known = |item: &Item<'_>| guest_sdk::protocol::conformance::items(CALLS).any(|other| other == *item);
        self.items().find(|item| !known(item))
    }
}

/// Fails the case unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition { return Err($crate::case::Fault(alloc::format!($($why)+))); }
    };
}

/// Fails the case unless both values are equal.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($what:tt)+) => {
        match (&$left, &$right) {
            (left, right) => $crate::ensure!(
                *left == *right, "{}: {left:?} instead of {right:?}", format_args!($($what)+)
            ),
        }
    };
}

/// Lists cases: call, words, clauses, errors, function.
#[macro_export]
macro_rules! cases {
    ($($Call:ident $what:literal [$($clause:literal)*] [$($error:ident)*] $run:path;)*) => {
        /// The cases of this module.
        pub fn cases() -> alloc::vec::Vec<$crate::case::Case> {
            alloc::vec![$($crate::case::Case::new(
                <guest_sdk::protocol::call::$Call as guest_sdk::protocol::Call>::NUMBER,
                $what, &[$($clause),*], &[$(guest_sdk::Status::$error),*], $run,
            ),)*]
        }
    };
}
