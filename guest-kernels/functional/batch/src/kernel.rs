//! The checks.

use functional_support::batch::{calls, memory};
use guest_sdk::frame::FrameRun;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{
    Batch, Block, CALLS, EventAlloc, EventClose, Info, MemoryBatch, SegmentBaseGet, YieldCpu,
};
use guest_sdk::protocol::flags::{InfoTopic, MapFlags, MemoryOperation};
use guest_sdk::protocol::shared::{BatchEntry, MemoryBatchEntry};
use guest_sdk::space::Space;
use guest_sdk::{StartInfo, Status, call, check, check_eq, smp, verdict};

pub fn main(_start: &'static StartInfo) {
    match run() {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run() -> Result<(), Status> {
    check_results()?;
    check_calls_alone()?;
    check_greatest()?;
    check_memory()
}

fn entry(number: u64, arguments: [u64; 6]) -> BatchEntry {
    BatchEntry { number, arguments, result: 0xaaaa, second: 0xbbbb }
}

/// Makes all calls: a batch may stop early, and is then called again for the rest.
fn call_all(mut entries: &mut [BatchEntry]) -> Result<(), Status> {
    while !entries.is_empty() {
        let done = calls(entries)?;
        check!(done > 0 && done <= entries.len() as u64, "{done} calls of {} made", entries.len());
        entries = entries.get_mut(done as usize..).unwrap_or_default();
    }
    Ok(())
}

/// Values, refusals and second results, each at its place.
fn check_results() -> Result<(), Status> {
    let topic = |topic: InfoTopic| entry(Info::NUMBER, [topic.number(), 0, 0, 0, 0, 0]);
    let mut entries = [
        topic(InfoTopic::VcpuCount),
        topic(InfoTopic::OwnVcpu),
        entry(Info::NUMBER, [77, 0, 0, 0, 0, 0]),
        entry(9999, [0; 6]),
        entry(SegmentBaseGet::NUMBER, [1, 0, 0, 0, 0, 0]),
        entry(EventAlloc::NUMBER, [0; 6]),
        entry(EventAlloc::NUMBER, [0; 6]),
    ];
    call_all(&mut entries)?;
    let results = entries.map(|entry| Status::check_register(entry.result));
    check_eq!(results[0], Ok(u64::from(smp::count())), "vCPUs");
    check_eq!(results[1], Ok(0), "own vCPU");
    check_eq!(results[2], Err(Status::InvalidArgument), "unknown topic");
    check_eq!(results[3], Err(Status::UnknownCall), "unknown call");
    check_eq!(results[4], Ok(0), "first result");
    check!(entries[4].second >= 0xffff_8800_0000_0000, "second result");
    let [.., first, second] = results;
    check!(first.is_ok() && second.is_ok() && first != second, "two ports: {first:?}, {second:?}");
    for port in [first, second].into_iter().flatten() {
        let mut close = [entry(EventClose::NUMBER, [port, 0, 0, 0, 0, 0])];
        call_all(&mut close)?;
        check_eq!(close[0].result, 0, "close port {port}");
    }
    Ok(())
}

/// Every call that stands alone gets `NotInBatch`, and the batch goes on.
fn check_calls_alone() -> Result<(), Status> {
    for info in CALLS.iter().filter(|info| !info.in_batch) {
        let mut entries = [entry(info.number, [0; 6]), entry(Info::NUMBER, [0; 6])];
        call_all(&mut entries)?;
        let result = Status::check_register(entries[0].result);
        check_eq!(result, Err(Status::NotInBatch), "{} in a batch", info.name);
        check_eq!(entries[1].result, call::info(InfoTopic::Version)?, "the call behind it");
    }
    for number in [YieldCpu::NUMBER, Block::NUMBER, Batch::NUMBER, MemoryBatch::NUMBER] {
        check!(CALLS.iter().any(|info| info.number == number && !info.in_batch), "call {number}");
    }
    Ok(())
}

/// As many calls as fit.
fn check_greatest() -> Result<(), Status> {
    let mut entries = [entry(Info::NUMBER, [InfoTopic::OwnVm.number(), 0, 0, 0, 0, 0]); 64];
    call_all(&mut entries)?;
    let own = call::info(InfoTopic::OwnVm)?;
    check!(entries.iter().all(|entry| entry.result == own), "results of 64 calls");
    Ok(())
}

fn check_memory() -> Result<(), Status> {
    const PAGE: u64 = 0x40_0000;
    let Some(run) = FrameRun::new(64, 1) else {
        return Err(Status::QuotaExceeded);
    };
    let space = Space::new()?;
    let operation = |operation: MemoryOperation, index: u64, frame: u64| MemoryBatchEntry {
        operation: operation.number() as u32,
        space: space.id().0,
        address: PAGE + index * 4096,
        frame,
        count: 1,
        flags: if operation == MemoryOperation::Map { MapFlags::WRITE.bits() } else { 0 },
    };
    let map = |index: u64| operation(MemoryOperation::Map, index, run.first().0 + index);
    let maps: [_; 64] = core::array::from_fn(|index| map(index as u64));
    finish(&maps)?;
    check_eq!(memory(&maps), Err(Status::AlreadyMapped), "map again");
    let mixed = [
        operation(MemoryOperation::Protect, 3, 0),
        operation(MemoryOperation::Unmap, 3, 0),
        operation(MemoryOperation::Unmap, 3, 0),
        operation(MemoryOperation::Unmap, 4, 0),
    ];
    check_eq!(memory(&mixed), Ok(2), "stops at the first that is refused");
    let rest = mixed.get(2..).unwrap_or_default();
    check_eq!(memory(rest), Err(Status::NotMapped), "which is then the first");
    let unmaps: [_; 60] = core::array::from_fn(|index| operation(MemoryOperation::Unmap, index as u64 + 4, 0));
    finish(&unmaps)
}

fn finish(mut entries: &[MemoryBatchEntry]) -> Result<(), Status> {
    while !entries.is_empty() {
        let done = memory(entries)?;
        entries = entries.get(done as usize..).unwrap_or_default();
    }
    Ok(())
}
