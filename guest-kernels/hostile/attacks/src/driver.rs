//! The attacker's way through its list.

use alloc::string::String;
use alloc::vec::Vec;

use guest_sdk::event::{self, MaskState};
use guest_sdk::timer::Timer;
use guest_sdk::{Nanos, StartInfo, call, println, time, verdict};
use hostile_support::board::{Board, word};

use crate::accomplice::{self, Accomplice};
use crate::storm;
use crate::workers;
use crate::world::{Case, Outcome, World};
use crate::{calls, entry, memory, sharing};

/// How often a case runs, and against what.
const MODES: [&str; 3] = ["alone", "raced", "interrupted"];
/// Between two interrupts of the last mode.
const TICK: Nanos = Nanos(100_000);

pub fn main(start: &'static StartInfo) {
    match start.command_line() {
        "accomplice" => accomplice::serve(start),
        // It is there only to be above the others, and needs not run for that.
        "above" => {}
        "storm" => storm::storm(start),
        "work" => storm::work(),
        group => match attack(start, group) {
            Ok(()) => verdict::pass(),
            Err(why) => verdict::fail(format_args!("{why}")),
        },
    }
}

fn cases(group: &str) -> Option<&'static [Case]> {
    Some(match group {
        "memory" => memory::CASES,
        "entry" => entry::CASES,
        "calls" => calls::CASES,
        "sharing" => sharing::CASES,
        _ => return None,
    })
}

/// Runs the group that the command line names first; with `only=ID,ID` these rows, alone.
fn attack(start: &'static StartInfo, command_line: &str) -> Outcome {
    let (group, only) = command_line.split_once(" only=").unwrap_or((command_line, ""));
    let is_wanted = |case: &&Case| only.is_empty() || only.split(',').any(|id| id == case.id);
    let all = cases(group).ok_or_else(|| String::from("no such group"))?;
    let cases: Vec<&Case> = all.iter().filter(is_wanted).collect();
    let modes = if only.is_empty() { &MODES[..] } else { &MODES[..1] };
    let text = |status| alloc::format!("{status}");
    let board = Board::open("board").map_err(text)?;
    let accomplice = Accomplice::open().ok_or_else(|| String::from("no accomplice"))?;
    let mut world = World::new(start, board, accomplice).map_err(text)?;
    workers::start().map_err(text)?;
    let timer = Timer::new().map_err(text)?;
    timer.on_event(|_| {
        let _ = call::timer_set(Nanos(time::now().0 + TICK.0));
    });
    world.board.count(word::LIVES);
    // What ended the last life is judged now; and the first one waits until the neighbour has its secrets.
    world.ask_neighbour()?;
    loop {
        let progress = world.board.count(word::PROGRESS) as usize - 1;
        let (mode, number) = (progress / cases.len(), progress % cases.len());
        let (Some(mode), Some(case)) = (modes.get(mode), cases.get(number)) else {
            break;
        };
        run(&mut world, case, mode, &timer)?;
    }
    world.accomplice.end();
    world.board.set(word::DONE, 1);
    world.board.ring();
    Ok(())
}

fn run(world: &mut World, case: &Case, mode: &str, timer: &Timer) -> Outcome {
    if let Some(code) = case.dies {
        println!("attack {} {mode} dies {code}", case.id);
    }
    let outcome = match mode {
        "raced" => {
            let _racing = workers::noise(noise::calls);
            (case.run)(world)
        }
        "interrupted" => {
            let _ = timer.set_after(TICK);
            world.is_interrupted = true;
            event::unmask();
            let outcome = (case.run)(world);
            event::mask();
            world.is_interrupted = false;
            let _ = call::timer_set(Nanos::NEVER);
            outcome
        }
        _ => (case.run)(world),
    };
    event::restore(MaskState::Masked);
    match outcome.and_then(|()| world.recount()).and_then(|()| world.ask_neighbour()) {
        Ok(()) if case.dies.is_some() => println!("attack {} {mode} FAIL: it survived", case.id),
        Ok(()) => println!("attack {} {mode} ok", case.id),
        Err(why) => println!("attack {} {mode} FAIL: {why}", case.id),
    }
    Ok(())
}

/// What other vCPUs do beside any case: calls that take the locks that it needs, and change nothing.
mod noise {
    use guest_sdk::protocol::flags::InfoTopic;
    use guest_sdk::{GuestVirt, SpaceId, VcpuId, call};

    pub fn calls(round: u64) {
        let _ = call::info(InfoTopic::PoolFrames);
        let _ = call::translate(SpaceId::FIRST, GuestVirt(crate::world::buffer_address()));
        let _ = call::vcpu_kick(VcpuId(0));
        if round.is_multiple_of(8) {
            let _ = call::yield_cpu();
        }
    }
}
