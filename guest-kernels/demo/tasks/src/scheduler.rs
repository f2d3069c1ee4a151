//! Round robin, with a slice of time each.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use guest_sdk::timer::Timer;
use guest_sdk::user::Exit;
use guest_sdk::{Nanos, Status, event, println, time};

use crate::process::{End, Process, State};
use crate::syscall::{self, Turn};

const SLICE: Nanos = Nanos(2_000_000);

/// Set by the timer: the slice of the running process is over.
static SLICE_OVER: AtomicBool = AtomicBool::new(false);

/// The processes that have not ended, in the order of their turns.
pub struct Scheduler {
    timer: Timer,
    queue: VecDeque<Process>,
    switches: u64,
    preemptions: u64,
}

impl Scheduler {
    /// A scheduler without processes.
    pub fn new() -> Result<Scheduler, Status> {
        let timer = Timer::new()?;
        timer.on_event(|_| SLICE_OVER.store(true, Ordering::Relaxed));
        Ok(Scheduler { timer, queue: VecDeque::new(), switches: 0, preemptions: 0 })
    }

    /// Adds a process.
    pub fn add(&mut self, process: Process) {
        self.queue.push_back(process);
    }

    /// How often a process got the CPU.
    pub fn switches(&self) -> u64 {
        self.switches
    }

    /// How often one lost it against its will.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Runs until all have ended, and returns them.
    pub fn run(&mut self) -> Vec<Process> {
        let mut ended = Vec::new();
        while let Some(mut process) = self.next() {
            self.switches += 1;
            self.give_turn(&mut process);
            if let Some(end) = process.end() {
                println!("process {} ({}) {end}", process.number(), process.name());
                ended.push(process);
            } else {
                self.queue.push_back(process);
            }
        }
        ended
    }

    /// The next process that can run, asleep until there is one; nothing when all have ended.
    fn next(&mut self) -> Option<Process> {
        loop {
            let now = time::now();
            let mut earliest = Nanos::NEVER;
            for _ in 0..self.queue.len() {
                let mut process = self.queue.pop_front()?;
                match process.state {
                    State::Sleeping(until) if until > now => earliest = earliest.min(until),
                    State::Sleeping(_) | State::Ready | State::Ended(_) => {
                        process.state = State::Ready;
                        return Some(process);
                    }
                }
                self.queue.push_back(process);
            }
            if self.queue.is_empty() {
                return None;
            }
            event::sleep_once(earliest);
        }
    }

    /// Runs a process until it gives up the CPU, its slice is over, or it ends.
    fn give_turn(&mut self, process: &mut Process) {
        SLICE_OVER.store(false, Ordering::Relaxed);
        if let Err(status) = self.timer.set_after(SLICE) {
            println!("no timer: {status}");
        }
        loop {
            let exit = match process.context.run_in(process.space.id()) {
                Ok(exit) => exit,
                Err(status) => return println!("process {}: {status}", process.number()),
            };
            match exit {
                Exit::Syscall if syscall::handle(process) == Turn::Over => return,
                Exit::Syscall => {}
                Exit::Event if SLICE_OVER.swap(false, Ordering::Relaxed) => {
                    self.preemptions += 1;
                    return;
                }
                Exit::Event => {}
                Exit::Fault(fault) => {
                    if process.areas.resolve(fault, &mut process.space) != Ok(true) {
                        process.state = State::Ended(End::Killed(fault));
                        return;
                    }
                }
            }
        }
    }
}
