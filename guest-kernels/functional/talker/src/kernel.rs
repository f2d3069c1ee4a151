//! Talking. Command line: the secret in hexadecimal, how many milliseconds to talk, and `dies` if the VM is to end
//! by a death.

use functional_support::{probe, wild};
use guest_sdk::event::Event;
use guest_sdk::frame::Frame;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{GrantCreate, GrantMap};
use guest_sdk::protocol::flags::{InfoTopic, MapFlags};
use guest_sdk::space::Space;
use guest_sdk::timer::Timer;
use guest_sdk::{Nanos, StartInfo, Status, VcpuId, call, event, smp, time};

pub fn main(start: &'static StartInfo) -> u64 {
    let mut words = start.command_line().split_whitespace();
    let secret = words.next().and_then(|word| u64::from_str_radix(word, 16).ok()).unwrap_or(1);
    let end = words.next().and_then(|word| word.parse().ok()).unwrap_or(50) * 1_000_000;
    match talk(secret, end) {
        Ok(()) if words.next() == Some("dies") => {
            die();
            2
        }
        Ok(()) => 0,
        Err(status) => {
            guest_sdk::println!("FAIL {status}");
            1
        }
    }
}

/// The next number of a sequence (Marsaglia's xorshift).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn compute(amount: u64) {
    for _ in 0..amount {
        core::hint::spin_loop();
    }
}

fn talk(secret: u64, end: u64) -> Result<(), Status> {
    // Every life after a death tells the secret in other words.
    let mut state = (secret ^ call::info(InfoTopic::Time)?.rotate_left(32)) | 1;
    probe::install()?;
    let timer = Timer::new()?;
    let event = Event::new(smp::current())?;
    event.on_event(|_| compute(100));
    event::unmask();
    let mut space = Space::new()?;
    if smp::count() > 1 {
        let seed = state;
        let _ = smp::spawn(VcpuId(1), move || beside(seed, end));
    }
    // The own clock starts anew with each life: so many lives end the machine's run.
    let mut page = 0;
    while time::now().0 < end {
        let (what, amount) = (next(&mut state) % 16, next(&mut state) % 1000);
        match what {
            0 => compute(amount * 100),
            1 => (0..amount).for_each(|_| {
                let _ = call::info(InfoTopic::Time);
            }),
            2 => (0..amount % 20).for_each(|_| {
                let _ = call::console_write(b"a secret, a secret, a secret\n");
            }),
            3 => drop(call::console_write(&[b'x'; 1000][..amount as usize])),
            4 => drop(event.send()),
            5 => drop(timer.set_after(Nanos(amount * 3_000))),
            6 => drop(call::block(Nanos(time::now().0 + amount * 2_000))),
            7 => drop(call::yield_cpu()),
            8 => {
                page = (page + 1) % 512;
                let _ = space.unmap(page);
                if let Some(frame) = Frame::new() {
                    let _ = space.map(page, frame, MapFlags::WRITE);
                }
            }
            9 => (0..amount % 100).for_each(|_| {
                let _ = probe::read(0x10);
            }),
            10 => (0..amount % 50).for_each(|_| drop(Space::new())),
            11 => (0..amount % 50).for_each(|_| {
                let _ = wild::call(GrantCreate::NUMBER, [0, amount, 0, 0, 0, 0]);
                let _ = wild::call(GrantMap::NUMBER, [0, amount % 256, 0, 0x1000, 0, 0]);
            }),
            12 => drop(call::log_write(&[7; 1000][..amount as usize])),
            13 if amount < 30 => die(),
            _ => compute(amount),
        }
    }
    Ok(())
}

/// What a second vCPU does.
fn beside(seed: u64, end: u64) {
    let mut state = seed;
    while time::now().0 < end {
        match next(&mut state) % 3 {
            0 => compute(state % 100_000),
            1 => drop(call::block(Nanos(time::now().0 + state % 1_000_000))),
            _ => drop(call::vcpu_kick(VcpuId(0))),
        }
    }
}

/// Ends this life; the VM is built again.
fn die() {
    let _ = guest_sdk::trap::set_handler(guest_sdk::trap::PAGE_FAULT, |_| call::exit(1));
    let _ = guest_sdk::trap::clear_handler(guest_sdk::trap::PAGE_FAULT);
    let _ = probe::read(0x10);
}
