//! Facts, console and log.

use core::sync::atomic::Ordering;

use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{ConsoleRead, ConsoleWrite, Info, LogWrite};
use guest_sdk::protocol::flags::InfoTopic;
use guest_sdk::protocol::layout::limit;
use guest_sdk::{GuestVirt, StartInfo, Status, println, time};

use crate::case::Outcome;
use crate::scene::{self, Fresh};
use crate::{board, ensure, ensure_eq, record};

crate::cases! {
    Info "every topic" ["INFO-1"] [] every_topic;
    ConsoleWrite "how much was taken" ["CON-1"] [] write_in_pieces;
    ConsoleWrite "a console that is full" ["CON-2"] [Retry] write_until_full;
    ConsoleWrite "too much at once" ["CON-3"] [TooLong] write_too_much;
    ConsoleRead "what is typed" ["CON-4" "CON-5"] [BadAddress] read_typed;
    LogWrite "more than fits" ["LOG-1"] [] log_without_end;
}

fn info(topic: InfoTopic) -> Result<u64, Status> {
    record::make(Info { topic })
}

fn every_topic() -> Outcome {
    let start = StartInfo::of_this_vm();
    ensure_eq!(info(InfoTopic::Version)?, start.version, "version");
    ensure_eq!(info(InfoTopic::Features)?, start.features, "features");
    ensure_eq!(info(InfoTopic::OwnVm)?, u64::from(start.vm), "own VM");
    ensure_eq!(info(InfoTopic::OwnVcpu)?, 0, "own vCPU");
    ensure_eq!(info(InfoTopic::VcpuCount)?, u64::from(start.vcpus), "vCPUs");
    ensure_eq!(info(InfoTopic::MemoryFrames)?, start.memory_frames, "frames");
    let free = info(InfoTopic::PoolFrames)?;
    let space = Fresh::new()?;
    ensure!(info(InfoTopic::PoolFrames)? < free, "a space takes tables from the pool");
    drop(space);
    ensure_eq!(info(InfoTopic::PoolFrames)?, free, "frames of the pool, afterwards");
    for _ in 0..100 {
        let (before, told, after) = (time::now().0, info(InfoTopic::Time)?, time::now().0);
        ensure!((before..=after).contains(&told), "time {told} is not within {before} and {after}");
    }
    scene::second(|| {
        let told = record::make(Info { topic: InfoTopic::OwnVcpu });
        scene::words()[0].store(told.unwrap_or(u64::MAX), Ordering::SeqCst);
    })?;
    scene::wait_stopped()?;
    ensure_eq!(scene::words()[0].swap(0, Ordering::SeqCst), 1, "own vCPU of the second");
    Ok(())
}

fn write(bytes: &[u8], length: u64) -> Result<u64, Status> {
    record::make(ConsoleWrite { buffer: GuestVirt(bytes.as_ptr().addr() as u64), length })
}

fn write_in_pieces() -> Outcome {
    let text = b"conform note: this line was written in pieces\n";
    ensure_eq!(write(text, 0)?, 0, "nothing written");
    let mut done = 0;
    while done < text.len() {
        let rest = text.get(done..).unwrap_or_default();
        match write(rest, rest.len().min(7) as u64) {
            Ok(taken) => {
                ensure!((1..=7).contains(&taken), "{taken} bytes of 7 were taken");
                done += taken as usize;
            }
            Err(Status::Retry) => board::pause(),
            Err(status) => return Err(status.into()),
        }
    }
    Ok(())
}

fn write_until_full() -> Outcome {
    let mut text = [b'.'; 1000];
    for line in text.chunks_mut(200) {
        line[199] = b'\n';
    }
    println!("conform wants a slow reader");
    let end = time::now().0 + 20_000_000_000;
    while time::now().0 < end {
        match write(&text, 1000) {
            Ok(taken) => ensure!((1..=1000).contains(&taken), "{taken} bytes of 1000 were taken"),
            Err(status) => {
                ensure_eq!(status, Status::Retry, "a full console");
                // Ends the line, of which a part may have been taken.
                println!();
                return Ok(());
            }
        }
    }
    ensure!(false, "the console is never full");
    Ok(())
}

/// What must not be seen would be this case's failure.
fn write_too_much() -> Outcome {
    static TEXT: [u8; 1100] = {
        let line = *b"conform fail console_write/too-much-at-once it was written\n";
        let mut text = [0; 1100];
        let mut index = 0;
        while index < text.len() {
            text[index] = line[index % line.len()];
            index += 1;
        }
        text
    };
    let buffer = GuestVirt(TEXT.as_ptr().addr() as u64);
    scene::refuse(ConsoleWrite { buffer, length: limit::CONSOLE_BYTES + 1 }, Status::TooLong)
}

fn read(offset: u64, length: u64) -> Result<u64, Status> {
    record::make(ConsoleRead { buffer: GuestVirt(scene::buffer() + offset), length })
}

fn typed(length: usize) -> alloc::vec::Vec<u8> {
    let bytes = scene::words().iter().flat_map(|word| word.load(Ordering::SeqCst).to_le_bytes());
    bytes.take(length).collect()
}

/// What is to be typed; the line end may be either.
const LINE: &[u8] = b"conformance";

fn read_typed() -> Outcome {
    // Nothing was asked for yet; what somebody typed before is not ours.
    while read(0, 1024)? > 0 {}
    ensure_eq!(read(0, 1024)?, 0, "nothing typed");
    println!("conform wants the input `conformance`");
    let pages = [0x1000, scene::code()];
    board::wait("nothing was typed", || {
        // A buffer that cannot be written shows whether something waits, and takes nothing.
        pages.iter().all(|page| record::call(ConsoleRead::NUMBER, [*page, 64, 0, 0, 0, 0]) == Err(Status::BadAddress))
    })?;
    let mut done = 0;
    while done < LINE.len() as u64 {
        let taken = read(done, 3.min(LINE.len() as u64 - done))?;
        ensure!(taken <= 3, "{taken} bytes were put where 3 fit");
        done += taken;
        if taken == 0 {
            board::pause();
        }
    }
    let found = typed(LINE.len());
    ensure_eq!(found, LINE, "what was typed");
    let mut ends = 0;
    board::wait("the line was not ended", || matches!(read(0, 1024), Ok(1..=2)))?;
    for _ in 0..3 {
        ends += read(0, 1024)?;
        board::pause();
    }
    ensure!(ends <= 1, "bytes came twice: {ends}");
    scene::words().iter().for_each(|word| word.store(0, Ordering::SeqCst));
    Ok(())
}

/// Frames of the greatest length, faster than any line takes them.
fn log_without_end() -> Outcome {
    let buffer = GuestVirt(scene::buffer());
    for _ in 0..100 {
        record::make(LogWrite { buffer, length: limit::CONSOLE_BYTES })?;
    }
    Ok(())
}
