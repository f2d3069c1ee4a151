//! Runs programs.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::frame::FrameRun;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{Info, TimerSet, Unmap};
use guest_sdk::protocol::layout::{LOWER_END, PHYSMAP};
use guest_sdk::{
    GuestVirt, Nanos, SpaceId, StartInfo, Status, TrapContext, VcpuId, call, println, smp, time, trap, verdict,
};
use hostile_support::board::{Board, word};
use hostile_support::touch;
use hostile_support::wild::{self, go};

use crate::program::{Places, Random, STEPS, Step, step};

/// What calls read and write.
#[repr(align(4096))]
struct Buffer([AtomicU64; 512]);
static BUFFER: Buffer = Buffer([const { AtomicU64::new(0) }; 512]);

pub fn main(start: &'static StartInfo) {
    match run(start) {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

/// A number of the command line, decimal or (`keep`) hexadecimal.
fn option(start: &StartInfo, name: &str, radix: u32) -> Option<u64> {
    let mut words = start.command_line().split(' ');
    words.find_map(|word| u64::from_str_radix(word.strip_prefix(name)?.strip_prefix('=')?, radix).ok())
}

fn run(start: &'static StartInfo) -> Result<(), Status> {
    let board = Board::open("board")?;
    for vector in (0..32).filter(|vector| !trap::RESERVED.contains(vector)) {
        trap::set_handler(vector, skip)?;
    }
    let run = FrameRun::new(512, 512).ok_or(Status::QuotaExceeded)?;
    let loose = run.first().0;
    // Programs do with them what they like: they are never given back.
    core::mem::forget(run);
    go(Unmap { space: SpaceId::FIRST, address: GuestVirt(PHYSMAP.0 + loose * 4096), count: 512 })?;
    let other = start.channels().iter().map(|end| u64::from(end.peer)).max().unwrap_or(0);
    let places = Places {
        buffer: BUFFER.0.as_ptr().expose_provenance() as u64,
        loose: (loose, 512),
        frames: start.memory_frames,
        vms: [board.peer.0.into(), other, start.vm.into()],
    };
    if smp::count() > 1 {
        smp::spawn(VcpuId(1), disturb)?;
    }
    let seed = option(start, "seed", 10).unwrap_or(1);
    let keep = option(start, "keep", 16);
    let first = option(start, "program", 10);
    let end = first.map_or(option(start, "programs", 10).unwrap_or(100), |first| first + 1);
    loop {
        let number = (board.count(word::PROGRESS) - 1).max(first.unwrap_or(0));
        if number >= end || (first.is_some() && board.get(word::PROGRESS) > first.unwrap_or(0) + 1) {
            break;
        }
        println!("program {number}");
        program(seed, number, keep, &places);
        let _ = go(TimerSet { deadline: Nanos::NEVER });
        let _ = call::space_switch(SpaceId::FIRST);
        // Only builds for tests do more than refuse this.
        let _ = wild::call(Info::NUMBER, [u64::MAX, 0, 0, 0, 0, 0]);
        ask(&board)?;
    }
    board.set(word::DONE, 1);
    board.ring();
    Ok(())
}

fn program(seed: u64, number: u64, keep: Option<u64>, places: &Places) {
    let mut random = Random::new(seed, number);
    let mut results = [0; 8];
    for index in 0..STEPS {
        let step = step(&mut random, places, &results);
        if keep.is_some_and(|keep| keep >> index & 1 == 0) {
            continue;
        }
        if keep.is_some() {
            show(index, &step);
        }
        let result = match step {
            Step::Call(call, arguments) => wild::call(call.number, arguments).unwrap_or(u64::MAX),
            Step::Read(address) => touch::read(address),
            Step::Write(address, value) => u64::from(address < LOWER_END && touch::write(address, value)),
        };
        results[index % 8] = result;
    }
}

fn show(index: usize, step: &Step) {
    match step {
        Step::Call(call, arguments) => {
            let count = call.arguments.len();
            println!("step {index}: {}({:x?})", call.name, &arguments[..count]);
        }
        other => println!("step {index}: {other:x?}"),
    }
}

/// Ends the access that faulted.
fn skip(context: &mut TrapContext) {
    if !touch::end(context) {
        println!("this program broke its own kernel");
        let _ = trap::clear_handler(context.vector());
    }
}

/// What the other vCPU does: changes what the first one's calls read, and makes some itself.
fn disturb() {
    for round in 0_u64.. {
        let slot = &BUFFER.0[(round % 512) as usize];
        slot.store(if round % 3 == 0 { round % 70 } else { 0x1000 * (round % 5) }, Ordering::Relaxed);
        let _ = call::translate(SpaceId::FIRST, GuestVirt(0x1000));
        let _ = go(guest_sdk::protocol::call::Map {
            space: SpaceId::FIRST,
            address: GuestVirt(0x10_0000_0000),
            frame: guest_sdk::Gfn(0),
            count: 1,
            flags: guest_sdk::protocol::flags::MapFlags::empty(),
        });
        let _ = go(Unmap { space: SpaceId::FIRST, address: GuestVirt(0x10_0000_0000), count: 1 });
        let _ = call::yield_cpu();
    }
}

/// Has the neighbour look.
fn ask(board: &Board) -> Result<(), Status> {
    let before = board.get(word::CHANGED);
    let number = board.count(word::ASKED);
    board.ring();
    let end = time::now().0 + 30_000_000_000;
    while board.get(word::ANSWERED) < number && time::now().0 < end {
        let _ = call::yield_cpu();
    }
    let is_good = board.get(word::ANSWERED) >= number && board.get(word::CHANGED) == before;
    if is_good { Ok(()) } else { Err(Status::Busy) }
}
