//! The record: a digest of every observation, and the observations themselves as long as there is room.

use alloc::vec::Vec;

use guest_sdk::{Nanos, println, time};

/// Observations that are kept.
const KEPT: usize = 2048;
/// Observations between two digests that are kept.
const STEP: u64 = 1 << 16;

/// What was observed so far. One vCPU observes.
pub struct Record {
    digest: u64,
    count: u64,
    kept: Vec<(u8, u64)>,
}

impl Record {
    /// Nothing yet.
    pub fn new() -> Record {
        Record { digest: 0xcbf2_9ce4_8422_2325, count: 0, kept: Vec::with_capacity(KEPT) }
    }

    /// Adds an observation to the digest (FNV-1a), and keeps it.
    pub fn add(&mut self, kind: u8, value: u64) {
        self.mix(value ^ u64::from(kind) << 56);
        self.keep(kind, value);
    }

    /// Adds an observation of which there are too many to keep: to the digest only.
    pub fn mix(&mut self, value: u64) {
        self.digest = (self.digest ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        self.count += 1;
        if self.count.is_multiple_of(STEP) {
            self.keep(b'm', self.digest);
        }
    }

    fn keep(&mut self, kind: u8, value: u64) {
        if self.kept.len() < KEPT {
            self.kept.push((kind, value));
        }
    }

    /// Writes the digest, and with `all` everything that was kept.
    pub fn write(&self, all: bool) {
        if all {
            for (number, (kind, value)) in self.kept.iter().enumerate() {
                if number % 40 == 0 {
                    // The line loses what it cannot carry.
                    time::sleep(Nanos(10_000_000));
                }
                println!("seen {} {value:x}", char::from(*kind));
            }
        }
        println!("digest {:016x} of {}", self.digest, self.count);
    }
}
