//! The pattern, and the looks at it.

use core::sync::atomic::{AtomicU64, Ordering};

use functional_support::registers::All;
use guest_sdk::console::Input;
use guest_sdk::frame::FrameRun;
use guest_sdk::{Nanos, StartInfo, VcpuId, println, smp, time, verdict};

/// Frames with the pattern.
const FRAMES: u64 = 64;
/// How long one look takes at most before the next.
const PERIOD: Nanos = Nanos(100_000_000);
/// Looks that the registers got, and those that found something else.
static ROUNDS: AtomicU64 = AtomicU64::new(0);
static SPOILT: AtomicU64 = AtomicU64::new(0);

pub fn main(start: &'static StartInfo) {
    let seed = 0x5ec2_e700 + u64::from(start.vm);
    let Some(memory) = FrameRun::new(FRAMES, 1) else {
        verdict::fail(format_args!("there is no memory"));
    };
    let word = |offset: usize| (offset as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    for offset in (0..FRAMES as usize * 4096).step_by(8) {
        assert!(memory.write(offset, &word(offset)), "the run is as long as was asked for");
    }
    if smp::count() > 1
        && let Err(status) = smp::spawn(VcpuId(1), keep_registers)
    {
        verdict::fail(format_args!("the second vCPU does not start: {status:?}"));
    }
    let Ok(mut input) = Input::open() else {
        verdict::fail(format_args!("the console has no input"));
    };
    let mut before = time::now();
    for beat in 1_u64.. {
        time::sleep(PERIOD);
        let now = time::now();
        if now.0 < before.0 + PERIOD.0 {
            verdict::fail(format_args!("{} ns were only {}", PERIOD.0, now.0 - before.0));
        }
        before = now;
        for offset in (0..FRAMES as usize * 4096).step_by(8) {
            let mut bytes = [0; 8];
            if !memory.read(offset, &mut bytes) || bytes != word(offset) {
                verdict::fail(format_args!("memory at {offset:#x} is {bytes:x?}"));
            }
        }
        if SPOILT.load(Ordering::SeqCst) != 0 {
            verdict::fail(format_args!("registers changed"));
        }
        // Anything that is typed.
        if input.try_read(&mut [0]) > 0 {
            verdict::pass();
        }
        if beat % 10 == 0 {
            println!("untouched: beat {beat}, registers {}", ROUNDS.load(Ordering::SeqCst));
        }
    }
}

/// What the second vCPU does: holds patterns in all its registers while others run.
fn keep_registers() {
    for seed in 1_u64.. {
        let expected = All::pattern(seed);
        let mut all = expected.clone();
        all.spin(20_000);
        if all.general != expected.general || all.vectors != expected.vectors {
            SPOILT.fetch_add(1, Ordering::SeqCst);
        }
        ROUNDS.fetch_add(1, Ordering::Relaxed);
        time::sleep(Nanos(500_000));
    }
}
