//! How a functional guest tells its result: one line and an exit code.

use core::fmt;

use crate::exit_code;
use crate::raw::call;
use crate::start::StartInfo;

/// Ends the VM: the claim holds.
pub fn pass() -> ! {
    crate::println!("PASS {}", StartInfo::of_this_vm().name());
    call::exit(exit_code::SUCCESS)
}

/// Ends the VM: the claim does not hold.
pub fn fail(why: fmt::Arguments<'_>) -> ! {
    crate::println!("FAIL {}: {why}", StartInfo::of_this_vm().name());
    call::exit(exit_code::FAILURE)
}

/// Ends the VM: what the claim is about is not on this machine.
pub fn skip(why: fmt::Arguments<'_>) -> ! {
    crate::println!("SKIP {}: {why}", StartInfo::of_this_vm().name());
    call::exit(exit_code::SUCCESS)
}
