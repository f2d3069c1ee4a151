//! Runs a target on inputs that are made from its first ones and from nothing: `run TARGET EXECUTIONS
//! SEED`. Says how many and how fast; a failure prints the input in hexadecimal.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// The longest input.
const BYTES: usize = 32 * 1024;
/// Inputs that are kept to make others from.
const KEPT: usize = 64;

/// xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 32).unwrap_or(0) % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
            _ => (self.next() >> 56) as u8,
        }
    }

    /// One small change.
    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len());
        match self.below(6) {
            0 | 1 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            2 if !input.is_empty() => input[at] = self.byte(),
            3 if !input.is_empty() => drop(input.drain(at..(at + 1 + self.below(4)).min(input.len()))),
            4 => {
                let (at, byte) = (at.min(input.len()), self.byte());
                input.insert(at, byte);
            }
            5 if !input.is_empty() => {
                let end = (at + 1 + self.below(16)).min(input.len());
                let part = input[at..end].to_vec();
                let to = self.below(input.len());
                input.splice(to..to, part);
            }
            _ => input.push(self.byte()),
        }
    }

    /// The next input.
    fn input(&mut self, seeds: &[Vec<u8>], kept: &[Vec<u8>]) -> Vec<u8> {
        let from = if !kept.is_empty() && self.below(3) == 0 { kept } else { seeds };
        if from.is_empty() || self.below(8) == 0 {
            let length = 1 + self.below(256);
            return (0..length).map(|_| self.byte()).collect();
        }
        let mut input = from[self.below(from.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(BYTES);
        input
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    let (Some(name), Some(executions), Some(seed)) = (words.first(), number(1), number(2)) else {
        eprintln!("run TARGET EXECUTIONS SEED; targets: {:?}", fuzz::TARGETS.iter().map(|target| target.0));
        return ExitCode::from(2);
    };
    let Some((name, target, seeds)) = fuzz::TARGETS.iter().find(|target| target.0 == name) else {
        eprintln!("there is no target {name}");
        return ExitCode::from(2);
    };
    let seeds = seeds();
    for seed in &seeds {
        target(seed);
    }
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let start = Instant::now();
    for execution in 0..executions {
        let input = random.input(&seeds, &kept);
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("{name}: execution {execution} of seed {seed} fails on {hex}");
            return ExitCode::FAILURE;
        }
        // Some are changed on, so that inputs get far from the first ones.
        if execution % 64 == 0 {
            let place = random.below(KEPT);
            if kept.len() < KEPT { kept.push(input) } else { kept[place] = input }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: {executions} executions in {seconds:.1} s, seed {seed}");
    ExitCode::SUCCESS
}
