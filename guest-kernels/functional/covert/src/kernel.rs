//! What both ends agree on. Command line: `send` or `receive`, the channel, the start and the length of a symbol in
//! microseconds of the machine's counter, symbols, and the seed of the bits in hexadecimal.

use guest_sdk::raw::page;
use guest_sdk::{Nanos, StartInfo, VmId, call, time};

use crate::{receive, send};

/// The VM that receives, and the one that sends.
pub const LOW: VmId = VmId(0);
pub const HIGH: VmId = VmId(1);
/// The channel by which the receiver may send events to the sender.
pub const BELL: u64 = 0;

/// The plan.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub channel: &'static str,
    pub start: u64,
    pub period: u64,
    pub symbols: u64,
    pub seed: u64,
}

pub fn main(start: &'static StartInfo) -> u64 {
    let mut words = start.command_line().split_whitespace();
    let (role, channel) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let mut number = |radix| words.next().and_then(|word| u64::from_str_radix(word, radix).ok()).unwrap_or(1);
    let (start, period, symbols, seed) = (number(10) * 1_000, number(10) * 1_000, number(10), number(16));
    let plan = Plan { channel, start, period, symbols, seed };
    let result = if role == "send" { send::all(&plan) } else { receive::all(&plan) };
    match result {
        Ok(()) => 0,
        Err(status) => {
            guest_sdk::println!("FAIL {status}");
            1
        }
    }
}

impl Plan {
    /// The bit of a symbol (Steele, Lea and Flood, `SplitMix64`).
    pub fn bit(&self, symbol: u64) -> bool {
        let state = self.seed.wrapping_add(symbol.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) & 1 == 1
    }

    /// When a symbol begins.
    pub fn begin(&self, symbol: u64) -> u64 {
        self.start + symbol * self.period
    }

    /// The symbol whose time it is.
    pub fn now(&self) -> u64 {
        clock().saturating_sub(self.start) / self.period
    }
}

/// Nanoseconds of the counter that all VMs of the machine read: both ends know when a symbol begins. That is
/// more than a policy lets them agree on; it makes the figures no worse.
pub fn clock() -> u64 {
    let (page, tsc) = page::read_time();
    ((u128::from(tsc) * u128::from(page.multiplier)) >> 32) as u64
}

/// Computes until then.
pub fn spin_until(end: u64) {
    while clock() < end {
        core::hint::spin_loop();
    }
}

/// Leaves the CPU until then.
pub fn sleep_until(end: u64) {
    loop {
        let now = clock();
        if now >= end {
            return;
        }
        let _ = call::block(Nanos(time::now().0 + (end - now)));
    }
}

/// Ends this life; the VM is built again.
pub fn die() -> ! {
    let _ = guest_sdk::trap::clear_handler(guest_sdk::trap::PAGE_FAULT);
    let _ = functional_support::probe::read(0x10);
    call::exit(1)
}
