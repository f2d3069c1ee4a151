//! From the command line to the death.

use guest_sdk::{StartInfo, println};

use crate::deaths;

/// Every way to die: its name on the command line, and the function that does it.
const DEATHS: [(&str, fn()); 20] = [
    ("null-read", deaths::null_read),
    ("null-call", deaths::null_call),
    ("wild-jump", deaths::wild_jump),
    ("write-code", deaths::write_code),
    ("execute-data", deaths::execute_data),
    ("stack-overflow", deaths::stack_overflow),
    ("divide", deaths::divide),
    ("undefined", deaths::undefined),
    ("privileged", deaths::privileged),
    ("non-canonical", deaths::non_canonical),
    ("hypervisor-read", deaths::hypervisor_read),
    ("breakpoint", deaths::breakpoint),
    ("fault-in-handler", deaths::fault_in_handler),
    ("stack-lost", deaths::stack_lost),
    ("bad-resume", deaths::bad_resume),
    ("system-call", deaths::system_call),
    ("user-kernel-stack", deaths::user_kernel_stack),
    ("other-vcpu", deaths::other_vcpu),
    ("panic", deaths::panic),
    ("exit-code", deaths::exit_code),
];

pub fn main(start: &'static StartInfo) -> u64 {
    let wanted = start.command_line();
    if let Some((name, death)) = DEATHS.iter().find(|(name, _)| *name == wanted) {
        println!("about to die by {name}");
        death();
        println!("FAIL {}: survived {name}", start.name());
        return 1;
    }
    println!("FAIL {}: no death is called {wanted}", start.name());
    for (name, _) in DEATHS {
        println!("  {name}");
    }
    1
}
