//! Runs the table on every vCPU until it was executed on every CPU, compares, and prints it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use alloc::boxed::Box;
use alloc::vec::Vec;

use functional_sensitive::bare::{self, Runner};
use functional_sensitive::item::{MODERN, ROBIN};
use functional_sensitive::report::{self, Line};
use guest_sdk::protocol::flags::SegmentBase;
use guest_sdk::{Nanos, StartInfo, Status, VcpuId, call, check, println, segment, smp, time, verdict};

extern crate alloc;

/// The CPUs on which each item was executed, as bits by APIC id.
static VISITED: [AtomicU64; 192] = [const { AtomicU64::new(0) }; 192];
/// Longest line of the table.
const LINE: usize = 250;
/// vCPUs that are done.
static DONE: AtomicU32 = AtomicU32::new(0);
/// How long it may take to come to each CPU.
const PATIENCE: Nanos = Nanos(60_000_000_000);
/// Rounds of each vCPU where nobody tells on which CPU it runs.
const BLIND_ROUNDS: u64 = 8;

pub fn main(start: &'static StartInfo) {
    let outcome = match start.command_line() {
        "busy" => busy(),
        _ => probe(),
    };
    match outcome {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

/// Disturbs the neighbours.
fn busy() -> Result<(), Status> {
    bare::install()?;
    for vcpu in 1..smp::count() {
        smp::spawn(VcpuId(vcpu), || disturb().unwrap_or_default())?;
    }
    disturb()
}

fn disturb() -> Result<(), Status> {
    let mut runner = Runner::new()?;
    let mut base = 0x1_0000;
    loop {
        for at in (0..report::count()).filter(|at| report::is_bare(*at)) {
            report::line(&mut runner, at)?;
            report::disturb(&mut runner);
            segment::set(SegmentBase::Fs, base)?;
            call::debug_register_set(base % 4, base)?;
            base = (base * 5 + 0x1000) & 0x7fff_ffff_f000;
        }
    }
}

fn probe() -> Result<(), Status> {
    check!(report::count() <= VISITED.len(), "the table has {} lines", report::count());
    bare::install()?;
    let mut runner = Runner::new()?;
    let reference: &'static [Line] = Vec::leak(report::all(&mut runner)?);
    for vcpu in 1..smp::count() {
        smp::spawn(VcpuId(vcpu), Box::new(move || again_in_new_runner(reference)))?;
    }
    again(&mut runner, reference)?;
    while DONE.load(Ordering::Acquire) < smp::count() {
        call::block(Nanos(time::now().0 + 1_000_000))?;
    }
    for line in reference {
        // The hypervisor would break a longer one.
        check!(line.text.len() <= LINE, "`{}` is too long", line.text);
        println!("{}", line.text);
    }
    println!("{} rows: {} of Robin and Irvine, {} of long mode", reference.len(), ROBIN.len(), MODERN.len());
    match report::cpu(&mut runner) {
        Some((_, cpus)) => println!("each the same on {cpus} of {cpus} CPUs, by {} vCPUs", smp::count()),
        None => println!("each the same for {} vCPUs; nobody tells on which CPUs", smp::count()),
    }
    let wrong = reference.iter().filter(|line| !line.right).count();
    check!(wrong == 0, "rows that are not what is known of them: {wrong}");
    Ok(())
}

fn again_in_new_runner(reference: &[Line]) {
    let outcome = Runner::new().and_then(|mut runner| again(&mut runner, reference));
    check!(outcome.is_ok(), "vCPU {}: {outcome:?}", smp::current().0);
}

/// Executes everything again until every item was executed on every CPU, and compares.
fn again(runner: &mut Runner, reference: &[Line]) -> Result<(), Status> {
    let end = Nanos(time::now().0 + PATIENCE.0);
    let mut rounds = 0;
    loop {
        for (at, known) in reference.iter().enumerate().filter(|(at, _)| report::is_bare(*at)) {
            let before = report::cpu(runner);
            let line = report::line(runner, at)?;
            check!(line == *known, "on vCPU {}: `{}`, not `{}`", smp::current().0, line.text, known.text);
            if let Some((cpu, _)) = before
                && report::cpu(runner) == before
            {
                VISITED[at].fetch_or(1 << (cpu % 64), Ordering::Relaxed);
            }
        }
        rounds += 1;
        let complete = match report::cpu(runner) {
            Some((_, cpus)) => (0..reference.len())
                .filter(|at| report::is_bare(*at))
                .all(|at| u64::from(VISITED[at].load(Ordering::Relaxed).count_ones()) >= cpus),
            None => rounds >= BLIND_ROUNDS,
        };
        if complete {
            DONE.fetch_add(1, Ordering::Release);
            return Ok(());
        }
        check!(time::now() < end, "some row was not executed on each CPU");
        call::block(Nanos(time::now().0 + 1_000_000))?;
    }
}
