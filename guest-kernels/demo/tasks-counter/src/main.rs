//! Counts aloud and gives up the CPU after each number.
#![cfg_attr(target_os = "none", no_std, no_main)]

use tasks_user::call::{pid, yield_now};
use tasks_user::println;

tasks_user::program!(count);

fn count() -> u64 {
    for number in 1..=3 {
        println!("counter (process {}): {number}", pid());
        yield_now();
    }
    0
}
