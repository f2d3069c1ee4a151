//! Measuring.

use guest_sdk::println;
use guest_sdk::raw::cpu::rdtsc;

const WARM_UP: usize = 20;
const RUNS: usize = 101;

/// The median ticks of `operation`, which does its thing once, less an empty one's.
pub fn measure(mut operation: impl FnMut()) -> u64 {
    median(&mut operation).saturating_sub(median(&mut || ()))
}

fn median(operation: &mut impl FnMut()) -> u64 {
    let mut ticks = [0; RUNS];
    for _ in 0..WARM_UP {
        operation();
    }
    for slot in &mut ticks {
        let begin = rdtsc();
        operation();
        *slot = rdtsc().wrapping_sub(begin);
    }
    middle(&mut ticks)
}

/// As [`measure`] where something must be set up before each run and cleared away after it.
pub fn measure_between<T>(
    mut before: impl FnMut() -> T,
    mut operation: impl FnMut(&mut T),
    mut after: impl FnMut(T),
) -> u64 {
    let mut ticks = [0; RUNS];
    for run in 0..WARM_UP + RUNS {
        let mut thing = before();
        let begin = rdtsc();
        operation(&mut thing);
        let taken = rdtsc().wrapping_sub(begin);
        after(thing);
        if let Some(slot) = run.checked_sub(WARM_UP).and_then(|run| ticks.get_mut(run)) {
            *slot = taken;
        }
    }
    middle(&mut ticks).saturating_sub(median(&mut || ()))
}

/// The middle one of a number of ticks.
pub fn middle(ticks: &mut [u64]) -> u64 {
    ticks.sort_unstable();
    ticks.get(ticks.len() / 2).copied().unwrap_or(0)
}

/// Prints a result.
pub fn report(name: &str, ticks: u64) {
    println!("bench {name} {ticks}");
}
