//! A small kernel: processes in user mode, from programs that were linked apart, with preemption,
//! system calls and demand paging. One process misbehaves and is killed while the rest go on.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod loader;
mod memory;
mod process;
mod scheduler;
mod syscall;

use guest_sdk::{StartInfo, println};

use process::{End, Process};
use scheduler::Scheduler;

guest_sdk::entry!(tasks);

fn tasks(start: &'static StartInfo) -> u64 {
    match run(start) {
        Ok(true) => {
            println!("tasks: done");
            0
        }
        Ok(false) => 1,
        Err(error) => {
            println!("tasks: {error}");
            1
        }
    }
}

/// Runs a process of each module; whether all ended as they should.
fn run(start: &'static StartInfo) -> Result<bool, loader::LoadError> {
    let mut scheduler = Scheduler::new()?;
    for (number, module) in (1..).zip(start.modules()) {
        let process = loader::load(number, module.name(), module.bytes())?;
        println!("process {number}: {}", module.name());
        scheduler.add(process);
    }
    let ended = scheduler.run();
    println!("{} switches, {} by preemption", scheduler.switches(), scheduler.preemptions());
    let mut well = scheduler.preemptions() > 0 && ended.len() >= 4;
    for process in &ended {
        well &= ended_as_it_should(process);
    }
    Ok(well)
}

/// The wild one is to be killed, every other to exit with 0.
fn ended_as_it_should(process: &Process) -> bool {
    let Some(end) = process.end() else { return false };
    match end {
        End::Exited(code) => code == 0,
        End::Killed(_) => process.name() == "wild",
    }
}
