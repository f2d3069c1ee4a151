//! The checks.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_sdk::protocol::flags::InfoTopic;
use guest_sdk::timer::Timer;
use guest_sdk::{Nanos, StartInfo, Status, VcpuId, call, check, println, smp, time, verdict};

/// The latest time that any vCPU has seen.
static LATEST: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicBool = AtomicBool::new(false);
static BACKWARDS: AtomicU64 = AtomicU64::new(0);

pub fn main(_start: &'static StartInfo) {
    match run() {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run() -> Result<(), Status> {
    check_order_on_all_vcpus()?;
    check_call()?;
    check_timer()?;
    check_deadline()
}

/// Reads the clock and compares with the latest reading of all.
fn read_clock() {
    let before = LATEST.load(Ordering::SeqCst);
    let now = time::now().0;
    if now < before {
        BACKWARDS.fetch_max(before - now, Ordering::SeqCst);
    }
    LATEST.fetch_max(now, Ordering::SeqCst);
}

fn check_order_on_all_vcpus() -> Result<(), Status> {
    for number in 1..smp::count() {
        smp::spawn(VcpuId(number), || {
            while !DONE.load(Ordering::Relaxed) {
                read_clock();
            }
        })?;
    }
    let end = time::now().0 + 50_000_000;
    while time::now().0 < end {
        read_clock();
    }
    DONE.store(true, Ordering::Relaxed);
    let backwards = BACKWARDS.load(Ordering::SeqCst);
    check!(backwards == 0, "time ran backwards by {backwards} ns");
    Ok(())
}

/// The call and the page tell the same time.
fn check_call() -> Result<(), Status> {
    for _ in 0..100 {
        let before = time::now().0;
        let told = call::info(InfoTopic::Time)?;
        let after = time::now().0;
        check!((before..=after).contains(&told), "info says {told}, not {before} to {after}");
    }
    Ok(())
}

fn check_timer() -> Result<(), Status> {
    let timer = Timer::new()?;
    let mut worst = 0;
    for round in 0..50 {
        let deadline = Nanos(time::now().0 + 20_000 * (round + 1));
        timer.set(deadline)?;
        timer.event().wait();
        let now = time::now();
        check!(now >= deadline, "the timer came {} ns early", deadline.0 - now.0);
        worst = worst.max(now.0 - deadline.0);
    }
    println!("the latest timer came {} us late", worst / 1000);
    timer.set(Nanos(0))?;
    timer.event().wait();
    timer.set_after(Nanos(1_000_000))?;
    timer.cancel()?;
    let end = Nanos(time::now().0 + 3_000_000);
    check!(!timer.event().wait_deadline(end), "a cancelled timer came");
    Ok(())
}

fn check_deadline() -> Result<(), Status> {
    for span in [0, 1, 1000, 100_000, 3_000_000] {
        let deadline = Nanos(time::now().0 + span);
        call::block(deadline)?;
        let now = time::now();
        check!(now >= deadline, "block ended {} ns early", deadline.0.saturating_sub(now.0));
    }
    Ok(())
}
