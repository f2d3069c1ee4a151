//! Computes without ever giving up the CPU: only preemption lets others run.
#![cfg_attr(target_os = "none", no_std, no_main)]

use tasks_user::call::pid;
use tasks_user::println;

tasks_user::program!(spin);

fn spin() -> u64 {
    let mut value: u64 = 1;
    for step in 0..30_000_000_u64 {
        value = core::hint::black_box(value.rotate_left(1) ^ step);
    }
    println!("spinner (process {}): {value:#x}", pid());
    0
}
