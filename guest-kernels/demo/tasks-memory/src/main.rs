//! Uses more heap and stack than it got at its start: every page comes when it is touched.
#![cfg_attr(target_os = "none", no_std, no_main)]

use tasks_user::call::{grow, pid};
use tasks_user::println;

tasks_user::program!(use_memory);

const WORDS: usize = 32 * 512;
const DEPTH: u64 = 100;

fn use_memory() -> u64 {
    let Some(words) = grow(WORDS) else { return 1 };
    let own = pid() << 32;
    if words.iter().any(|word| *word != 0) {
        println!("memory: fresh pages are not zero");
        return 2;
    }
    for (word, value) in words.iter_mut().zip(own..) {
        *word = value;
    }
    let wrong = words.iter().zip(own..).filter(|(word, value)| **word != *value).count();
    let sum = use_stack(DEPTH);
    println!("memory (process {}): {} KiB of heap, {wrong} words wrong", pid(), WORDS / 128);
    u64::from(wrong != 0 || sum != DEPTH * (DEPTH + 1) / 2)
}

/// Adds 1 to `depth`, on half a KiB of stack each.
fn use_stack(depth: u64) -> u64 {
    let block = core::hint::black_box([depth; 64]);
    if depth == 0 {
        return 0;
    }
    block[63] + use_stack(depth - 1)
}
