//! The receiver: in each symbol it does one thing again and again, and notes how often it could, and the shortest and
//! the longest time that it took.

use alloc::vec::Vec;

use functional_support::wild;
use guest_sdk::event::Event;
use guest_sdk::frame::Frame;
use guest_sdk::grant::Grant;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::GrantUnmap;
use guest_sdk::protocol::flags::{EventSource, GrantFlags, MapFlags};
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::space::Space;
use guest_sdk::{Nanos, Status, call, print, println, time};

use core::sync::atomic::Ordering;

use crate::kernel::{BELL, HIGH, Plan, clock, die, sleep_until, spin_until};

/// How often each line is written: a loaded line loses some.
const TIMES: usize = 3;
/// The page that is mapped and taken out.
const PAGE: u64 = 0x7000;
/// How long a sleep is that is looked at.
const NAP: u64 = 30_000;

/// What was seen in one symbol.
#[derive(Debug, Clone, Copy)]
struct Seen {
    count: u64,
    shortest: u64,
    longest: u64,
}

impl Seen {
    const NOTHING: Seen = Seen { count: 0, shortest: u64::MAX, longest: 0 };

    fn add(&mut self, span: u64) {
        self.count += 1;
        self.shortest = self.shortest.min(span);
        self.longest = self.longest.max(span);
    }
}

/// What is done again and again.
struct Tools {
    bell: Option<Event>,
    space: Space,
}

/// Observes all symbols, then writes down what was seen.
pub fn all(plan: &Plan) -> Result<(), Status> {
    if plan.channel == "search" {
        return be_built_again(plan);
    }
    functional_support::probe::install()?;
    let bell = if plan.channel == "event" { Some(Event::bound(EventSource::Channel, BELL)?) } else { None };
    let mut tools = Tools { bell, space: Space::new()? };
    let mut seen = Vec::with_capacity(plan.symbols as usize);
    sleep_until(plan.start);
    for symbol in 0..plan.symbols {
        seen.push(one(plan, symbol, &mut tools)?);
    }
    for _ in 0..TIMES {
        for (number, group) in seen.chunks(8).enumerate() {
            print!("seen {}", number * 8);
            for Seen { count, shortest, longest } in group {
                print!(" {count:x}.{shortest:x}.{longest:x}");
            }
            println!();
            time::sleep(Nanos(4_000_000));
        }
    }
    for _ in 0..TIMES {
        time::sleep(Nanos(20_000_000));
        println!("all seen");
    }
    Ok(())
}

/// Observes one symbol.
fn one(plan: &Plan, symbol: u64, tools: &mut Tools) -> Result<Seen, Status> {
    let end = plan.begin(symbol + 1);
    let mut seen = Seen::NOTHING;
    if plan.channel == "grant" {
        let grant = Grant::new(HIGH, Frame::new().ok_or(Status::QuotaExceeded)?, GrantFlags::empty())?;
        spin_until(end - plan.period / 4);
        let begin = clock();
        drop(grant);
        seen.add(clock() - begin);
        spin_until(end);
        return Ok(seen);
    }
    let stolen = Vcpu::current().page().steal_time_ns.load(Ordering::Relaxed);
    let mut last = clock();
    while last < end {
        let begin = act(plan.channel, tools, last)?;
        let now = clock();
        seen.add(now.saturating_sub(begin));
        last = now;
    }
    if plan.channel == "steal" {
        seen.count = Vcpu::current().page().steal_time_ns.load(Ordering::Relaxed) - stolen;
        (seen.shortest, seen.longest) = (0, 0);
    }
    Ok(seen)
}

/// Does the thing once; what its time is to be counted from.
fn act(channel: &str, tools: &mut Tools, begin: u64) -> Result<u64, Status> {
    match channel {
        "wake" => {
            let end = begin + NAP;
            sleep_until(end);
            return Ok(end);
        }
        "event" => {
            if let Some(bell) = &tools.bell {
                let _ = bell.send();
            }
            // The other end is to have looked before the next one.
            spin_until(clock() + NAP);
            return Ok(begin + NAP);
        }
        "console" => {
            let _ = call::console_write(b".\n");
            spin_until(clock() + NAP);
            return Ok(begin + NAP);
        }
        "audit" => {
            let _ = wild::call(GrantUnmap::NUMBER, [63, 0, 0, 0, 0, 0]);
        }
        "memory" => {
            let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
            tools.space.map(PAGE, frame, MapFlags::WRITE)?;
            drop(tools.space.unmap(PAGE)?);
        }
        // "cpu", "steal", "rebuild": the clock by itself.
        _ => {}
    }
    Ok(begin)
}

/// Dies at the beginning of each symbol, and notes how long it took to be built again.
fn be_built_again(plan: &Plan) -> Result<(), Status> {
    let born = clock();
    if born > plan.start {
        let symbol = plan.now();
        let took = born - plan.begin(symbol);
        for _ in 0..TIMES {
            println!("seen {symbol} 1.{took:x}.{took:x}");
            time::sleep(Nanos(500_000));
        }
        if symbol + 1 >= plan.symbols {
            println!("all seen");
            return Ok(());
        }
        spin_until(plan.begin(symbol + 1));
    } else {
        sleep_until(plan.start);
    }
    die()
}
