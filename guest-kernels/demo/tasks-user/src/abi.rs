//! The system calls of the demo's kernel. The number goes in rax, arguments in rdi and rsi, and the
//! result comes back in rax.

/// What a program can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Ends the process; rdi is its exit code.
    Exit,
    /// Prints rsi bytes from address rdi.
    Print,
    /// Gives up the CPU.
    Yield,
    /// Sleeps for rdi nanoseconds.
    Sleep,
    /// Returns the process's number.
    Pid,
    /// Makes the heap rdi bytes larger; returns where the new part starts. Pages come when touched.
    Grow,
}

impl Call {
    /// Every call, at the index of its number.
    pub const ALL: [Call; 6] = [Call::Exit, Call::Print, Call::Yield, Call::Sleep, Call::Pid, Call::Grow];

    /// The call of a number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Call> {
        Call::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// What rax holds when a call failed.
pub const FAILED: u64 = u64::MAX;
/// The longest text of one `Print`.
pub const PRINT_BYTES: u64 = 256;

#[cfg(test)]
mod tests {
    use super::Call;

    #[test]
    fn every_call_has_the_number_of_its_place() {
        for (number, call) in (0..).zip(Call::ALL) {
            assert_eq!(call as u64, number);
            assert_eq!(Call::from_number(number), Some(call));
        }
        assert_eq!(Call::from_number(6), None);
        assert_eq!(Call::from_number(u64::MAX), None);
    }
}
