//! The checks.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_sdk::protocol::flags::Features;
use guest_sdk::raw::fpu::FpuState;
use guest_sdk::{Nanos, StartInfo, Status, VcpuId, call, check, check_eq, event, smp, time, verdict};

use crate::vector;

static FINISHED: AtomicU32 = AtomicU32::new(0);
const SPAN: Nanos = Nanos(100_000_000);

pub fn main(start: &'static StartInfo) {
    check_initial("vCPU 0");
    match run(start.features()) {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

/// Zero at the start: nothing of another VM is left.
fn check_initial(who: &str) {
    check_eq!(vector::xmm(), [0; 16], "{who}: vector registers at the start");
    check_eq!(vector::controls(), (0x1f80, 0x037f), "{who}: control words at the start");
}

fn run(features: Features) -> Result<(), Status> {
    check_saved_state();
    for number in 1..smp::count() {
        smp::spawn(VcpuId(number), move || {
            check_initial("another vCPU");
            keep_pattern(u128::from(number), features);
            FINISHED.fetch_add(1, Ordering::SeqCst);
            let _ = call::vcpu_kick(VcpuId(0));
        })?;
    }
    keep_pattern(77, features);
    event::wait_until(|| FINISHED.load(Ordering::SeqCst) + 1 == smp::count());
    Ok(())
}

/// Holds a pattern of its own while others run, giving up the CPU again and again.
fn keep_pattern(seed: u128, features: Features) {
    let mut pattern = [0; 16];
    for (word, index) in pattern.iter_mut().zip(1..) {
        *word = seed.wrapping_mul(0x0123_4567_89ab_cdef_1122_3344_5566_7788).wrapping_add(index);
    }
    let upper = [seed << 64, !seed];
    vector::set_xmm(&pattern);
    if features.contains(Features::AVX) {
        vector::set_upper(&upper);
    }
    let end = time::now().0 + SPAN.0;
    while time::now().0 < end {
        for _ in 0..10_000 {
            core::hint::spin_loop();
        }
        let _ = call::yield_cpu();
        let _ = call::block(Nanos(time::now().0 + 100_000));
        check_eq!(vector::xmm(), pattern, "vector registers of pattern {seed}");
        if features.contains(Features::AVX) {
            check_eq!(vector::upper(), upper, "upper halves of pattern {seed}");
        }
    }
}

/// The SDK's save and load, for kernels that switch user contexts.
fn check_saved_state() {
    let mut first = FpuState::new();
    vector::set_xmm(&[1; 16]);
    first.save();
    FpuState::new().load();
    check_eq!(vector::xmm(), [0; 16], "the fresh state");
    first.load();
    check_eq!(vector::xmm(), [1; 16], "the saved state");
    FpuState::new().load();
    check!(vector::controls() == (0x1f80, 0x037f), "control words of the fresh state");
}
