//! The attacker's other vCPUs: they run a function again and again while a case races against it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_sdk::sync::Mutex;
use guest_sdk::{Nanos, Status, VcpuId, call, smp, time};

/// What one worker does over and over, until it is told to stop. The number counts its rounds.
pub type Job = fn(u64);

/// The last one makes noise beside any case; the others are for the cases.
const WORKERS: usize = 3;
static JOBS: [Mutex<Option<Job>>; WORKERS] = [const { Mutex::new(None) }; WORKERS];
static BUSY: [AtomicBool; WORKERS] = [const { AtomicBool::new(false) }; WORKERS];
static STOP: [AtomicBool; WORKERS] = [const { AtomicBool::new(false) }; WORKERS];
static ROUNDS: [AtomicU64; WORKERS] = [const { AtomicU64::new(0) }; WORKERS];

/// Starts the vCPUs.
pub fn start() -> Result<(), Status> {
    for worker in 0..WORKERS {
        smp::spawn(VcpuId(worker as u32 + 1), move || work(worker))?;
    }
    Ok(())
}

fn work(worker: usize) {
    loop {
        let job = JOBS[worker].lock().take();
        let Some(job) = job else {
            let _ = call::block(Nanos(time::now().0 + 1_000_000));
            continue;
        };
        while !STOP[worker].load(Ordering::SeqCst) {
            job(ROUNDS[worker].fetch_add(1, Ordering::SeqCst));
        }
        BUSY[worker].store(false, Ordering::SeqCst);
    }
}

/// Workers that run jobs while this lives.
#[derive(Debug)]
#[must_use]
pub struct Racing {
    workers: core::ops::Range<usize>,
}

/// Has workers run these jobs, at most two, and waits until each has begun its first round.
pub fn race(jobs: &[Job]) -> Racing {
    begin(0, jobs)
}

/// Has the last worker run a job.
pub fn noise(job: Job) -> Racing {
    begin(WORKERS - 1, &[job])
}

fn begin(first: usize, jobs: &[Job]) -> Racing {
    let workers = first..first + jobs.len();
    for (worker, job) in workers.clone().zip(jobs) {
        STOP[worker].store(false, Ordering::SeqCst);
        ROUNDS[worker].store(0, Ordering::SeqCst);
        BUSY[worker].store(true, Ordering::SeqCst);
        *JOBS[worker].lock() = Some(*job);
        let _ = call::vcpu_kick(VcpuId(worker as u32 + 1));
    }
    for rounds in &ROUNDS[workers.clone()] {
        while rounds.load(Ordering::SeqCst) == 0 {
            let _ = call::yield_cpu();
        }
    }
    Racing { workers }
}

impl Racing {
    /// Rounds that a worker has begun.
    pub fn rounds(&self, worker: usize) -> u64 {
        ROUNDS[worker].load(Ordering::SeqCst)
    }
}

impl Drop for Racing {
    fn drop(&mut self) {
        for stop in &STOP[self.workers.clone()] {
            stop.store(true, Ordering::SeqCst);
        }
        for busy in &BUSY[self.workers.clone()] {
            while busy.load(Ordering::SeqCst) {
                let _ = call::yield_cpu();
            }
        }
    }
}
