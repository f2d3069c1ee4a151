//! Secrets and checks.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use functional_support::registers::All;
use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::frame::{Frame, FrameRun};
use guest_sdk::grant::{self, Grant};
use guest_sdk::protocol::flags::GrantFlags;
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::{GrantRef, Nanos, Port, StartInfo, Status, VcpuId, VmId, call, println, smp, time, verdict};
use hostile_support::board::{Board, word};

/// Frames of the secret.
const SECRET_FRAMES: u64 = 64;
/// The channel between the two witnesses.
const LINK: &str = "secret";
/// How long one look takes at most before the next.
const PERIOD: Nanos = Nanos(2_000_000);
/// A witness that nobody asks for so long gives up.
const PATIENCE: Nanos = Nanos(600_000_000_000);

/// Registers that were not what they had been set to.
static SPOILT: AtomicU64 = AtomicU64::new(0);
/// Rounds of the vCPU that keeps patterns in registers.
static ROUNDS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

/// Everything that must not change.
struct Secrets {
    seed: u64,
    memory: FrameRun,
    given: Grant,
    got: (VmId, GrantRef),
    ports: [u64; 4],
    changed: u64,
}

pub fn main(start: &'static StartInfo) {
    check_fresh(start);
    match run(start) {
        Ok(0) => verdict::pass(),
        Ok(changed) => verdict::fail(format_args!("{changed} words changed")),
        Err(error) => verdict::fail(format_args!("{error}")),
    }
}

fn run(start: &StartInfo) -> Result<u64, ChannelError> {
    let seed = 0x5ec2_e700 + u64::from(start.vm);
    let mut link = Channel::open(LINK)?;
    let peer = start.channels().iter().find(|end| guest_sdk::start::text(&end.name) == LINK);
    let peer = VmId(peer.map_or(0, |end| end.peer));
    let memory = FrameRun::new(SECRET_FRAMES, 1).ok_or(Status::QuotaExceeded)?;
    fill(|offset, bytes| memory.write(offset, bytes), SECRET_FRAMES, seed);
    let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
    fill(|offset, bytes| frame.write(offset, bytes), 1, u64::from(start.vm));
    let given = Grant::new(peer, frame, GrantFlags::empty())?;
    link.send_value(&given.reference().0)?;
    let got = (peer, GrantRef(link.receive_value()?));
    let board = Board::open("board").ok();
    let mut ports = [0; 4];
    for port in [Some(link.event().port()), board.as_ref().map(|board| board.event().port())].into_iter().flatten() {
        let Port(port) = port;
        ports[port as usize / 64] |= 1 << (port % 64);
    }
    let mut secrets = Secrets { seed, memory, given, got, ports, changed: 0 };
    smp::spawn(VcpuId(1), keep_registers)?;
    println!("ready");
    watch(&mut secrets, board.as_ref(), &mut link)?;
    STOP.store(true, Ordering::SeqCst);
    println!("{} rounds of the register keeper", ROUNDS.load(Ordering::SeqCst));
    Ok(secrets.changed)
}

/// Looks until the attacker is through; tells the partner then.
fn watch(secrets: &mut Secrets, board: Option<&Board>, link: &mut Channel) -> Result<(), ChannelError> {
    let mut last_asked = time::now();
    // The partner is asked by nobody: it waits for the neighbour.
    while board.is_none() || time::now().0 < last_asked.0 + PATIENCE.0 {
        let asked = board.map_or(0, |board| board.get(word::ASKED));
        check(secrets);
        let Some(board) = board else {
            let mut byte = [0];
            if link.try_receive(&mut byte)? > 0 {
                return link.send(b"!");
            }
            time::sleep(PERIOD);
            continue;
        };
        board.count(word::HEARTBEAT);
        board.set(word::CHANGED, secrets.changed);
        if asked != board.get(word::ANSWERED) {
            last_asked = time::now();
            board.set(word::ANSWERED, asked);
            board.ring();
        }
        if board.get(word::DONE) != 0 {
            // The partner looks for the last time while all is still there.
            link.send(b"!")?;
            return link.receive_exact(&mut [0]);
        }
        board.wait(PERIOD);
    }
    println!("FAIL nobody asked for a long time");
    Ok(())
}

/// Free memory is zero when a VM starts: nothing of another VM is left in it.
fn check_fresh(start: &StartInfo) {
    let (free, _) = guest_sdk::frame::usage();
    // What is left of it serves the heap and the secret.
    let count = free - 128 - SECRET_FRAMES;
    let Some(run) = FrameRun::new(count, 1) else {
        verdict::fail(format_args!("no memory: {free} frames"));
    };
    let mut bytes = [0; 512];
    for offset in (0..count as usize * 4096).step_by(bytes.len()) {
        let zero = run.read(offset, &mut bytes) && bytes == [0; 512];
        guest_sdk::check!(zero, "{}: memory at offset {offset:#x} is not zero", start.name());
    }
}

fn pattern(seed: u64, index: u64) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (chunk, lane) in bytes.chunks_exact_mut(8).zip(0_u64..) {
        let word = (seed ^ (index << 3 | lane)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn fill(write: impl Fn(usize, &[u8]) -> bool, frames: u64, seed: u64) {
    for index in 0..frames * 64 {
        let written = write(index as usize * 64, &pattern(seed, index));
        guest_sdk::check!(written, "fill");
    }
}

/// Lines of 64 bytes that are not what was written.
fn differences(mut read: impl FnMut(usize, &mut [u8]) -> bool, frames: u64, seed: u64) -> u64 {
    let mut bytes = [0; 64];
    (0..frames * 64).filter(|index| !read(*index as usize * 64, &mut bytes) || bytes != pattern(seed, *index)).count()
        as u64
}

/// Looks at everything.
fn check(secrets: &mut Secrets) {
    let own = StartInfo::of_this_vm().vm;
    let (peer, reference) = secrets.got;
    let pending: u64 = Vcpu::current()
        .page()
        .pending
        .iter()
        .zip(secrets.ports)
        .map(|(word, known)| u64::from((word.load(Ordering::Relaxed) & !known).count_ones()))
        .sum();
    let found = [
        ("memory", differences(|offset, bytes| secrets.memory.read(offset, bytes), SECRET_FRAMES, secrets.seed)),
        ("granted frame", differences(|offset, bytes| secrets.given.frame().read(offset, bytes), 1, own.into())),
        (
            "frame of the partner",
            differences(
                |offset, bytes| grant::copy_from(peer, reference, offset as u64, bytes).is_ok(),
                1,
                peer.0.into(),
            ),
        ),
        ("registers", SPOILT.swap(0, Ordering::SeqCst)),
        ("pending events", pending),
    ];
    for (what, count) in found.into_iter().filter(|(_, count)| *count > 0) {
        println!("FAIL {what}: {count} changed");
        secrets.changed += count;
    }
}

/// What the other vCPU does: holds patterns in all its registers while others run.
fn keep_registers() {
    for seed in 1_u64.. {
        if STOP.load(Ordering::Relaxed) {
            return;
        }
        let expected = All::pattern(seed);
        let mut all = expected.clone();
        all.spin(20_000);
        let general = all.general.iter().zip(expected.general).filter(|(now, before)| **now != *before).count();
        let vectors = all.vectors.iter().zip(expected.vectors).filter(|(now, before)| **now != *before).count();
        SPOILT.fetch_add((general + vectors) as u64, Ordering::SeqCst);
        ROUNDS.fetch_add(1, Ordering::Relaxed);
        let _ = call::block(Nanos(time::now().0 + 500_000));
    }
}
