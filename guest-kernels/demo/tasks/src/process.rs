//! A process: a space, a context, and how far it is.

use core::fmt;

use guest_sdk::Nanos;
use guest_sdk::space::Space;
use guest_sdk::user::{Fault, UserContext};

use crate::memory::Areas;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By its own call.
    Exited(u64),
    /// By a fault.
    Killed(Fault),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exited(code) => write!(f, "exited with {code}"),
            End::Killed(fault) => {
                write!(f, "was killed: exception {} at address {:#x}", fault.vector, fault.address)
            }
        }
    }
}

/// What a process can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Run.
    Ready,
    /// Wait for a time.
    Sleeping(Nanos),
    /// Nothing any more.
    Ended(End),
}

/// One process.
pub struct Process {
    number: u64,
    name: &'static str,
    /// Its registers.
    pub context: UserContext,
    /// Its pages.
    pub space: Space,
    /// Where pages may come to be.
    pub areas: Areas,
    /// What it can do next.
    pub state: State,
}

impl Process {
    /// A process that is about to execute its first instruction.
    pub fn new(number: u64, name: &'static str, context: UserContext, space: Space, areas: Areas) -> Process {
        Process { number, name, context, space, areas, state: State::Ready }
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its program's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How it ended, if it did.
    pub fn end(&self) -> Option<End> {
        match self.state {
            State::Ended(end) => Some(end),
            State::Ready | State::Sleeping(_) => None,
        }
    }
}
