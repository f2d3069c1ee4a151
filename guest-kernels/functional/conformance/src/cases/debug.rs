//! Debug registers and `cpuid`.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{Cpuid, DebugRegisterGet, DebugRegisterSet, Pair};
use guest_sdk::protocol::layout::{HYPERVISOR_START, KERNEL_END, KERNEL_START, LOWER_END};
use guest_sdk::{GuestVirt, Status, call, trap};

use crate::case::Outcome;
use crate::parts::servant;
use crate::{ensure, ensure_eq, record, scene};

crate::cases! {
    DebugRegisterSet "values that it refuses" ["DBG-1"] [InvalidArgument] refused;
    DebugRegisterSet "a hit" ["DBG-2"] [] hit;
    DebugRegisterGet "what was set" ["DBG-3"] [InvalidArgument] read_back;
    DebugRegisterSet "without debug registers" ["DBG-4"] [NotPermitted] set_without;
    DebugRegisterGet "without debug registers" ["DBG-5"] [NotPermitted] get_without;
    Cpuid "the same on every vCPU" ["CPU-1"] [] same_everywhere;
    Cpuid "nothing that a guest cannot use" ["CPU-1"] [] usable_only;
}

fn set(index: u64, value: u64) -> Result<(), Status> {
    record::make(DebugRegisterSet { index, value })
}

fn refused() -> Outcome {
    let addresses = [LOWER_END - 4, LOWER_END, 1 << 47, HYPERVISOR_START, KERNEL_START - 8, KERNEL_END - 4, u64::MAX];
    let breakpoints = (0..4).flat_map(|index| addresses.map(|address| (index, address)));
    let controls = [10, 11, 12, 13, 14, 15].into_iter().chain(32..64).filter(|bit| *bit != 10).map(|bit| (7, 1 << bit));
    let ports = [16, 20, 24, 28].map(|kind| (7, 2 << kind));
    let states = (32..64).map(|bit| (6, 1 << bit));
    let registers = [4, 5, 8, 9, 1 << 32, u64::MAX].map(|index| (index, 0));
    for (index, value) in breakpoints.chain(controls).chain(ports).chain(states).chain(registers) {
        scene::refuse(DebugRegisterSet { index, value }, Status::InvalidArgument)?;
    }
    Ok(())
}

static HITS: AtomicU64 = AtomicU64::new(0);
static STATES: AtomicU64 = AtomicU64::new(0);

/// DR7 for breakpoint 0: any access of eight bytes.
const WATCH: u64 = 1 | 3 << 16 | 2 << 18;

fn hit() -> Outcome {
    trap::set_handler(trap::DEBUG, |_| {
        HITS.fetch_add(1, Ordering::SeqCst);
        STATES.store(call::debug_register_get(6).map_or(0, |pair| pair.1), Ordering::SeqCst);
    })?;
    HITS.store(0, Ordering::SeqCst);
    set(0, scene::buffer())?;
    set(7, WATCH)?;
    let outcome = hits();
    set(7, 0)?;
    set(0, 0)?;
    set(6, 0)?;
    trap::clear_handler(trap::DEBUG)?;
    scene::words()[0].store(0, Ordering::SeqCst);
    scene::words()[1].store(0, Ordering::SeqCst);
    outcome
}

fn hits() -> Outcome {
    // Plain accesses: some emulators watch no atomic ones.
    scene::words()[1].store(1, Ordering::Relaxed);
    ensure_eq!(HITS.load(Ordering::SeqCst), 0, "hits by an access beside it");
    scene::words()[0].store(1, Ordering::Relaxed);
    ensure_eq!(HITS.load(Ordering::SeqCst), 1, "hits by a write");
    ensure_eq!(STATES.load(Ordering::SeqCst) & 0xf, 1, "which breakpoint it was");
    let result = GuestVirt(scene::buffer());
    record::make(Cpuid { leaf: 0, subleaf: 0, result })?;
    record::make(guest_sdk::protocol::call::LogWrite { buffer: result, length: 8 })?;
    ensure_eq!(HITS.load(Ordering::SeqCst), 1, "hits, after the hypervisor wrote and read there");
    let word = scene::words()[0].load(Ordering::SeqCst);
    ensure!(word != 1, "the hypervisor did not write");
    ensure_eq!(HITS.load(Ordering::SeqCst), 2, "hits by a read");
    Ok(())
}

fn read_back() -> Outcome {
    for (index, value, wanted) in [
        (0, 0x1000, 0x1000),
        (1, KERNEL_START, KERNEL_START),
        (2, 0, 0),
        (3, LOWER_END - 8, LOWER_END - 8),
        (6, 0xe00f, 0xffff_eff0 & !0xf | 0xe00f),
        (7, 0x300, 0x700),
    ] {
        let before = record::make(DebugRegisterGet { index })?;
        set(index, value)?;
        let found = record::make(DebugRegisterGet { index });
        set(index, before.1 & !(1 << 10))?;
        let wanted = if index == 6 { 0xffff_0ff0 | 0xe00f } else { wanted };
        ensure_eq!(found, Ok(Pair(0, wanted)), "debug register {index}");
    }
    for index in [4, 5, 8, u64::MAX] {
        scene::refuse(DebugRegisterGet { index }, Status::InvalidArgument)?;
    }
    set(6, 0)?;
    Ok(())
}

/// The servant has no debug registers: what it is answered counts here.
fn without(number: u64, is_set: u32) -> Outcome {
    let board = scene::helper("servant")?;
    for index in [0, 3, 4, 6, 7, 8, u32::MAX] {
        for value in [0, 1, u32::MAX] {
            let answer = board.ask(servant::DEBUG, &[is_set, index, value])?;
            record::note(number, answer.map_or_else(Status::to_register, u64::from));
            ensure_eq!(answer, Err(Status::NotPermitted), "debug register {index} with {value:#x}");
        }
    }
    Ok(())
}

fn set_without() -> Outcome {
    without(DebugRegisterSet::NUMBER, 1)
}

fn get_without() -> Outcome {
    without(DebugRegisterGet::NUMBER, 0)
}

/// Leaves and subleaves that tell what a CPU is and can.
const LEAVES: [(u32, u32); 16] = [
    (0, 0),
    (1, 0),
    (2, 0),
    (4, 0),
    (6, 0),
    (7, 0),
    (7, 1),
    (0xa, 0),
    (0xb, 0),
    (0xd, 0),
    (0xd, 1),
    (0x16, 0),
    (0x4000_0000, 0),
    (0x8000_0000, 0),
    (0x8000_0001, 0),
    (0x8000_0008, 0),
];

/// Asks into a place of the buffer: EAX, EBX, ECX, EDX.
fn ask(leaf: u32, subleaf: u32, place: usize) -> Result<[u64; 2], Status> {
    let result = GuestVirt(scene::buffer() + place as u64 * 8);
    record::make(Cpuid { leaf, subleaf, result })?;
    let word = |index: usize| scene::words()[place + index].swap(0, Ordering::SeqCst);
    Ok([word(0), word(1)])
}

fn same_everywhere() -> Outcome {
    static OTHER: [AtomicU64; 2 * LEAVES.len()] = [const { AtomicU64::new(0) }; 2 * LEAVES.len()];
    scene::second(|| {
        for ((leaf, subleaf), words) in LEAVES.into_iter().zip(OTHER.chunks(2)) {
            for (word, value) in words.iter().zip(ask(leaf, subleaf, 8).unwrap_or_default()) {
                word.store(value, Ordering::SeqCst);
            }
        }
    })?;
    for ((leaf, subleaf), words) in LEAVES.into_iter().zip(OTHER.chunks(2)) {
        let own = ask(leaf, subleaf, 0)?;
        if (leaf, subleaf) == LEAVES[0] {
            scene::wait_stopped()?;
        }
        let other = [words[0].load(Ordering::SeqCst), words[1].load(Ordering::SeqCst)];
        ensure_eq!(own, other, "leaf {leaf:#x} on two vCPUs");
    }
    Ok(())
}

/// Bits of features that only ring 0 or a whole machine has: leaf, word (EAX with EBX, ECX with EDX),
/// bit, name.
const PRIVILEGED: [(u32, usize, u32, &str); 9] = [
    (1, 1, 3, "MONITOR"),
    (1, 1, 5, "VMX"),
    (1, 1, 6, "SMX"),
    (1, 1, 21, "x2APIC"),
    (1, 1, 24, "TSC deadline"),
    (1, 1, 32 + 9, "APIC"),
    (7, 0, 32 + 7, "SMEP"),
    (7, 0, 32 + 20, "SMAP"),
    (0x8000_0001, 1, 2, "SVM"),
];

fn usable_only() -> Outcome {
    for (leaf, word, bit, name) in PRIVILEGED {
        let words = ask(leaf, 0, 0)?;
        ensure_eq!(words[word] >> bit & 1, 0, "{name}");
    }
    Ok(())
}
