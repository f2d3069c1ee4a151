//! Sleeps while the others work.
#![cfg_attr(target_os = "none", no_std, no_main)]

use tasks_user::call::{pid, sleep};
use tasks_user::println;

tasks_user::program!(doze);

fn doze() -> u64 {
    for night in 1..=3 {
        sleep(10_000_000);
        println!("sleeper (process {}): woke {night}", pid());
    }
    0
}
