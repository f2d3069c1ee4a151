//! Attacks, each with its id from the catalogue. After each one the hypervisor recounts, the pages that it used must
//! be plain memory again, and its verdict is a line.

#[expect(unsafe_code, reason = "executes instructions that trap")]
mod calls;
pub mod death;
mod events;
#[expect(unsafe_code, reason = "executes instructions that trap")]
mod faults;
mod frames;
mod grants;
#[expect(unsafe_code, reason = "executes instructions that trap")]
mod lists;
mod races;
#[expect(unsafe_code, reason = "executes instructions that trap")]
mod registers;
mod tables;

use super::smp;
use super::world::{self, check, say};

/// What an attack comes to: nothing, or what went wrong.
pub type Outcome = Result<(), Wrong>;

/// What went wrong, and two values that show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong(&'static str, i128, i128);

/// A value must be what is wanted.
fn same(what: &'static str, got: impl Into<i128>, wanted: impl Into<i128>) -> Outcome {
    let (got, wanted) = (got.into(), wanted.into());
    if got == wanted { Ok(()) } else { Err(Wrong(what, got, wanted)) }
}

/// A call must be refused.
fn refused(what: &'static str, got: i64) -> Outcome {
    if got < 0 { Ok(()) } else { Err(Wrong(what, got.into(), -1)) }
}

/// An attack and its id.
type Attack = (&'static str, fn() -> Outcome);

/// Runs all whose id begins so.
pub fn run(which: &str) {
    registers::fill();
    check("the second vCPU", smp::start(), [0, 0]);
    let all = tables::ALL
        .iter()
        .chain(races::ALL)
        .chain(calls::ALL)
        .chain(events::ALL)
        .chain(faults::ALL)
        .chain(frames::ALL)
        .chain(lists::ALL)
        .chain(registers::ALL)
        .chain(grants::ALL);
    for (id, attack) in all.filter(|(id, _)| id.starts_with(which)) {
        let kept = world::pages_in_use();
        let outcome = attack();
        world::recount();
        let stuck = i64::try_from(world::give_back(kept)).unwrap_or(i64::MAX);
        match outcome.and_then(|()| same("pages that are stuck", stuck, 0)) {
            Ok(()) => {
                check(id, true, true);
                say(format_args!("attack {id} xen ok"));
            }
            Err(Wrong(what, got, wanted)) => {
                check(id, false, true);
                say(format_args!("attack {id} xen FAIL: {what}: {got:#x}, not {wanted:#x}"));
            }
        }
    }
}
