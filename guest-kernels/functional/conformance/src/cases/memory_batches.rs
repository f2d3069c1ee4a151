//! Batches of memory operations and of calls.

use alloc::vec;
use alloc::vec::Vec;

use guest_sdk::frame::FrameRun;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{Batch, Info, MemoryBatch, SegmentBaseGet, Translate};
use guest_sdk::protocol::flags::{InfoTopic, MapFlags, MemoryOperation};
use guest_sdk::protocol::layout::{HYPERVISOR_START, KERNEL_START, PAGE_SIZE, TIME_PAGE_FRAME, limit};
use guest_sdk::protocol::shared::{BatchEntry, MemoryBatchEntry};
use guest_sdk::{GuestVirt, SpaceId, StartInfo, Status};

use super::generated;
use super::grants::Mapped;
use super::mapping::PAGE;
use crate::case::{Fault, Outcome};
use crate::scene::{self, Fresh};
use crate::{ensure, ensure_eq, record};

crate::cases! {
    MemoryBatch "entries one after the other" ["MAP-12" "MAP-13"] [NotMapped AlreadyMapped] in_order;
    MemoryBatch "a first entry that is refused" ["MAP-13"] [NotFound InvalidArgument Misaligned AlreadyMapped
        NotPermitted NotMapped BadAddress TooLong] first_refused;
    MemoryBatch "with an empty pool" ["MAP-13"] [QuotaExceeded] empty_pool;
    MemoryBatch "a page of a grant" ["MAP-13"] [Busy] grant;
    MemoryBatch "entries that cannot be read" [] [BadAddress TooLong] unreadable;
    Batch "each with its own result" ["BAT-1"] [] own_results;
    Batch "too many" ["BAT-1"] [TooLong BadAddress] too_many;
}

fn entry(operation: MemoryOperation, space: SpaceId, page: u64, frame: u64) -> MemoryBatchEntry {
    MemoryBatchEntry {
        operation: operation.number() as u32,
        space: space.0,
        address: PAGE + page * PAGE_SIZE,
        frame,
        count: 1,
        flags: 0,
    }
}

fn call_of(entries: &[MemoryBatchEntry]) -> MemoryBatch {
    MemoryBatch { entries: GuestVirt(entries.as_ptr().addr() as u64), count: entries.len() as u64 }
}

/// Does all, in pieces when it stops early.
fn finish(mut entries: &[MemoryBatchEntry]) -> Outcome {
    while !entries.is_empty() {
        let done = record::make(call_of(entries))?;
        ensure!(done > 0 && done <= entries.len() as u64, "{done} of {} were done", entries.len());
        entries = entries.get(done as usize..).unwrap_or_default();
    }
    Ok(())
}

fn in_order() -> Outcome {
    use MemoryOperation::{Map, Protect, Unmap};
    let run = FrameRun::new(64, 1).ok_or_else(|| Fault("the suite has too little memory".into()))?;
    let space = Fresh::new()?;
    let maps: Vec<_> = (0..64).map(|page| entry(Map, space.0, page, run.first().0 + page)).collect();
    finish(&maps)?;
    let far = record::make(Translate { space: space.0, address: GuestVirt(PAGE + 63 * PAGE_SIZE) })?;
    ensure_eq!(far.0, run.first().0 + 63, "frame of the last entry");
    ensure_eq!(record::make(call_of(&maps)), Err(Status::AlreadyMapped), "all of them again");
    let mixed = [
        MemoryBatchEntry { flags: MapFlags::WRITE.bits(), ..entry(Protect, space.0, 3, 0) },
        entry(Unmap, space.0, 3, 0),
        entry(Unmap, space.0, 3, 0),
        entry(Unmap, space.0, 4, 0),
    ];
    let done = record::make(call_of(&mixed))?;
    ensure!((1..=2).contains(&done), "{done} entries were done of 2 that can be");
    finish(mixed.get(done as usize..2).unwrap_or_default())?;
    let rest = mixed.get(2..).unwrap_or_default();
    ensure_eq!(record::make(call_of(rest)), Err(Status::NotMapped), "an entry for a page that is gone");
    let untouched = record::make(Translate { space: space.0, address: GuestVirt(PAGE + 4 * PAGE_SIZE) });
    ensure!(untouched.is_ok(), "an entry behind a refused one was done");
    // An entry that is done in part is not done.
    let partial = [MemoryBatchEntry { count: 512, ..entry(Unmap, space.0, 4, 0) }];
    let stopped = record::make(call_of(&partial));
    ensure_eq!(stopped, Err(Status::NotMapped), "an entry that stops at a later page");
    Ok(())
}

fn first_refused() -> Outcome {
    use MemoryOperation::{Map, Protect, Unmap};
    let space = Fresh::new()?;
    let frames = StartInfo::of_this_vm().memory_frames;
    let good = |operation| entry(operation, space.0, 0, 0);
    let map = MemoryBatchEntry { frame: 5, ..good(Map) };
    let first = |address| MemoryBatchEntry { space: 0, address, ..map };
    let refused = [
        (MemoryBatchEntry { operation: 0, ..map }, Status::InvalidArgument),
        (MemoryBatchEntry { operation: 4, ..map }, Status::InvalidArgument),
        (MemoryBatchEntry { operation: u32::MAX, ..map }, Status::InvalidArgument),
        (MemoryBatchEntry { flags: 8, ..map }, Status::InvalidArgument),
        (MemoryBatchEntry { flags: 1 << 63, ..map }, Status::InvalidArgument),
        (MemoryBatchEntry { frame: frames, ..map }, Status::InvalidArgument),
        (MemoryBatchEntry { frame: 1, ..good(Unmap) }, Status::InvalidArgument),
        (MemoryBatchEntry { flags: 1, ..good(Unmap) }, Status::InvalidArgument),
        (MemoryBatchEntry { frame: 1, ..good(Protect) }, Status::InvalidArgument),
        (MemoryBatchEntry { space: 62, ..map }, Status::NotFound),
        (MemoryBatchEntry { space: u32::MAX, ..good(Unmap) }, Status::NotFound),
        (MemoryBatchEntry { address: PAGE + 8, ..map }, Status::Misaligned),
        (MemoryBatchEntry { frame: TIME_PAGE_FRAME.0, flags: 1, ..map }, Status::NotPermitted),
        (MemoryBatchEntry { count: 513, ..map }, Status::TooLong),
        (MemoryBatchEntry { count: u64::MAX, ..good(Unmap) }, Status::TooLong),
        (MemoryBatchEntry { address: HYPERVISOR_START, ..map }, Status::BadAddress),
        (first(scene::buffer()), Status::AlreadyMapped),
        (good(Unmap), Status::NotMapped),
        (good(Protect), Status::NotMapped),
    ];
    refused.into_iter().try_for_each(|(entry, status)| scene::refuse(call_of(&[entry, map]), status))
}

fn empty_pool() -> Outcome {
    let space = Fresh::new()?;
    space.drain_pool()?;
    let far = MemoryBatchEntry { address: 0x7000_0000_0000, ..entry(MemoryOperation::Map, space.0, 0, 5) };
    scene::refuse(call_of(&[far]), Status::QuotaExceeded)
}

fn grant() -> Outcome {
    let mapped = Mapped::new(PAGE, MapFlags::empty())?;
    scene::refuse(call_of(&[entry(MemoryOperation::Unmap, mapped.space(), 0, 0)]), Status::Busy)?;
    scene::refuse(call_of(&[entry(MemoryOperation::Protect, mapped.space(), 0, 0)]), Status::Busy)?;
    mapped.end()
}

fn unreadable() -> Outcome {
    for count in [limit::BATCH + 1, 1 << 32, u64::MAX] {
        scene::refuse(MemoryBatch { entries: GuestVirt(scene::buffer()), count }, Status::TooLong)?;
    }
    for entries in [0x1000, HYPERVISOR_START, KERNEL_START - 8, u64::MAX] {
        scene::refuse(MemoryBatch { entries: GuestVirt(entries), count: 1 }, Status::BadAddress)?;
    }
    Ok(())
}

fn own_results() -> Outcome {
    let topic = |topic: InfoTopic| (Info::NUMBER, [topic.number(), 0, 0, 0, 0, 0]);
    let calls = [
        topic(InfoTopic::VcpuCount),
        (Info::NUMBER, [77, 0, 0, 0, 0, 0]),
        (9999, [0; 6]),
        (SegmentBaseGet::NUMBER, [1, 0, 0, 0, 0, 0]),
        topic(InfoTopic::OwnVm),
    ];
    let entries = generated::batch(&calls)?;
    let results: Vec<_> = entries.iter().map(|entry| Status::check_register(entry.result)).collect();
    let start = StartInfo::of_this_vm();
    let wanted = [
        Ok(u64::from(start.vcpus)),
        Err(Status::InvalidArgument),
        Err(Status::UnknownCall),
        Ok(0),
        Ok(u64::from(start.vm)),
    ];
    ensure_eq!(results, wanted, "results");
    ensure!(entries[3].second >= KERNEL_START, "the second result is {:#x}", entries[3].second);
    let most = vec![topic(InfoTopic::VcpuCount); limit::BATCH as usize];
    let all = generated::batch(&most)?;
    ensure!(all.iter().all(|entry| entry.result == u64::from(start.vcpus)), "results of the greatest number");
    Ok(())
}

fn too_many() -> Outcome {
    for count in [limit::BATCH + 1, 1 << 32, u64::MAX] {
        scene::refuse(Batch { entries: GuestVirt(scene::buffer()), count }, Status::TooLong)?;
    }
    // Entries whose result cannot be written.
    static ENTRY: BatchEntry = BatchEntry { number: 0, arguments: [0; 6], result: 0, second: 0 };
    let entries = GuestVirt((&raw const ENTRY).addr() as u64);
    scene::refuse(Batch { entries, count: 1 }, Status::BadAddress)
}
