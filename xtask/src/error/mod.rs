//! How a command ends: the exit codes, and failures with a sentence for the person who typed it.

pub mod codes;

use std::fmt;
use std::process::ExitCode;

/// Exit codes, the same for every command. `--help` lists them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything expected was seen, or every VM ended well.
    Success,
    /// Wrong usage, or a build failed.
    Usage,
    /// The system file has an error.
    SystemFile,
    /// A VM crashed or ended with a code other than 0.
    VmFailed,
    /// The hypervisor panicked, or the machine reset.
    HypervisorPanic,
    /// The time was over.
    TimeOut,
    /// This host lacks something, or the hypervisor refused the machine or the image.
    Unfit,
    /// It ended before everything expected was seen; a test or a check failed.
    Unmet,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Usage => 1,
            Exit::SystemFile => 2,
            Exit::VmFailed => 3,
            Exit::HypervisorPanic => 4,
            Exit::TimeOut => 5,
            Exit::Unfit => 6,
            Exit::Unmet => 7,
        }
    }

    /// A few words for the last line of a run.
    pub fn words(self) -> &'static str {
        match self {
            Exit::Success => "all went well",
            Exit::Usage => "it could not be started",
            Exit::SystemFile => "the system file has an error",
            Exit::VmFailed => "a VM crashed or ended with a code other than 0",
            Exit::HypervisorPanic => "the hypervisor panicked or the machine reset",
            Exit::TimeOut => "the time was over",
            Exit::Unfit => "the machine or the image was refused",
            Exit::Unmet => "it ended before everything expected was seen",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command stopped. The message is complete: it is printed as it stands.
#[derive(Debug)]
pub struct Failure {
    /// What the shell gets.
    pub exit: Exit,
    /// What the person gets.
    pub message: String,
}

impl Failure {
    /// A failure with its message.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Failure {
        Failure { exit, message: message.to_string() }
    }

    /// Wrong usage or a failed build: `error: ...`.
    pub fn usage(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Usage, format_args!("error: {message}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Turns the error into a [`Failure`] whose message begins with `what`.
    fn context(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::usage(format_args!("{what}: {error}")))
    }
}
