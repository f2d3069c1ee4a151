//! What the command line asks for.

mod abi;
mod attacks;
#[expect(unsafe_code, reason = "this kernel has no other means than calls, memory and instructions as they are")]
mod raw;
mod smp;
mod trap;
mod world;

use core::panic::PanicInfo;

use protocol::xen::{call, sched, vcpu};

use world::{say, shut_down};

/// The first vCPU starts with this start info and stack, and segments of code and stack.
pub fn main(info: u64, stack: u64, segments: [u64; 2]) -> ! {
    trap::install(0);
    world::begin(info);
    world::hypercall(call::VCPU_OP, [vcpu::STOP_PERIODIC_TIMER, 0, 0]);
    world::with_command(|line| match line.split_once(' ') {
        Some(("die", how)) => attacks::death::run(how),
        Some(("attacks", which)) => attacks::run(which),
        _ if line == "attacks" => attacks::run(""),
        _ => abi::run(stack, segments),
    });
    let [passed, failed] = world::tally();
    say(format_args!("{}: {passed} held, {failed} did not", if failed == 0 { "PASS" } else { "FAIL" }));
    shut_down(sched::POWEROFF);
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    say(format_args!("FAIL {info}"));
    shut_down(sched::CRASH);
}
