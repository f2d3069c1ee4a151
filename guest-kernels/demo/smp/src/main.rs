//! Counts primes on all vCPUs. Vcpu 0 hands out the ranges by inter-processor events, and each vCPU
//! reports by one; the sum is compared with the known count.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::event::Event;
use guest_sdk::{StartInfo, Status, VcpuId, println, smp, time};

/// Primes below this are counted.
const LIMIT: u64 = 100_000;
/// How many there are.
const EXPECTED: u64 = 9592;
/// Numbers of one piece of work.
const PIECE: u64 = 1000;

guest_sdk::entry!(main_of_kernel);

/// What a vCPU needs to take part.
struct Worker {
    vcpu: VcpuId,
    /// Told by vCPU 0 to begin. The worker makes it, since it is the one to wait.
    go: Event,
    /// Tells vCPU 0 that this vCPU is done.
    done: Arc<Event>,
    found: AtomicU64,
}

fn main_of_kernel(_start: &'static StartInfo) -> u64 {
    match count_on_all() {
        Ok(EXPECTED) => {
            println!("smp: done");
            0
        }
        Ok(count) => {
            println!("smp: {count} primes below {LIMIT} instead of {EXPECTED}");
            1
        }
        Err(status) => {
            println!("smp: {status}");
            1
        }
    }
}

/// The next number that nobody has looked at.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Workers that are done.
static FINISHED: AtomicU64 = AtomicU64::new(0);

fn count_on_all() -> Result<u64, Status> {
    let started = time::now();
    let done = Arc::new(Event::new(VcpuId(0))?);
    let mut workers: Vec<Arc<Worker>> = Vec::new();
    for number in 1..smp::count() {
        let vcpu = VcpuId(number);
        let worker = Arc::new(Worker { vcpu, go: Event::new(vcpu)?, done: done.clone(), found: AtomicU64::new(0) });
        workers.push(worker.clone());
        smp::spawn(vcpu, move || work(&worker))?;
    }
    for worker in &workers {
        worker.go.send()?;
    }
    let mut total = count_pieces();
    println!("vCPU 0 found {total}");
    let wanted = workers.len() as u64;
    guest_sdk::event::wait_until(|| {
        done.take();
        FINISHED.load(Ordering::Acquire) == wanted
    });
    for worker in &workers {
        let found = worker.found.load(Ordering::Acquire);
        println!("vCPU {} found {found}", worker.vcpu);
        total += found;
    }
    println!("{total} primes below {LIMIT} in {} ms", (time::now().0 - started.0) / 1_000_000);
    Ok(total)
}

/// What a further vCPU does.
fn work(worker: &Worker) {
    worker.go.wait();
    worker.found.store(count_pieces(), Ordering::Release);
    FINISHED.fetch_add(1, Ordering::Release);
    if let Err(status) = worker.done.send() {
        println!("vCPU {} cannot report: {status}", worker.vcpu);
    }
}

/// Takes pieces until none is left; how many primes were in them.
fn count_pieces() -> u64 {
    let mut found = 0;
    loop {
        let first = NEXT.fetch_add(PIECE, Ordering::Relaxed);
        if first >= LIMIT {
            return found;
        }
        found += (first..first + PIECE).filter(|number| is_prime(*number)).count() as u64;
    }
}

fn is_prime(number: u64) -> bool {
    if number < 4 {
        return number >= 2;
    }
    if number.is_multiple_of(2) {
        return false;
    }
    let mut divisor = 3;
    while divisor * divisor <= number {
        if number.is_multiple_of(divisor) {
            return false;
        }
        divisor += 2;
    }
    true
}
