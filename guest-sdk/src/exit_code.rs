//! What a kernel's function may return, and the exit codes that the SDK itself uses.

/// All is well.
pub const SUCCESS: u64 = 0;
/// A functional guest's verdict is negative.
pub const FAILURE: u64 = 1;
/// The kernel panicked.
pub const PANIC: u64 = 101;
/// The hypervisor does not serve the version that the kernel was built for.
pub const WRONG_HYPERVISOR: u64 = 103;

/// What a kernel's function returns.
pub trait ExitCode {
    /// The exit code of the VM.
    fn code(self) -> u64;
}

impl ExitCode for u64 {
    fn code(self) -> u64 {
        self
    }
}

impl ExitCode for () {
    fn code(self) -> u64 {
        SUCCESS
    }
}

/// Names the type `!`, which stable Rust cannot, as the result of `fn() -> !`.
pub trait Function {
    /// What it returns.
    type Output;
}

impl<T> Function for fn() -> T {
    type Output = T;
}

impl ExitCode for <fn() -> ! as Function>::Output {
    fn code(self) -> u64 {
        match self {}
    }
}
