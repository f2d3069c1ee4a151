//! The comparison.

use core::sync::atomic::{AtomicU64, Ordering};

use functional_support::wild;
use guest_sdk::frame::Frame;
use guest_sdk::protocol::call::{CALLS, ConsoleRead};
use guest_sdk::protocol::flags::{InfoTopic, SegmentBase};
use guest_sdk::protocol::layout::{HYPERVISOR_START, LOWER_END};
use guest_sdk::protocol::shared::{TrapFrame, frame_info};
use guest_sdk::protocol::{Call, call as table};
use guest_sdk::{StartInfo, Status, call, check, check_eq, verdict};

use crate::cases::{self, BUFFER_CALLS, CASES, place};
use crate::resume;

/// A page that calls may read and write.
#[repr(align(4096))]
struct Buffer([AtomicU64; 512]);

static BUFFER: Buffer = Buffer([const { AtomicU64::new(0) }; 512]);

/// What the VM can ask about itself, as far as no time goes into it.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    facts: [u64; 7],
    bases: [u64; 3],
    debug: [u64; 6],
    frames: (u64, u64),
}

pub fn main(start: &'static StartInfo) {
    match run(start) {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run(start: &StartInfo) -> Result<(), Status> {
    let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
    let places = Places { frame: frame.number().0, frames: start.memory_frames };
    let before = snapshot()?;
    for (name, number, arguments, status) in CASES {
        let result = wild::call(*number, arguments.map(|word| places.resolve(word)));
        check_eq!(result, Err(*status), "{name}");
        check_eq!(snapshot()?, before, "{name}: state");
    }
    check_buffers();
    check_resume();
    check_unknown_numbers();
    check_nothing_to_do(&places);
    check_eq!(snapshot()?, before, "state at the end");
    let untouched = BUFFER.0.iter().all(|word| word.load(Ordering::Relaxed) == 0);
    check!(untouched, "the buffer was written");
    Ok(())
}

struct Places {
    frame: u64,
    frames: u64,
}

impl Places {
    fn resolve(&self, word: u64) -> u64 {
        match word {
            place::BUFFER => buffer(),
            place::CODE => main as fn(&'static StartInfo) as usize as u64,
            place::FRAME => self.frame,
            place::FRAMES => self.frames,
            other => other,
        }
    }
}

fn buffer() -> u64 {
    BUFFER.0.as_ptr().expose_provenance() as u64
}

fn snapshot() -> Result<Snapshot, Status> {
    let mut facts = [0; 7];
    for (fact, (topic, _, _)) in facts.iter_mut().zip(InfoTopic::ALL) {
        *fact = call::info(*topic)?;
    }
    let base = |base| call::segment_base_get(base).map(|pair| pair.1);
    let debug = |index| call::debug_register_get(index).map(|pair| pair.1);
    Ok(Snapshot {
        facts,
        bases: [base(SegmentBase::Fs)?, base(SegmentBase::KernelGs)?, base(SegmentBase::UserGs)?],
        debug: [debug(0)?, debug(1)?, debug(2)?, debug(3)?, debug(6)?, debug(7)?],
        frames: guest_sdk::frame::usage(),
    })
}

/// Every call that takes a buffer, with every buffer that is nobody's.
fn check_buffers() {
    for (name, number, arguments, index) in BUFFER_CALLS {
        for bad in cases::bad_buffers() {
            let mut arguments = *arguments;
            arguments[*index] = bad;
            check_eq!(wild::call(*number, arguments), Err(Status::BadAddress), "{name}: {bad:#x}");
        }
    }
    // Nothing waits to be read, so that a read has no use for its buffer but may look at it.
    for bad in cases::bad_buffers() {
        let read = wild::call(ConsoleRead::NUMBER, [bad, 16, 0, 0, 0, 0]);
        check!(matches!(read, Ok(0) | Err(Status::BadAddress)), "console_read: {bad:#x}: {read:?}");
    }
}

/// `resume` of nothing: the stack pointer is where the frame would be.
fn check_resume() {
    for bad in [0, 0x1000, 0xffff_8000_0000_0000, 1 << 47, u64::MAX - 7] {
        let result = resume::resume_at(bad);
        check_eq!(Status::check_register(result), Err(Status::BadAddress), "resume at {bad:#x}");
    }
    let code = main as fn(&'static StartInfo) as usize as u64;
    let frame = |rip, rsp, info| TrapFrame { rip, rsp, info, ..TrapFrame::default() };
    let frames = [
        ("user mode at kernel code", frame(code, 0x1000, frame_info::USER)),
        ("user mode on a kernel stack", frame(0x1000, buffer(), frame_info::USER)),
        ("user mode in the last page", frame(LOWER_END, 0x1000, frame_info::USER)),
        ("kernel mode in the hypervisor", frame(HYPERVISOR_START, buffer(), 0)),
        ("kernel mode in the hole", frame(1 << 47, buffer(), 0)),
        ("kernel mode with a stack of the hypervisor's", frame(code, HYPERVISOR_START, 0)),
        ("kernel mode with a stack in the hole", frame(code, 1 << 63, 0)),
    ];
    for (name, frame) in frames {
        let result = resume::resume_with(&frame);
        check_eq!(Status::check_register(result), Err(Status::BadAddress), "resume: {name}");
    }
}

/// All 2^16 numbers and some beyond.
fn check_unknown_numbers() {
    let known = |number: u64| CALLS.iter().any(|call| call.number == number);
    let beyond = [1 << 16, 1 << 31, 1 << 32, (1 << 32) | 1, 1 << 63, u64::MAX];
    for number in (0..1 << 16).chain(beyond).filter(|number| !known(*number)) {
        let result = wild::call(number, [u64::MAX; 6]);
        check_eq!(result, Err(Status::UnknownCall), "call {number}");
    }
}

/// Counts of zero succeed and do nothing.
fn check_nothing_to_do(places: &Places) {
    let page = 0x1000;
    let calls = [
        ("console_write", table::ConsoleWrite::NUMBER, [buffer(), 0, 0, 0, 0, 0]),
        ("console_read", table::ConsoleRead::NUMBER, [buffer(), 0, 0, 0, 0, 0]),
        ("trap_table_set", table::TrapTableSet::NUMBER, [buffer(), 0, 0, 0, 0, 0]),
        ("map", table::Map::NUMBER, [0, page, places.frame, 0, 0, 0]),
        ("unmap", table::Unmap::NUMBER, [0, page, 0, 0, 0, 0]),
        ("protect", table::Protect::NUMBER, [0, page, 0, 0, 0, 0]),
        ("memory_batch", table::MemoryBatch::NUMBER, [buffer(), 0, 0, 0, 0, 0]),
        ("frame_release", table::FrameRelease::NUMBER, [places.frame, 0, 0, 0, 0, 0]),
        ("frame_reclaim", table::FrameReclaim::NUMBER, [places.frame, 0, 0, 0, 0, 0]),
        ("batch", table::Batch::NUMBER, [buffer(), 0, 0, 0, 0, 0]),
    ];
    for (name, number, arguments) in calls {
        check_eq!(wild::call(number, arguments), Ok(0), "{name} of nothing");
    }
}
