//! What a program consists of: a pure function of seed, number and the values that earlier steps gave.

use guest_sdk::protocol::call::{CALLS, CallInfo};
use guest_sdk::protocol::layout::{
    CHANNEL_FRAMES, HYPERVISOR_START, KERNEL_END, KERNEL_START, LOWER_END, TIME_PAGE_FRAME,
};

/// Steps of a program: as many as the bits of the mask that chooses among them.
pub const STEPS: usize = 64;
/// Where programs put pages.
const PLACES: [u64; 4] = [0x1000, 0x10_0000_0000, 0x10_0020_0000, LOWER_END - 0x2000];
/// Calls that end the VM or would wait for ever.
const LEFT_OUT: [&str; 4] = ["exit", "vcpu_stop", "console_write", "log_write"];

/// A generator of numbers (xorshift64*).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// For one program.
    pub fn new(seed: u64, program: u64) -> Random {
        let mixed = (seed ^ program.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Random(mixed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

/// What stands for the running VM in a program.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// A buffer.
    pub buffer: u64,
    /// First of some frames that nothing maps, and how many.
    pub loose: (u64, u64),
    /// Frames of the VM.
    pub frames: u64,
    /// Other VMs.
    pub vms: [u64; 3],
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// A hypercall.
    Call(&'static CallInfo, [u64; 6]),
    /// A read of a word.
    Read(u64),
    /// A write of a word.
    Write(u64, u64),
}

/// The next step of a program.
pub fn step(random: &mut Random, places: &Places, results: &[u64; 8]) -> Step {
    // The same draws whatever the results were, so that a step that is left out changes no other.
    let kind = random.below(16);
    let call = loop {
        let call = &CALLS[random.below(CALLS.len())];
        if !LEFT_OUT.contains(&call.name) {
            break call;
        }
    };
    let mut arguments = [0; 6];
    for (argument, (name, ..)) in arguments.iter_mut().zip(call.arguments) {
        *argument = value(random, places, results, name);
    }
    if call.name == "block" {
        arguments[0] = random.next() % 2;
    }
    match kind {
        0 => Step::Read(address(random, places)),
        1 => Step::Write(random.of(&PLACES) + random.next() % 4096, random.next()),
        _ => Step::Call(call, arguments),
    }
}

fn address(random: &mut Random, places: &Places) -> u64 {
    let page = random.of(&PLACES) + ((random.next() % 4) << 12);
    let edges =
        [0, LOWER_END, HYPERVISOR_START, KERNEL_START - 0x1000, KERNEL_END, 1 << 47, u64::MAX, places.buffer + 8];
    let edge = random.of(&edges);
    if random.below(8) == 0 { edge } else { page }
}

/// A value for an argument of a name: mostly a sensible one, now and then anything.
fn value(random: &mut Random, places: &Places, results: &[u64; 8], name: &str) -> u64 {
    let small = random.next() % 9;
    let any = random.of(&[0, 1, 63, 64, 255, 256, 4096, 1 << 31, 1 << 32, (1 << 52) - 1, 1 << 62, 1 << 63, u64::MAX]);
    let page = address(random, places);
    let frame = random.of(&[
        places.loose.0 + small,
        places.loose.0 + small,
        places.loose.0 & !511,
        places.frames,
        TIME_PAGE_FRAME.0,
        CHANNEL_FRAMES.0 + 1 + small,
    ]);
    let count = random.of(&[1, 1, 1, 2, 8, 64, 512, 513]);
    let vm = random.of(&places.vms);
    let earlier = results[random.below(results.len())];
    match random.below(12) {
        0 => return any,
        1 => return earlier,
        _ => {}
    }
    match name {
        "address" => page,
        "buffer" | "entries" | "table" | "result" | "entry" | "stack" => places.buffer + small * 64,
        "frame" => frame,
        "count" | "length" => count,
        "owner" | "peer" => vm,
        "grant" | "port" => {
            if small < 4 {
                earlier
            } else {
                small
            }
        }
        "flags" => random.next() % 8,
        _ => small % 4,
    }
}
