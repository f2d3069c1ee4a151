//! Computes on all vCPUs for a while and measures how much time it got. The first of a system's VMs
//! collects what the others got and compares the shares with the weights.
//!
//! Command line: the VM's weight; for the first VM, the weights of the others behind it, in the order
//! of its channels.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::start::text;
use guest_sdk::{StartInfo, VcpuId, check, event, println, smp, time, verdict};

guest_sdk::entry!(share);

/// The window lies between these times of the VM; before and after it, everybody computes too.
const BEGIN_NS: u64 = 500_000_000;
const END_NS: u64 = BEGIN_NS + 10_000_000_000;
const AFTER_NS: u64 = END_NS + 500_000_000;
/// Greatest error of a share, in hundredths of a percent of the share itself.
const TOLERANCE: u64 = 200;

/// Time that the VM's vCPUs ran within the window.
static RUN_NS: AtomicU64 = AtomicU64::new(0);
static FINISHED: AtomicU64 = AtomicU64::new(0);

fn share(start: &'static StartInfo) -> u64 {
    for number in 1..start.vcpus {
        if let Err(status) = smp::spawn(VcpuId(number), compute) {
            println!("vCPU {number}: {status}");
            return 1;
        }
    }
    compute();
    event::wait_deadline(guest_sdk::Nanos(AFTER_NS * 2), || FINISHED.load(Ordering::Acquire) == u64::from(start.vcpus));
    let own = RUN_NS.load(Ordering::Acquire);
    println!("ran {} ms of {} ms", own / 1_000_000, (END_NS - BEGIN_NS) / 1_000_000);
    match exchange(start, own) {
        Ok(()) => 0,
        Err(error) => {
            println!("FAIL {}: {error}", start.name());
            1
        }
    }
}

/// Computes; notes how much time this vCPU got within the window.
fn compute() {
    let page = Vcpu::current().page();
    let run_at = |moment: u64| {
        while time::now().0 < moment {
            for _ in 0..1000 {
                core::hint::spin_loop();
            }
        }
        page.run_time_ns.load(Ordering::Relaxed)
    };
    let begin = run_at(BEGIN_NS);
    let end = run_at(END_NS);
    run_at(AFTER_NS);
    RUN_NS.fetch_add(end - begin, Ordering::AcqRel);
    FINISHED.fetch_add(1, Ordering::AcqRel);
    let _ = guest_sdk::call::vcpu_kick(VcpuId(0));
}

fn exchange(start: &StartInfo, own: u64) -> Result<(), ChannelError> {
    let mut weights = start.command_line().split_whitespace().filter_map(|word| word.parse().ok());
    let own_weight: u64 = weights.next().unwrap_or(1);
    let others: Vec<u64> = weights.collect();
    if others.is_empty() {
        for channel in start.channels() {
            Channel::open(text(&channel.name))?.send_value(&own)?;
        }
        return Ok(());
    }
    let mut runs = Vec::from([(own_weight, own)]);
    for (channel, weight) in start.channels().iter().zip(others) {
        runs.push((weight, Channel::open(text(&channel.name))?.receive_value()?));
    }
    judge(&runs)
}

fn judge(runs: &[(u64, u64)]) -> ! {
    let weights: u64 = runs.iter().map(|(weight, _)| weight).sum();
    let total: u64 = runs.iter().map(|(_, run)| run).sum();
    for (weight, run) in runs {
        // In hundredths of a percent.
        let got = run * 10_000 / total.max(1);
        let due = weight * 10_000 / weights;
        let error = got.abs_diff(due) * 10_000 / due.max(1);
        println!(
            "weight {weight}: {}.{:02} % instead of {}.{:02} %, error {}.{:02} %",
            got / 100,
            got % 100,
            due / 100,
            due % 100,
            error / 100,
            error % 100,
        );
        check!(error <= TOLERANCE, "the share of weight {weight} is off");
    }
    verdict::pass()
}
