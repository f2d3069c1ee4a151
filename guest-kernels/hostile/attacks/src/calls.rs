//! Attacks on the arguments of calls, on buffers, events and scheduling.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::event::{self, Event};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{
    Batch, CALLS, ConsoleRead, ConsoleWrite, Cpuid, EventAlloc, EventBind, EventClose, EventSend, FrameReclaim,
    FrameRelease, Info, LogWrite, Map, MemoryBatch, Protect, SegmentBaseGet, SpaceCreate, SpaceDestroy, TrapTableSet,
    Unmap, VcpuKick, VcpuStart, VcpuStop,
};
use guest_sdk::protocol::flags::{EventSource, InfoTopic, MapFlags, MemoryOperation};
use guest_sdk::protocol::layout::{HYPERVISOR_START, LOWER_END, VCPU_PAGES};
use guest_sdk::protocol::shared::{BatchEntry, MemoryBatchEntry};
use guest_sdk::raw::vcpu::Vcpu;
use guest_sdk::{GuestVirt, Nanos, Port, SpaceId, Status, VcpuId, call, time};
use hostile_support::wild::{self, go};

use crate::workers::race;
use crate::world::{
    Case, FIRST, ONES, OTHER, Outcome, PLACE, READ, VCPU, WRITE, World, buffer, buffer_address, case, code_address,
    death, map, set_buffer, unmap,
};
use crate::{hold, same};

/// The cases of this group.
pub const CASES: &[Case] = &[
    case("HC-01", arrays_across_the_border),
    case("HC-02", what_results_bring_along),
    case("HC-03", one_too_many),
    case("HC-04", lengths),
    case("HC-05", capacities),
    case("HC-06", lengths_with_a_sign),
    case("HC-07", nothing_to_do),
    case("HC-08", more_than_there_is),
    case("HC-09", spoilt_vcpu_page),
    case("HC-10", arguments_that_flip),
    case("HC-11", buffers_that_come_and_go),
    case("HC-12", overlapping_buffers),
    case("HC-13", unknown_numbers),
    case("HC-14", forced_continuations),
    case("HC-15", batches_of_batches),
    case("HC-16", bits_at_the_edges),
    case("HC-17", exact_statuses),
    case("HC-18", one_result_each),
    case("PR-01", every_power_of_two),
    case("PR-02", good_and_bad_mixed),
    case("PR-03", long_calls_at_once),
    case("PR-05", readers_against_a_writer),
    case("PR-07", queries_without_end),
    case("PR-09", yields_without_end),
    case("EV-01", used_before_it_is_there),
    case("EV-02", every_port),
    case("EV-03", ports_that_come_and_go),
    case("EV-05", channels_that_are_not_there),
    case("EV-06", bound_twice),
    case("EV-07", all_ports),
    case("EV-08", ports_of_nobody),
    case("EV-09", storm_on_the_neighbour),
    case("EV-10", pending_and_moved),
    case("EV-11", sent_to_nobody),
    case("EV-12", no_wake_up_is_lost),
    case("PO-01", sizes_and_numbers),
    death("EV-04", die_with_all_ports, "HV-VM-003"),
    death("PR-04", die_with_long_work, "HV-VM-003"),
    death("PR-08", die_where_no_report_can_read, "HV-VM-001"),
];

fn text(status: Status) -> String {
    format!("{status}")
}

/// The address of an array that the hypervisor may write.
fn of<T>(array: &mut [T]) -> GuestVirt {
    GuestVirt(array.as_mut_ptr().expose_provenance() as u64)
}

fn info(topic: InfoTopic) -> BatchEntry {
    BatchEntry { number: Info::NUMBER, arguments: [topic.number(), 0, 0, 0, 0, 0], ..BatchEntry::default() }
}

fn arrays_across_the_border(w: &mut World) -> Outcome {
    // The last page of the lower half: an array that begins in it and ends behind it.
    same!(map(FIRST, LOWER_END - 4096, w.loose, 1, WRITE), Ok(1), "the last page");
    for word in 0..512 {
        hold!(w.code.write(LOWER_END - 4096 + word * 8, 0).is_ok(), "clear");
    }
    let entries = GuestVirt(LOWER_END - 72);
    same!(go(Batch { entries, count: 2 }), Ok(1), "a batch with one entry beyond");
    same!(go(Batch { entries, count: 64 }), Ok(1), "a batch with 63 entries beyond");
    let entries = GuestVirt(LOWER_END - 40);
    same!(go(MemoryBatch { entries, count: 2 }), Err(Status::InvalidArgument), "a memory batch of zeros");
    hold!(w.code.write(LOWER_END - 16, 31).is_ok() && w.code.write(LOWER_END - 8, 0).is_ok(), "a handler");
    same!(go(TrapTableSet { table: GuestVirt(LOWER_END - 16), count: 2 }), Err(Status::BadAddress), "a table");
    // Bases from which the index leads into the hypervisor or around.
    for base in [HYPERVISOR_START - 72, ONES - 71, ONES - 4607, 0xffff_7fff_ffff_ffb8] {
        same!(go(Batch { entries: GuestVirt(base), count: 64 }), Err(Status::BadAddress), "a batch at {base:#x}");
        let batch = go(MemoryBatch { entries: GuestVirt(base), count: 64 });
        same!(batch, Err(Status::BadAddress), "a memory batch at {base:#x}");
        let table = go(TrapTableSet { table: GuestVirt(base), count: 32 });
        same!(table, Err(Status::BadAddress), "a table at {base:#x}");
    }
    same!(unmap(FIRST, LOWER_END - 4096, 1), Ok(1), "undo");
    Ok(())
}

fn what_results_bring_along(_w: &mut World) -> Outcome {
    // What fills the hypervisor's unused memory is looked for by the hypervisor itself, in all that a guest can read.
    let mark = 0xa5a5_a5a5_a5a5_a5a5;
    let leaves = (0..0x20).chain(0x8000_0000..0x8000_0009).chain([0x4000_0000, 0xffff_ffff]);
    for leaf in leaves {
        for subleaf in [0, 1, 2, 9, 0xffff_ffff] {
            set_buffer(&[mark; 16]);
            let result = GuestVirt(buffer_address() + 32);
            same!(go(Cpuid { leaf, subleaf, result }), Ok(()), "leaf {leaf:#x}");
            for word in (0..4).chain(6..16) {
                same!(buffer(word).load(Ordering::SeqCst), mark, "word {word} beside leaf {leaf:#x}");
            }
            for word in [4, 5] {
                let found = buffer(word).load(Ordering::SeqCst);
                hold!(found >> 47 != 0x1_ffff, "leaf {leaf:#x}: {found:#x}");
            }
        }
    }
    // A batch writes results only, and nothing of the entry's arguments.
    let mut entries = [info(InfoTopic::OwnVm), BatchEntry { number: SegmentBaseGet::NUMBER, ..BatchEntry::default() }];
    hold!(matches!(go(Batch { entries: of(&mut entries), count: 2 }), Ok(1..=2)), "batch");
    let entries = core::hint::black_box(entries);
    same!(entries[0].arguments, [InfoTopic::OwnVm.number(), 0, 0, 0, 0, 0], "arguments");
    same!((entries[0].second, entries[1].arguments), (0, [0; 6]), "the rest");
    set_buffer(&[0; 16]);
    Ok(())
}

fn one_too_many(w: &mut World) -> Outcome {
    let vcpus = u64::from(w.start.vcpus);
    let (entry, stack) = (code_address(), buffer_address());
    for number in [vcpus, vcpus + 1, 15, 16, 17, 255, 256, 1 << 31, u64::from(u32::MAX)] {
        let no = Err(Status::NotFound);
        same!(wild::call(VcpuStart::NUMBER, [number, entry, stack, 0, 0, 0]), no, "start {number}");
        same!(wild::call(VcpuStop::NUMBER, [number, 0, 0, 0, 0, 0]), no, "stop {number}");
        same!(wild::call(VcpuKick::NUMBER, [number, 0, 0, 0, 0, 0]), no, "kick {number}");
        same!(wild::call(EventAlloc::NUMBER, [number, 0, 0, 0, 0, 0]), no, "a port for {number}");
    }
    for number in [1 << 32, ONES, 1 << 63] {
        let no = Err(Status::InvalidArgument);
        same!(wild::call(VcpuStop::NUMBER, [number, 0, 0, 0, 0, 0]), no, "stop {number}");
        same!(wild::call(VcpuKick::NUMBER, [number, 0, 0, 0, 0, 0]), no, "kick {number}");
        same!(wild::call(EventSend::NUMBER, [number, 0, 0, 0, 0, 0]), no, "send {number}");
        same!(wild::call(SpaceDestroy::NUMBER, [number, 0, 0, 0, 0, 0]), no, "destroy {number}");
    }
    let event = Event::new(VCPU).map_err(text)?;
    let port = u64::from(event.port().0);
    for (source, index) in
        [(1, 1), (2, vcpus), (2, vcpus + 1), (3, w.start.channels().len() as u64), (3, 8), (2, 1 << 32), (3, ONES)]
    {
        let bound = wild::call(EventBind::NUMBER, [port, source, index, 0, 0, 0]);
        same!(bound, Err(Status::InvalidArgument), "source {source}, index {index}");
    }
    for source in [0, 4, 5, 1 << 32, ONES] {
        let bound = wild::call(EventBind::NUMBER, [port, source, 0, 0, 0, 0]);
        same!(bound, Err(Status::InvalidArgument), "source {source}");
    }
    for topic in [InfoTopic::ALL.len() as u64 + 8, 255, 1 << 32, ONES] {
        same!(wild::call(Info::NUMBER, [topic, 0, 0, 0, 0, 0]), Err(Status::InvalidArgument), "topic {topic}");
    }
    Ok(())
}

fn lengths(_w: &mut World) -> Outcome {
    let address = buffer_address();
    for (length, expected) in
        [(0, Ok(0)), (1025, Err(Status::TooLong)), (1 << 32, Err(Status::TooLong)), (ONES, Err(Status::TooLong))]
    {
        same!(wild::call(ConsoleRead::NUMBER, [address, length, 0, 0, 0, 0]), expected, "read {length}");
        same!(wild::call(ConsoleWrite::NUMBER, [address, length, 0, 0, 0, 0]), expected, "write {length}");
        if length != 0 {
            same!(wild::call(LogWrite::NUMBER, [address, length, 0, 0, 0, 0]), expected, "log {length}");
        }
    }
    same!(wild::call(ConsoleRead::NUMBER, [address, 1024, 0, 0, 0, 0]), Ok(0), "read the limit");
    Ok(())
}

fn capacities(w: &mut World) -> Outcome {
    let mut entries = [info(InfoTopic::OwnVm); 65];
    let done = go(Batch { entries: of(&mut entries), count: 64 });
    hold!(matches!(done, Ok(1..=64)), "64 entries: {done:?}");
    same!(go(Batch { entries: of(&mut entries), count: 65 }), Err(Status::TooLong), "65 entries");
    let mut table = [guest_sdk::protocol::shared::TrapEntry { vector: 31, flags: 0, handler: 0 }; 33];
    same!(go(TrapTableSet { table: of(&mut table), count: 33 }), Err(Status::TooLong), "33 handlers");
    for (number, limit) in [(FrameRelease::NUMBER, 64), (FrameReclaim::NUMBER, 64)] {
        let over = wild::call(number, [w.loose, limit + 1, 0, 0, 0, 0]);
        same!(over, Err(Status::TooLong), "call {number}");
    }
    same!(map(FIRST, PLACE, w.loose, 512, READ), Ok(512), "512 pages");
    same!(unmap(FIRST, PLACE, 513), Err(Status::TooLong), "513 pages");
    same!(unmap(FIRST, PLACE, 512), Ok(512), "undo");
    Ok(())
}

fn lengths_with_a_sign(w: &mut World) -> Outcome {
    let address = buffer_address();
    for length in [0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff_fc00, 1 << 63, (1 << 63) - 1] {
        for number in [
            ConsoleWrite::NUMBER,
            ConsoleRead::NUMBER,
            LogWrite::NUMBER,
            TrapTableSet::NUMBER,
            Batch::NUMBER,
            MemoryBatch::NUMBER,
        ] {
            same!(
                wild::call(number, [address, length, 0, 0, 0, 0]),
                Err(Status::TooLong),
                "call {number}, {length:#x}"
            );
        }
        same!(map(FIRST, PLACE, w.loose, length, READ), Err(Status::TooLong), "map {length:#x}");
    }
    Ok(())
}

fn nothing_to_do(w: &mut World) -> Outcome {
    let address = buffer_address();
    let calls = [
        (ConsoleWrite::NUMBER, [address, 0, 0, 0, 0, 0]),
        (ConsoleRead::NUMBER, [address, 0, 0, 0, 0, 0]),
        (TrapTableSet::NUMBER, [address, 0, 0, 0, 0, 0]),
        (Map::NUMBER, [0, PLACE, w.loose, 0, 0, 0]),
        (Unmap::NUMBER, [0, PLACE, 0, 0, 0, 0]),
        (Protect::NUMBER, [0, PLACE, 0, 0, 0, 0]),
        (MemoryBatch::NUMBER, [address, 0, 0, 0, 0, 0]),
        (FrameRelease::NUMBER, [w.loose, 0, 0, 0, 0, 0]),
        (FrameReclaim::NUMBER, [w.loose, 0, 0, 0, 0, 0]),
        (Batch::NUMBER, [address, 0, 0, 0, 0, 0]),
    ];
    let before = crate::world::pool();
    for (number, arguments) in calls {
        same!(wild::call(number, arguments), Ok(0), "call {number} of nothing");
    }
    same!(crate::world::pool(), before, "the pool");
    same!(map(FIRST, PLACE, w.loose, 1, READ), Ok(1), "nothing is there");
    same!(unmap(FIRST, PLACE, 1), Ok(1), "undo");
    Ok(())
}

fn more_than_there_is(w: &mut World) -> Outcome {
    same!(map(FIRST, PLACE, w.loose, 1, WRITE), Ok(1), "one page");
    for word in 0..512 {
        hold!(w.code.write(PLACE + word * 8, 0).is_ok(), "clear");
    }
    let entries = GuestVirt(PLACE + 4096 - 2 * 72);
    let done = go(Batch { entries, count: 64 });
    hold!(matches!(done, Ok(1..=2)), "two entries of 64 are there: {done:?}");
    let entries = GuestVirt(PLACE + 4096 - 40);
    same!(go(MemoryBatch { entries, count: 64 }), Err(Status::InvalidArgument), "one of 64, and that is zero");
    same!(go(MemoryBatch { entries: GuestVirt(PLACE + 4096), count: 1 }), Err(Status::BadAddress), "none");
    hold!(w.code.write(PLACE + 4080, 31).is_ok() && w.code.write(PLACE + 4088, 0).is_ok(), "a handler");
    let table = GuestVirt(PLACE + 4096 - 16);
    same!(go(TrapTableSet { table, count: 32 }), Err(Status::BadAddress), "one handler of 32");
    same!(unmap(FIRST, PLACE, 1), Ok(1), "undo");
    Ok(())
}

fn spoilt_vcpu_page(w: &mut World) -> Outcome {
    let _masked = event::masked();
    let page = VCPU_PAGES.0;
    let saved: Vec<u64> = (0..512).map(|word| w.code.read(page + word * 8).unwrap_or(0)).collect();
    for value in [ONES, 0x8000_0000_0000_0000, HYPERVISOR_START, 1] {
        for word in 0..512_u64 {
            // All but the words of the mask, which would let events in while the page is spoilt.
            let value = if word == 8 { value | 1 } else { value };
            hold!(w.code.write(page + word * 8, value).is_ok(), "write");
        }
        let facts = (call::info(InfoTopic::OwnVcpu), call::info(InfoTopic::OwnVm));
        let yielded = call::yield_cpu();
        let blocked = call::block(Nanos(time::now().0 + 10_000));
        let faulted = w.code.read(0x10).is_err();
        for (word, value) in (0_u64..).zip(&saved) {
            let _ = w.code.write(page + word * 8, *value);
        }
        same!(facts, (Ok(0), Ok(u64::from(w.start.vm))), "facts with {value:#x}");
        same!((yielded, blocked, faulted), (Ok(()), Ok(()), true), "calls with {value:#x}");
    }
    // The same frame twice, and read-only.
    let (number, flags) = go(guest_sdk::protocol::call::Translate { space: FIRST, address: GuestVirt(page) })
        .map(|pair| (pair.0, pair.1))
        .map_err(text)?;
    same!(map(FIRST, PLACE, number, 1, READ), Ok(1), "twice");
    same!(wild::call(Protect::NUMBER, [0, page, 1, 0, 0, 0]), Ok(1), "read-only");
    same!(call::yield_cpu(), Ok(()), "a switch");
    same!(call::block(Nanos(0)), Ok(()), "another");
    same!(wild::call(Protect::NUMBER, [0, page, 1, flags, 0, 0]), Ok(1), "undo");
    same!(unmap(FIRST, PLACE, 1), Ok(1), "undo");
    Ok(())
}

fn arguments_that_flip(w: &mut World) -> Outcome {
    // Words 0 to 8 are a batch entry, 16 to 20 one of a memory batch; the worker flips both.
    set_buffer(&[Info::NUMBER, InfoTopic::OwnVm.number()]);
    static FRAME: AtomicU64 = AtomicU64::new(0);
    FRAME.store(w.loose, Ordering::SeqCst);
    let entry = [MemoryOperation::Map.number(), PLACE, w.loose, 1, 0];
    for (slot, word) in entry.into_iter().enumerate() {
        buffer(16 + slot).store(word, Ordering::SeqCst);
    }
    let racing = race(&[|round| {
        let flip = round % 2 == 0;
        buffer(0).store(if flip { Info::NUMBER } else { 4096 }, Ordering::SeqCst);
        buffer(1).store(if flip { InfoTopic::OwnVm.number() } else { InfoTopic::VcpuCount.number() }, Ordering::SeqCst);
        buffer(17).store(if flip { PLACE } else { HYPERVISOR_START }, Ordering::SeqCst);
        buffer(18).store(if flip { FRAME.load(Ordering::SeqCst) } else { ONES }, Ordering::SeqCst);
        buffer(19).store(if flip { 1 } else { ONES }, Ordering::SeqCst);
        buffer(20).store(if flip { 0 } else { 1 << 63 }, Ordering::SeqCst);
    }]);
    let good = [u64::from(w.start.vm), u64::from(w.start.vcpus), Status::UnknownCall.to_register()];
    for _ in 0..4_000 {
        same!(go(Batch { entries: GuestVirt(buffer_address()), count: 1 }), Ok(1), "batch");
        let result = buffer(7).load(Ordering::SeqCst);
        hold!(good.contains(&result), "result {result:#x}");
        let mapped = go(MemoryBatch { entries: GuestVirt(buffer_address() + 128), count: 1 });
        hold!(
            matches!(
                mapped,
                Ok(1) | Err(Status::BadAddress | Status::InvalidArgument | Status::TooLong | Status::AlreadyMapped)
            ),
            "memory batch: {mapped:?}"
        );
        if mapped == Ok(1) {
            same!(unmap(FIRST, PLACE, 1), Ok(1), "what was mapped");
        }
    }
    drop(racing);
    set_buffer(&[0; 32]);
    Ok(())
}

fn buffers_that_come_and_go(w: &mut World) -> Outcome {
    static FRAME: AtomicU64 = AtomicU64::new(0);
    FRAME.store(w.loose, Ordering::SeqCst);
    let racing = race(&[|_| {
        let _ = map(FIRST, PLACE, FRAME.load(Ordering::SeqCst), 1, WRITE);
        let _ = unmap(FIRST, PLACE, 1);
    }]);
    let (mut good, mut bad) = (0, 0);
    for round in 0..6_000 {
        let result = if round % 2 == 0 {
            go(Cpuid { leaf: 1, subleaf: 0, result: GuestVirt(PLACE + 8) })
        } else {
            go(Batch { entries: GuestVirt(PLACE), count: 1 }).map(|_| ())
        };
        match result {
            Ok(()) => good += 1,
            Err(Status::BadAddress) => bad += 1,
            Err(status) => return Err(format!("{status}")),
        }
    }
    hold!(racing.rounds(0) > 1, "the worker did not run");
    hold!(good + bad == 6_000, "{good} and {bad}");
    drop(racing);
    let _ = unmap(FIRST, PLACE, 1);
    Ok(())
}

fn overlapping_buffers(_w: &mut World) -> Outcome {
    // Each entry's result overwrites the entry behind it.
    let mut entries = [BatchEntry::default(); 4];
    let address = of(&mut entries).0;
    for (entry, index) in entries.iter_mut().zip(0_u64..) {
        *entry = BatchEntry {
            number: Cpuid::NUMBER,
            arguments: [0, 0, address + (index + 1) * 72, 0, 0, 0],
            ..BatchEntry::default()
        };
    }
    let done = go(Batch { entries: of(&mut entries), count: 3 });
    hold!(matches!(done, Ok(1..=3)), "a batch that overwrites itself: {done:?}");
    let entries = core::hint::black_box(entries);
    same!(entries[0].result, 0, "the first result");
    // The result of a call onto its own entry.
    let mut one = [BatchEntry { number: Cpuid::NUMBER, ..BatchEntry::default() }];
    one[0].arguments[2] = of(&mut one).0;
    same!(go(Batch { entries: of(&mut one), count: 1 }), Ok(1), "a call onto its own entry");
    Ok(())
}

fn unknown_numbers(_w: &mut World) -> Outcome {
    let known = |number: u64| CALLS.iter().any(|call| call.number == number);
    let beyond = (16..64).map(|bit| 1_u64 << bit).chain([ONES, (1 << 32) | 1, 1 << 63 | 1]);
    for number in (0..1 << 16).chain(beyond).filter(|number| !known(*number)) {
        same!(wild::call(number, [ONES; 6]), Err(Status::UnknownCall), "call {number:#x}");
    }
    for bit in 1..64 {
        let number = Info::NUMBER | 1 << bit;
        if !known(number) {
            same!(wild::call(number, [0; 6]), Err(Status::UnknownCall), "call {number:#x}");
        }
    }
    Ok(())
}

fn forced_continuations(w: &mut World) -> Outcome {
    let entry = |operation: MemoryOperation, frame, flags: MapFlags| MemoryBatchEntry {
        operation: operation.number() as u32,
        space: 0,
        address: PLACE,
        frame,
        count: 512,
        flags: flags.bits(),
    };
    let mut entries = [entry(MemoryOperation::Unmap, 0, READ); 64];
    for map in entries.iter_mut().step_by(2) {
        *map = entry(MemoryOperation::Map, w.loose, WRITE);
    }
    let mut done = 0;
    let mut calls = 0;
    while done < 64 {
        let rest = GuestVirt(of(&mut entries).0 + done * size_of::<MemoryBatchEntry>() as u64);
        let more = go(MemoryBatch { entries: rest, count: 64 - done }).map_err(text)?;
        hold!(more > 0, "no progress after {done}");
        done += more;
        calls += 1;
    }
    hold!(calls > 8, "64 operations of 512 pages in {calls} calls");
    let space = go(SpaceCreate {}).map_err(text)?;
    for page in 0..8 {
        let _ = map(space, PLACE + (page << 30), w.loose, 512, READ);
    }
    let mut steps = 0;
    while go(SpaceDestroy { space }) == Err(Status::Retry) {
        steps += 1;
        same!(wild::call(Info::NUMBER, [ONES; 6]), Err(Status::InvalidArgument), "between steps");
    }
    hold!(steps > 0, "it was destroyed at once");
    Ok(())
}

fn batches_of_batches(w: &mut World) -> Outcome {
    let nested =
        BatchEntry { number: Batch::NUMBER, arguments: [buffer_address(), 64, 0, 0, 0, 0], ..BatchEntry::default() };
    let mut entries = [nested; 64];
    let done = go(Batch { entries: of(&mut entries), count: 64 });
    hold!(matches!(done, Ok(1..=64)), "{done:?}");
    let first = core::hint::black_box(&entries)[0].result;
    same!(first, Status::NotInBatch.to_register(), "a batch in a batch");
    for count in [65, 1 << 16, 1 << 32, ONES] {
        same!(go(Batch { entries: of(&mut entries), count }), Err(Status::TooLong), "{count:#x} entries");
    }
    // A batch that takes its own memory away.
    same!(map(FIRST, PLACE, w.loose, 1, WRITE), Ok(1), "a page for it");
    let words = [Unmap::NUMBER, 0, PLACE, 1, 0, 0, 0, 0, 0, Info::NUMBER];
    for (index, word) in (0_u64..).zip(words) {
        hold!(w.code.write(PLACE + index * 8, word).is_ok(), "fill");
    }
    same!(go(Batch { entries: GuestVirt(PLACE), count: 2 }), Err(Status::BadAddress), "its first result has no place");
    same!(unmap(FIRST, PLACE, 1), Err(Status::NotMapped), "what it did is done");
    Ok(())
}

/// The words of pending bits of a vCPU.
fn pending(vcpu: u64, w: &World) -> [u64; 4] {
    core::array::from_fn(|word| w.code.read(VCPU_PAGES.0 + vcpu * 4096 + word as u64 * 8).unwrap_or(0))
}

fn bits_at_the_edges(w: &mut World) -> Outcome {
    let _masked = event::masked();
    let mut ports = Vec::new();
    while let Ok(port) = call::event_alloc(VCPU) {
        ports.push(port);
    }
    hold!(ports.contains(&Port(255)), "{} ports", ports.len());
    for edge in [63, 64, 65, 127, 128, 191, 192, 255] {
        if !ports.contains(&Port(edge)) {
            continue;
        }
        let before = pending(0, w);
        same!(call::event_send(Port(edge)), Ok(()), "send {edge}");
        let mut after = pending(0, w);
        after[edge as usize / 64] &= !(1 << (edge % 64));
        // The timer and the kick of other cases may come at any time.
        let others: u32 = after.iter().zip(before).map(|(after, before)| (after & !before).count_ones()).sum();
        hold!(others <= 2, "port {edge} made {others} others pending");
        same!(call::event_close(Port(edge)), Ok(()), "close {edge}");
        same!(pending(0, w)[edge as usize / 64] >> (edge % 64) & 1, 0, "pending after close");
    }
    for port in ports {
        let _ = call::event_close(port);
    }
    event::dispatch();
    Ok(())
}

/// Every status that a call returns is one that its page names.
fn exact_statuses(w: &mut World) -> Outcome {
    let values = [
        0,
        1,
        8,
        64,
        4095,
        4096,
        PLACE,
        LOWER_END,
        HYPERVISOR_START,
        buffer_address(),
        w.loose,
        1 << 32,
        1 << 63,
        ONES,
    ];
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for call in CALLS {
        let skipped = [
            "exit",
            "block",
            "yield_cpu",
            "vcpu_stop",
            "vcpu_start",
            "resume",
            "event_deliver",
            "console_write",
            "log_write",
            "trap_table_set",
            "entry_points_set",
            "segment_base_set",
            "unmap",
            "protect",
            "memory_batch",
            "frame_release",
            "batch",
            "space_switch",
            "event_close",
            "grant_create",
            "debug_register_set",
            "cpuid",
            "console_read",
            "grant_copy",
            "timer_set",
            "event_bind",
            "map",
            "event_alloc",
            "space_create",
        ];
        if skipped.contains(&call.name) && call.name != "cpuid" {
            continue;
        }
        for _ in 0..200 {
            let arguments = core::array::from_fn(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                values[(seed >> 33) as usize % values.len()]
            });
            if let Err(status) = wild::call(call.number, arguments) {
                // A value that does not fit its type is an invalid argument of any call.
                let is_named = call.errors.contains(&status) || status == Status::InvalidArgument;
                hold!(is_named, "{}: {status} of {arguments:x?}", call.name);
            }
        }
    }
    // The others with all ones only: nothing that they could change is named by that.
    for call in CALLS.iter().filter(|call| {
        !["exit", "block", "yield_cpu", "vcpu_stop", "resume", "event_deliver", "timer_set", "space_create"]
            .contains(&call.name)
    }) {
        match wild::call(call.number, [ONES; 6]) {
            Err(status) => {
                let is_named = call.errors.contains(&status) || status == Status::InvalidArgument;
                hold!(is_named, "{}: {status}", call.name);
            }
            Ok(value) => return Err(format!("{} returned {value:#x}", call.name)),
        }
    }
    set_buffer(&[0; 512]);
    Ok(())
}

fn one_result_each(w: &mut World) -> Outcome {
    // Slow entries, so that the batch stops early; results beyond where it stopped are untouched.
    const MARK: u64 = 0x1357_9bdf;
    let slow = |number, arguments| BatchEntry { number, arguments, result: MARK, second: MARK };
    for _ in 0..20 {
        let mut entries = [slow(Unmap::NUMBER, [0, PLACE, 512, 0, 0, 0]); 64];
        for entry in entries.iter_mut().step_by(2) {
            *entry = slow(Map::NUMBER, [0, PLACE, w.loose, 512, 0, 0]);
        }
        let done = go(Batch { entries: of(&mut entries), count: 64 }).map_err(text)?;
        for (index, entry) in (0..).zip(core::hint::black_box(&entries)) {
            let expected = if index < done { (512, 0) } else { (MARK, MARK) };
            same!((entry.result, entry.second), expected, "entry {index} of {done}");
        }
        let _ = unmap(FIRST, PLACE, 512);
    }
    Ok(())
}

fn every_power_of_two(w: &mut World) -> Outcome {
    for bit in 10..64 {
        for count in [1_u64 << bit, (1 << bit) + 1, (1_u64 << bit).wrapping_neg()] {
            same!(map(FIRST, PLACE, w.loose, count, READ), Err(Status::TooLong), "map {count:#x}");
            same!(unmap(FIRST, PLACE, count), Err(Status::TooLong), "unmap {count:#x}");
            same!(
                wild::call(FrameRelease::NUMBER, [w.loose, count, 0, 0, 0, 0]),
                Err(Status::TooLong),
                "release {count:#x}"
            );
            same!(go(Batch { entries: GuestVirt(buffer_address()), count }), Err(Status::TooLong), "batch {count:#x}");
        }
    }
    Ok(())
}

fn good_and_bad_mixed(w: &mut World) -> Outcome {
    let entry = |operation: u32, address, frame, count| MemoryBatchEntry {
        operation,
        space: 0,
        address,
        frame,
        count,
        flags: 0,
    };
    let good = [entry(1, PLACE, w.loose, 1), entry(2, PLACE, 0, 1)];
    let bad = [
        entry(0, PLACE, 0, 1),
        entry(4, PLACE, 0, 1),
        entry(1, ONES, w.loose, 1),
        entry(1, PLACE, ONES, 1),
        entry(2, OTHER, 0, 1),
        entry(1, PLACE, w.loose, ONES),
        entry(u32::MAX, 0, 0, 0),
    ];
    for wrong in bad {
        for at in 0..16 {
            let mut entries: Vec<MemoryBatchEntry> = good.iter().cycle().take(16).copied().collect();
            entries[at & !1] = if at % 2 == 0 { wrong } else { entries[at & !1] };
            entries[at | 1] = if at % 2 == 1 { wrong } else { entries[at | 1] };
            let done = go(MemoryBatch { entries: of(&mut entries), count: 16 });
            match done {
                Ok(done) => same!(done, at as u64, "entries before the bad one"),
                Err(_) => same!(at, 0, "refused"),
            }
            let _ = unmap(FIRST, PLACE, 1);
        }
    }
    Ok(())
}

fn heavy(round: u64) {
    let place = OTHER + ((round % 2) << 30) + (u64::from(guest_sdk::smp::current().0) << 32);
    let _ = map(FIRST, place, 0, 512, READ);
    let _ = unmap(FIRST, place, 512);
}

fn long_calls_at_once(w: &mut World) -> Outcome {
    let racing = race(&[heavy, heavy]);
    for _ in 0..5 {
        w.ask_neighbour()?;
    }
    while racing.rounds(0) < 20 {
        same!(call::info(InfoTopic::OwnVcpu), Ok(0), "a short call meanwhile");
    }
    Ok(())
}

fn readers_against_a_writer(w: &mut World) -> Outcome {
    fn look(_: u64) {
        let _ = call::translate(SpaceId::FIRST, GuestVirt(PLACE));
    }
    let racing = race(&[look, look]);
    let start = time::now().0;
    for _ in 0..300 {
        same!(map(FIRST, PLACE, w.loose, 1, READ), Ok(1), "the writer");
        same!(unmap(FIRST, PLACE, 1), Ok(1), "the writer");
    }
    let each = (time::now().0 - start) / 300;
    hold!(each < 20_000_000, "a change took {each} ns");
    hold!(racing.rounds(0) > 1, "no reader ran");
    Ok(())
}

fn queries_without_end(w: &mut World) -> Outcome {
    fn query(_: u64) {
        for topic in [InfoTopic::Time, InfoTopic::PoolFrames, InfoTopic::Features] {
            let _ = call::info(topic);
        }
    }
    let _racing = race(&[query, query]);
    for _ in 0..10 {
        w.ask_neighbour()?;
    }
    Ok(())
}

fn yields_without_end(w: &mut World) -> Outcome {
    fn game(_: u64) {
        let _ = call::yield_cpu();
        let _ = call::vcpu_kick(VcpuId(0));
        let _ = call::block(Nanos(time::now().0 + 1));
    }
    let _racing = race(&[game, game]);
    let start = time::now().0;
    for _ in 0..10 {
        w.ask_neighbour()?;
    }
    let each = (time::now().0 - start) / 10;
    hold!(each < 2_000_000_000, "the neighbour took {each} ns to answer");
    Ok(())
}

fn used_before_it_is_there(_w: &mut World) -> Outcome {
    let port = call::event_alloc(VCPU).map_err(text)?;
    same!(call::event_close(port), Ok(()), "close");
    same!(call::event_send(port), Err(Status::NotFound), "send");
    let bound = call::event_bind(port, EventSource::Timer, 3, VcpuId(3));
    same!(bound, Err(Status::NotFound), "bind");
    same!(call::event_close(port), Err(Status::NotFound), "close again");
    let port = call::event_alloc(VCPU).map_err(text)?;
    for _ in 0..10 {
        let bound = call::event_bind(port, EventSource::Timer, 99, VCPU);
        same!(bound, Err(Status::InvalidArgument), "a source that is not there");
        let bound = call::event_bind(port, EventSource::Timer, 3, VcpuId(99));
        same!(bound, Err(Status::NotFound), "a vCPU that is not there");
    }
    same!(call::event_send(port), Ok(()), "it still is what it was");
    same!(call::event_close(port), Ok(()), "undo");
    Ok(())
}

fn every_port(_w: &mut World) -> Outcome {
    let mut used = Vec::new();
    while let Ok(port) = call::event_alloc(VCPU) {
        used.push(port.0);
    }
    for port in used.iter().rev() {
        let _ = call::event_close(Port(*port));
    }
    for port in (0..300).chain([u32::MAX, 1 << 31, 1 << 16]) {
        if used.contains(&port) || port >= 256 {
            same!(call::event_send(Port(port)), Err(Status::NotFound), "send {port}");
            same!(call::event_close(Port(port)), Err(Status::NotFound), "close {port}");
            let bound = call::event_bind(Port(port), EventSource::ConsoleInput, 0, VCPU);
            same!(bound, Err(Status::NotFound), "bind {port}");
        }
    }
    Ok(())
}

fn free_ports() -> usize {
    let mut used = Vec::new();
    while let Ok(port) = call::event_alloc(VCPU) {
        used.push(port);
    }
    used.iter().filter(|port| call::event_close(**port).is_ok()).count()
}

fn ports_that_come_and_go(_w: &mut World) -> Outcome {
    fn come_and_go(round: u64) {
        if let Ok(port) = call::event_alloc(VcpuId((round % 4) as u32)) {
            let _ = call::event_bind(port, EventSource::Timer, 3, VcpuId(3));
            let _ = call::event_send(port);
            let _ = call::event_bind(port, EventSource::ConsoleInput, 0, VcpuId(2));
            let _ = call::event_close(port);
        }
    }
    let before = free_ports();
    let racing = race(&[come_and_go, come_and_go]);
    for number in 0..4_000 {
        let _ = call::event_bind(Port(number % 64 + 8), EventSource::Timer, 3, VcpuId(1));
        let _ = call::event_send(Port(number % 64 + 8));
    }
    while racing.rounds(0) < 100 {
        let _ = call::yield_cpu();
    }
    drop(racing);
    same!(free_ports(), before, "free ports");
    event::without_events(event::dispatch);
    Ok(())
}

fn channels_that_are_not_there(w: &mut World) -> Outcome {
    let port = call::event_alloc(VCPU).map_err(text)?;
    let ends = w.start.channels().len() as u64;
    for index in [ends, ends + 1, 7, 8, 255, u64::from(u32::MAX)] {
        let bound = call::event_bind(port, EventSource::Channel, index, VCPU);
        same!(bound, Err(Status::InvalidArgument), "channel {index}");
        // Nothing dangles: the port is a port of nobody still, and sends to itself.
        same!(call::event_send(port), Ok(()), "send");
    }
    same!(call::event_close(port), Ok(()), "undo");
    same!(call::event_alloc(VCPU), Ok(port), "the same port again");
    same!(call::event_close(port), Ok(()), "undo");
    Ok(())
}

fn bound_twice(w: &mut World) -> Outcome {
    let board = w.board.event().port();
    let port = call::event_alloc(VCPU).map_err(text)?;
    for _ in 0..10 {
        let bound = call::event_bind(port, EventSource::Channel, w.board.channel, VCPU);
        same!(bound, Err(Status::Busy), "the board's channel");
    }
    let mut all = Vec::new();
    while let Ok(more) = call::event_alloc(VCPU) {
        all.push(more);
    }
    same!(call::event_alloc(VCPU), Err(Status::QuotaExceeded), "one port too many");
    same!(call::event_bind(port, EventSource::Channel, w.board.channel, VCPU), Err(Status::Busy), "with a full table");
    same!(call::event_bind(port, EventSource::Timer, 3, VcpuId(3)), Ok(()), "a timer with a full table");
    for more in all {
        same!(call::event_close(more), Ok(()), "undo");
    }
    same!(call::event_close(port), Ok(()), "undo");
    hold!(w.board.event().port() == board, "the board's port");
    w.ask_neighbour()
}

fn all_ports(w: &mut World) -> Outcome {
    let mut all = Vec::new();
    while let Ok(port) = call::event_alloc(VcpuId(all.len() as u32 % 4)) {
        all.push(port);
    }
    hold!(all.len() > 200, "{} ports", all.len());
    same!(call::event_alloc(VCPU), Err(Status::QuotaExceeded), "one too many");
    let other = w.accomplice.call(EventAlloc::NUMBER, [0; 6]);
    hold!(other.is_ok(), "another VM gets none: {other:?}");
    same!(w.accomplice.call(EventClose::NUMBER, [other.unwrap_or(0), 0, 0, 0, 0, 0]), Ok(0), "undo");
    for port in all {
        same!(call::event_close(port), Ok(()), "undo");
    }
    Ok(())
}

fn ports_of_nobody(_w: &mut World) -> Outcome {
    let port = call::event_alloc(VCPU).map_err(text)?;
    same!(call::event_close(port), Ok(()), "close");
    // One that was closed, one that never was, one that cannot be: all the same.
    for number in [port.0, 200, 255, 256, u32::MAX] {
        same!(call::event_send(Port(number)), Err(Status::NotFound), "send {number}");
        same!(call::event_close(Port(number)), Err(Status::NotFound), "close {number}");
    }
    Ok(())
}

fn storm_on_the_neighbour(w: &mut World) -> Outcome {
    let start = time::now().0;
    for _ in 0..20_000 {
        same!(w.board.event().send(), Ok(()), "send");
    }
    w.ask_neighbour()?;
    let span = time::now().0 - start;
    hold!(span < 20_000_000_000, "20,000 sends and an answer took {span} ns");
    Ok(())
}

fn pending_and_moved(w: &mut World) -> Outcome {
    let _masked = event::masked();
    for _ in 0..50 {
        let port = call::event_alloc(VCPU).map_err(text)?;
        let bit = |w: &World, vcpu: u64| pending(vcpu, w)[port.0 as usize / 64] >> (port.0 % 64) & 1;
        same!(call::event_send(port), Ok(()), "send");
        same!((bit(w, 0), bit(w, 2)), (1, 0), "pending here");
        same!(call::event_bind(port, EventSource::Timer, 3, VcpuId(2)), Ok(()), "move it");
        same!(bit(w, 0), 0, "not pending here any more");
        same!(call::event_bind(port, EventSource::Timer, 3, VcpuId(99)), Err(Status::NotFound), "to no vCPU");
        same!(call::event_bind(port, EventSource::Timer, 3, VCPU), Ok(()), "and back");
        same!(bit(w, 2), 0, "not pending there");
        same!(call::event_close(port), Ok(()), "undo");
        same!((bit(w, 0), bit(w, 2)), (0, 0), "not pending at all");
    }
    event::dispatch();
    Ok(())
}

/// The sender learns nothing of whether the receiver is there, looks or sleeps.
fn sent_to_nobody(w: &mut World) -> Outcome {
    for _ in 0..100 {
        same!(w.board.event().send(), Ok(()), "to one that looks");
    }
    // To one that died just now, and one that starts.
    hold!(w.accomplice.die(), "the accomplice did not come back");
    for _ in 0..100 {
        same!(w.accomplice.ring(), Ok(()), "to one that starts");
    }
    same!(w.accomplice.call(Info::NUMBER, [0; 6]).is_ok(), true, "it works again");
    Ok(())
}

fn no_wake_up_is_lost(w: &mut World) -> Outcome {
    static PORT: AtomicU64 = AtomicU64::new(0);
    static SEEN: AtomicU64 = AtomicU64::new(0);
    static SENT: AtomicU64 = AtomicU64::new(0);
    let event = Event::new(VCPU).map_err(text)?;
    PORT.store(u64::from(event.port().0), Ordering::SeqCst);
    SEEN.store(0, Ordering::SeqCst);
    SENT.store(0, Ordering::SeqCst);
    let _racing = race(&[|_| {
        // One send for each that was seen.
        if SENT.load(Ordering::SeqCst) == SEEN.load(Ordering::SeqCst) {
            SENT.fetch_add(1, Ordering::SeqCst);
            let _ = call::event_send(Port(PORT.load(Ordering::SeqCst) as u32));
        }
    }]);
    for round in 0..2_000 {
        let deadline = Nanos(time::now().0 + 10_000_000_000);
        hold!(event.wait_deadline(deadline), "wake-up {round} was lost");
        SEEN.fetch_add(1, Ordering::SeqCst);
    }
    let _ = w;
    Ok(())
}

fn sizes_and_numbers(w: &mut World) -> Outcome {
    use guest_sdk::protocol::call::{GrantCopy, GrantCreate, GrantMap, GrantRevoke, GrantUnmap};
    for number in [64, 65, 127, 128, 255, 256, 1 << 16, u64::from(u32::MAX)] {
        let no = Err(Status::NotPermitted);
        same!(wild::call(GrantCreate::NUMBER, [number, w.loose, 0, 0, 0, 0]), no, "create for {number}");
        same!(wild::call(GrantMap::NUMBER, [number, 0, 0, PLACE, 0, 0]), no, "map of {number}");
        same!(wild::call(GrantUnmap::NUMBER, [number, 0, 0, 0, 0, 0]), no, "unmap of {number}");
        same!(wild::call(GrantCopy::NUMBER, [number, 0, 0, buffer_address(), 8, 0]), no, "copy of {number}");
        same!(wild::call(GrantRevoke::NUMBER, [number << 8 | 0xff, 0, 0, 0, 0, 0]).is_err(), true, "revoke {number}");
    }
    for number in [1 << 32, 1 << 63, ONES] {
        let no = Err(Status::InvalidArgument);
        same!(wild::call(GrantCreate::NUMBER, [number, w.loose, 0, 0, 0, 0]), no, "create for {number:#x}");
        same!(wild::call(GrantMap::NUMBER, [number, 0, 0, PLACE, 0, 0]), no, "map of {number:#x}");
        same!(wild::call(GrantUnmap::NUMBER, [number, 0, 0, 0, 0, 0]), no, "unmap of {number:#x}");
    }
    Ok(())
}

fn die_with_all_ports(_w: &mut World) -> Outcome {
    while let Ok(port) = call::event_alloc(VCPU) {
        let _ = call::event_send(port);
    }
    crate::accomplice::die()
}

fn die_with_long_work(w: &mut World) -> Outcome {
    while go(SpaceCreate {}).is_ok() {}
    for space in 1..64 {
        for part in 0..4 {
            let _ = map(SpaceId(space), PLACE + (part << 30), w.loose, 512, WRITE);
        }
    }
    let racing = race(&[heavy, heavy]);
    while racing.rounds(0) < 5 {
        let _ = call::yield_cpu();
    }
    crate::accomplice::die()
}

/// The report reads code at the instruction pointer: there is none to be read.
fn die_where_no_report_can_read(w: &mut World) -> Outcome {
    let _ = Vcpu::current();
    let entry = [13_u32, 14].map(|vector| guest_sdk::protocol::shared::TrapEntry { vector, flags: 0, handler: 0 });
    same!(
        go(TrapTableSet { table: GuestVirt(entry.as_ptr().expose_provenance() as u64), count: 2 }),
        Ok(()),
        "no handlers"
    );
    // A jump to an address that is not canonical.
    w.code.run(&[0xff, 0xe7], [0, 0, 0, 0, 0, 1 << 63]);
    Ok(())
}
