//! Refusals as fast as one VM can cause them, and what another VM still gets of the CPU.

use core::hint::black_box;
use core::sync::atomic::Ordering;

use guest_sdk::protocol::call::GrantUnmap;
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::{GrantRef, Nanos, StartInfo, Status, VmId, call, println, time, verdict};
use hostile_support::wild::go;

/// How long the storm lasts.
const SPAN: u64 = 2_000_000_000;
/// How long the worker looks, well within.
const LOOK: u64 = 1_000_000_000;
/// Refusals a second that make a storm.
const STORM: u64 = 1_000_000;

/// Makes refused calls and nothing else.
pub fn storm(start: &StartInfo) {
    let begin = time::now().0;
    let mut refused = 0_u64;
    // The clock is looked at rarely: the calls are what counts.
    while time::now().0 - begin < SPAN {
        for _ in 0..1024 {
            let result = go(GrantUnmap { owner: VmId(start.vm ^ 1), grant: GrantRef(0) });
            refused += u64::from(result == Err(Status::NotPermitted));
        }
    }
    let span = time::now().0 - begin;
    let rate = refused * 1_000_000 / (span / 1_000);
    println!("storm: {refused} refusals in {span} ns: {rate} a second");
    if rate < STORM {
        println!("attack IO-08 storm FAIL: only {rate} refusals a second");
    }
    verdict::pass()
}

/// Computes, and compares what it got of the CPU with its share: one half.
pub fn work() {
    let page = Vcpu::current().page();
    // Until the storm is under way, and each CPU time is told anew at the switch.
    let sample = || {
        let switches = page.switches.load(Ordering::Relaxed);
        while page.switches.load(Ordering::Relaxed) == switches {
            black_box(0);
        }
        (time::now().0, page.run_time_ns.load(Ordering::Relaxed))
    };
    let wait = time::now().0 + 200_000_000;
    while time::now().0 < wait {
        black_box(0);
    }
    let (start, used) = sample();
    let end = start + LOOK;
    while time::now().0 < end {
        black_box(0);
    }
    let (now, after) = sample();
    let permille = (after - used) * 1_000 / (now - start);
    println!("storm: the worker got {permille} of 1000, its share is 500");
    let _ = call::block(Nanos(0));
    if permille >= 475 {
        println!("attack PR-09 storm ok");
        println!("attack IO-08 storm ok");
        verdict::pass();
    }
    println!("attack PR-09 storm FAIL: {permille} of 1000");
    verdict::fail(format_args!("less than 95 % of its share"))
}
