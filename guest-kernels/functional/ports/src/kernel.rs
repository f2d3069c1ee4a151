//! The checks.

use functional_support::wild;
use guest_sdk::io_port::{IoPort, Value};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{IoRead, IoWrite};
use guest_sdk::{Nanos, StartInfo, Status, call, check, check_eq, println, verdict};

use crate::instructions;

/// The index and the data port of the real-time clock.
const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
/// Registers of the clock.
const SECONDS: u8 = 0;
const STATUS_B: u8 = 0xb;
const STATUS_A: u8 = 0xa;
/// In status A: the clock is between two times.
const UPDATING: u8 = 1 << 7;
/// In status B: numbers are binary, not decimal digits.
const BINARY: u8 = 1 << 2;

pub fn main(start: &'static StartInfo) {
    let is_driver = start.command_line() == "driver";
    match run(is_driver) {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run(is_driver: bool) -> Result<(), Status> {
    instructions::install()?;
    for port in [INDEX, DATA, 0x3f8, 0xcf8, 0x80, 0, 0xffff] {
        let (faulted, all) = instructions::execute(port);
        check_eq!(faulted, all, "port instructions that fault on {port:#x}");
    }
    check_refusals(is_driver);
    if is_driver { read_clock() } else { Ok(()) }
}

/// Whether an access of each width is refused.
fn is_refused<T: Value>(port: u16) -> bool {
    IoPort::<T>::new(port).read().err() == Some(Status::NotPermitted)
        && IoPort::<T>::new(port).write(T::from_register(0)) == Err(Status::NotPermitted)
}

fn check_refusals(is_driver: bool) {
    for port in [0, 0x20, 0x40, 0x60, 0x64, 0x6f, 0x72, 0x92, 0xcf8, 0xcfc, 0x3f8, 0xf4, 0x514, 0x8900, 0xffff] {
        check!(is_refused::<u8>(port) && is_refused::<u16>(port) && is_refused::<u32>(port), "port {port:#x}");
    }
    if !is_driver {
        check!(is_refused::<u8>(INDEX) && is_refused::<u8>(DATA), "the clock's ports");
    }
    // Of each access, one port is not the driver's.
    check!(is_refused::<u16>(DATA) && is_refused::<u16>(INDEX - 1), "a word across the end");
    check!(is_refused::<u32>(INDEX) && is_refused::<u32>(INDEX - 2), "a long across the end");
    for port in [1 << 16 | u64::from(INDEX), u64::from(u32::MAX)] {
        check_eq!(wild::call(IoRead::NUMBER, [port, 1, 0, 0, 0, 0]), Err(Status::NotPermitted), "port {port:#x}");
    }
    for width in [0, 3, 5, 8, 1 << 32 | 1, u64::MAX] {
        let [read, write] =
            [IoRead::NUMBER, IoWrite::NUMBER].map(|number| wild::call(number, [INDEX.into(), width, 0, 0, 0, 0]));
        check_eq!((read, write), (Err(Status::InvalidArgument), Err(Status::InvalidArgument)), "width {width}");
    }
    let wanted = if is_driver { Status::InvalidArgument } else { Status::NotPermitted };
    for (width, value) in [(1, 0x100), (2, 0x1_0000)] {
        let write = wild::call(IoWrite::NUMBER, [INDEX.into(), width, value, 0, 0, 0]);
        check_eq!(write, Err(wanted), "value {value:#x} in width {width}");
    }
}

/// Reads a register of the clock.
fn register(number: u8) -> Result<u8, Status> {
    IoPort::<u8>::new(INDEX).write(number)?;
    IoPort::<u8>::new(DATA).read()
}

/// The clock's seconds.
fn seconds() -> Result<u8, Status> {
    while register(STATUS_A)? & UPDATING != 0 {
        call::yield_cpu()?;
    }
    let seconds = register(SECONDS)?;
    let is_binary = register(STATUS_B)? & BINARY != 0;
    Ok(if is_binary { seconds } else { (seconds >> 4) * 10 + (seconds & 0xf) })
}

/// The clock ticks: its seconds are a time's, and go on by one.
fn read_clock() -> Result<(), Status> {
    let start = seconds()?;
    check!(start < 60, "the clock says second {start}");
    let mut next = start;
    while next == start {
        call::block(Nanos(guest_sdk::time::now().0 + 10_000_000))?;
        next = seconds()?;
    }
    check_eq!(next, (start + 1) % 60, "the second after {start}");
    println!("the clock ticks");
    Ok(())
}
