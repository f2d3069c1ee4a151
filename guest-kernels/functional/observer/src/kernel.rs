//! Observing. Command line: milliseconds to observe, and `all` to have every observation written.
//!
//! Between calls the clock is read all the time, so that each interruption shows in the digest with its
//! begin and its end; each call is recorded with its result and the time behind it.

use core::sync::atomic::{AtomicU64, Ordering};

use functional_support::{probe, wild};
use guest_sdk::event::{self, Event};
use guest_sdk::frame::{Frame, FrameRun};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::GrantCreate;
use guest_sdk::protocol::flags::{InfoTopic, MapFlags};
use guest_sdk::protocol::layout::PAGE_SIZE;
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::space::Space;
use guest_sdk::timer::Timer;
use guest_sdk::{Nanos, StartInfo, Status, VcpuId, VmId, call, smp, time};

use crate::record::Record;

/// Clock readings between two calls.
const READINGS: u64 = 200;
/// The VM with the secret.
const OTHER: VmId = VmId(1);
/// A step of the clock that is kept, not only counted into the digest.
const GAP: u64 = 5_000;
/// Times that the upcall handler saw, mixed.
static UPCALLS: AtomicU64 = AtomicU64::new(0);
/// Readings of the second vCPU, mixed.
static BESIDE: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);

pub fn main(start: &'static StartInfo) -> u64 {
    let mut words = start.command_line().split_whitespace();
    let end = words.next().and_then(|word| word.parse().ok()).unwrap_or(50) * 1_000_000;
    let all = words.next() == Some("all");
    let mut record = Record::new();
    if start.vcpus > 1 {
        // A thread that counts: the oldest clock there is.
        let _ = smp::spawn(VcpuId(1), beside);
    }
    match observe(&mut record, end) {
        Ok(()) => {
            DONE.store(1, Ordering::SeqCst);
            record.add(b'u', UPCALLS.load(Ordering::SeqCst));
            // What a loaded line loses is not said again by anybody else.
            for _ in 0..20 {
                time::sleep(Nanos(10_000_000));
                record.write(all);
            }
            0
        }
        Err(status) => {
            guest_sdk::println!("FAIL {status}");
            1
        }
    }
}

fn beside() {
    while DONE.load(Ordering::SeqCst) == 0 {
        BESIDE.fetch_add(1, Ordering::SeqCst);
    }
}

fn observe(record: &mut Record, end: u64) -> Result<(), Status> {
    probe::install()?;
    let timer = Timer::new()?;
    let event = Event::new(smp::current())?;
    for handler in [timer.event(), &event] {
        handler.on_event(|_| {
            let seen = UPCALLS.load(Ordering::SeqCst).rotate_left(7) ^ time::now().0;
            UPCALLS.store(seen, Ordering::SeqCst);
        });
    }
    event::unmask();
    let mut space = Space::new()?;
    let run = FrameRun::new(4, 1).ok_or(Status::QuotaExceeded)?;
    let mut round = 0;
    while time::now().0 < end {
        read_clock(record);
        let result = step(round, &mut space, &run, &timer, &event);
        record.add(b'r', result);
        record.add(b't', time::now().0);
        let page = Vcpu::current().page();
        record.add(
            b's',
            page.run_time_ns.load(Ordering::Relaxed) ^ page.steal_time_ns.load(Ordering::Relaxed).rotate_left(32),
        );
        record.add(b'b', BESIDE.load(Ordering::SeqCst));
        round += 1;
    }
    Ok(())
}

/// Reads the clock many times.
fn read_clock(record: &mut Record) {
    let mut last = time::now().0;
    for _ in 0..READINGS {
        let now = time::now().0;
        record.mix(now);
        if now - last > GAP {
            record.add(b'g', now);
        }
        last = now;
    }
}

/// A status as a number beside results.
fn number(result: Result<u64, Status>) -> u64 {
    match result {
        Ok(value) => value,
        Err(status) => status.to_register(),
    }
}

/// One of the things that a VM can do and learn something from.
fn step(round: u64, space: &mut Space, run: &FrameRun, timer: &Timer, event: &Event) -> u64 {
    let number_of = |result: Result<(), Status>| number(result.map(|()| 0));
    match round % 16 {
        0 => number(call::info(InfoTopic::Time)),
        1 => number(call::info(InfoTopic::PoolFrames)),
        2 => number(call::console_write(b"observing, observing, observing\n")),
        3 => number_of(event.send()),
        4 => number_of(timer.set_after(Nanos(700_000 + round * 1000))),
        5 => number_of(call::yield_cpu()),
        6 => number_of(call::block(Nanos(time::now().0 + 300_000))),
        7 => Frame::new().map_or(1, |frame| number_of(space.map(round % 512, frame, MapFlags::WRITE))),
        8 => number_of(space.unmap((round - 1) % 512).map(drop)),
        9 => match probe::read(0x10) {
            probe::Access::Fault(code) => code,
            probe::Access::Done(_) | probe::Access::FaultElsewhere(_) => u64::MAX,
        },
        10 => number(call::translate(space.id(), guest_sdk::GuestVirt(PAGE_SIZE)).map(|pair| pair.0)),
        11 => number(grant(run)),
        12 => number_of(call::event_deliver()),
        13 => number(guest_sdk::console::Input::open().map(|mut input| input.try_read(&mut [0; 16]) as u64)),
        14 => number(call::console_write(&[b'.'; 900])),
        _ => number_of(call::log_write(&[1; 40])),
    }
}

/// Offers a frame to the other VM.
fn grant(run: &FrameRun) -> Result<u64, Status> {
    wild::call(GrantCreate::NUMBER, [u64::from(OTHER.0), run.first().0, 0, 0, 0, 0])
}
