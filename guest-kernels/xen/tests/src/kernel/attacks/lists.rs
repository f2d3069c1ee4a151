//! Lists and batches: how long they are, where they end, what of them is done, and what the hypervisor writes.

use core::sync::atomic::{AtomicU64, Ordering};

use protocol::xen::structure::{GrantQuerySize, MulticallEntry, SchedPoll, TrapInfo};
use protocol::xen::{DOMID_SELF, Errno, VERSION, call, console, event, grant, memory, mmuext, sched, vcpu, version};

use super::{Attack, Outcome, same};
use crate::kernel::abi::HYPERVISOR;
use crate::kernel::abi::events::{ipi, number};
use crate::kernel::raw::{self, attempt};
use crate::kernel::smp::{beside, is_over};
use crate::kernel::trap;
use crate::kernel::world::{Own, RO, RW, TABLE, error, flush, hypercall, map, pin, unpin};

/// In the order in which they run.
pub const ALL: &[Attack] = &[
    ("EX-14", buffers_at_the_end),
    ("HC-02", exactly_the_answer),
    ("HC-05", counts_at_limits),
    ("HC-07", counts_of_zero),
    ("HC-08", longer_than_its_memory),
    ("HC-14", work_of_many_steps),
    ("HC-17", random_arguments),
    ("HC-18", batches_in_pieces),
    ("IO-08", refusals),
    ("PR-01", powers_of_two),
    ("PR-02", wrong_at_each_place),
    ("PR-03", long_and_short_calls),
    ("PR-07", questions_without_end),
];

const FAULT: i64 = error(Errno::Fault);
/// What nobody writes.
const UNTOUCHED: u64 = 0xa5a5_a5a5_5a5a_5a5a;
/// Bytes of an element of `mmu_update`, and of a batch.
const UPDATE: u64 = 16;
const ENTRY: u64 = 64;

/// Fills pages with what nobody writes.
fn fill(pages: &[Own]) {
    for page in pages {
        (0..512).for_each(|word| raw::store(page.word(word), UNTOUCHED));
    }
}

/// Whether the words of pages from a byte on are untouched.
fn is_untouched(pages: &[Own], from: u64) -> bool {
    let start = pages[0].at;
    (from / 8..pages.len() as u64 * 512).all(|word| raw::load(start + word * 8) == UNTOUCHED)
}

/// Writes a list of changes of words of a page: word `i` modulo 512 becomes `i + 1`.
fn write_changes(at: u64, count: u64, target: Own) {
    for number in 0..count {
        raw::store(at + number * UPDATE, target.machine(number % 512));
        raw::store(at + number * UPDATE + 8, number + 1);
    }
}

/// How many of such changes a page shows.
fn changes(target: Own) -> u64 {
    (0..512).map(|word| raw::load(target.word(word))).max().unwrap_or(0)
}

/// Makes a list of changes: the result, and how many were done.
fn change(at: u64, count: u64) -> (i64, u64) {
    let mut done = [0_u32, u32::MAX];
    let result = raw::call(call::MMU_UPDATE, [at, count, (&raw mut done) as u64, DOMID_SELF.into(), 0]);
    (result, if done[1] == u32::MAX { done[0].into() } else { u64::MAX })
}

/// Writes a batch of questions for the version.
fn write_batch(at: u64, count: u64) {
    for number in 0..count {
        for (word, value) in [call::XEN_VERSION, UNTOUCHED, version::VERSION, 0, 0, 0, 0, 0].into_iter().enumerate() {
            raw::store(at + number * ENTRY + word as u64 * 8, value);
        }
    }
}

/// How many entries of a batch have their answer; the others must be untouched.
fn answers(at: u64, count: u64) -> u64 {
    let result = |number: u64| raw::load(at + number * ENTRY + 8);
    let done = (0..count).take_while(|number| result(*number) == VERSION).count() as u64;
    if (done..count).all(|number| result(number) == UNTOUCHED) { done } else { u64::MAX }
}

/// Two pages, of which the second is not there: where the first ends.
fn end_of_memory() -> Result<(Own, u64), super::Wrong> {
    let [page, behind] = Own::several();
    same("hidden", map(behind.at, 0), 0)?;
    Ok((page, behind.at))
}

/// Each call that takes a buffer, with one whose last bytes are not there, and one that can only be read.
fn buffers_at_the_end() -> Outcome {
    let (_, end) = end_of_memory()?;
    let read_only = Own::new().read_only();
    let own = u64::from(DOMID_SELF);
    for at in [end - 1, end - 2, end, end + 8] {
        for (number, arguments) in [
            (call::MMU_UPDATE, [at, 1, 0, own, 0]),
            (call::MMUEXT_OP, [at, 1, 0, own, 0]),
            (call::MULTICALL, [at, 1, 0, 0, 0]),
            (call::SET_GDT, [at, 512, 0, 0, 0]),
            (call::SET_TRAP_TABLE, [at, 0, 0, 0, 0]),
            (call::CALLBACK_OP, [0, at, 0, 0, 0]),
            (call::MEMORY_OP, [memory::POPULATE_PHYSMAP, at, 0, 0, 0]),
            (call::MEMORY_OP, [memory::MEMORY_MAP, at, 0, 0, 0]),
            (call::MEMORY_OP, [memory::MACHPHYS_MAPPING, at, 0, 0, 0]),
            (call::XEN_VERSION, [version::CAPABILITIES, at, 0, 0, 0]),
            (call::XEN_VERSION, [version::COMPILE_INFO, at, 0, 0, 0]),
            (call::XEN_VERSION, [version::GET_FEATURES, at, 0, 0, 0]),
            (call::XEN_VERSION, [version::GUEST_HANDLE, at, 0, 0, 0]),
            (call::CONSOLE_IO, [console::WRITE, 8, at, 0, 0]),
            (call::VCPU_OP, [vcpu::INITIALISE, 1, at, 0, 0]),
            (call::VCPU_OP, [vcpu::GET_RUNSTATE, 0, at, 0, 0]),
            (call::VCPU_OP, [vcpu::REGISTER_RUNSTATE, 0, at, 0, 0]),
            (call::VCPU_OP, [vcpu::SET_PERIODIC_TIMER, 0, at, 0, 0]),
            (call::VCPU_OP, [vcpu::SET_SINGLESHOT_TIMER, 0, at, 0, 0]),
            (call::VCPU_OP, [vcpu::REGISTER_VCPU_INFO, 0, at, 0, 0]),
            (call::VCPU_OP, [vcpu::REGISTER_TIME_AREA, 0, at, 0, 0]),
            (call::SCHED_OP, [sched::POLL, at, 0, 0, 0]),
            (call::SCHED_OP, [sched::SHUTDOWN, at, 0, 0, 0]),
            (call::EVENT_CHANNEL_OP, [event::BIND_VIRQ, at, 0, 0, 0]),
            (call::EVENT_CHANNEL_OP, [event::STATUS, at, 0, 0, 0]),
            (call::EVENT_CHANNEL_OP, [event::ALLOC_UNBOUND, at, 0, 0, 0]),
            (call::GRANT_TABLE_OP, [grant::MAP, at, 1, 0, 0]),
            (call::GRANT_TABLE_OP, [grant::UNMAP, at, 1, 0, 0]),
            (call::GRANT_TABLE_OP, [grant::COPY, at, 1, 0, 0]),
            (call::GRANT_TABLE_OP, [grant::SETUP_TABLE, at, 1, 0, 0]),
            (call::GRANT_TABLE_OP, [grant::QUERY_SIZE, at, 1, 0, 0]),
            (call::GRANT_TABLE_OP, [grant::GET_VERSION, at, 1, 0, 0]),
            (call::PHYSDEV_OP, [6, at, 0, 0, 0]),
        ] {
            let result = raw::call(number, arguments);
            if result != FAULT {
                return same("a fault", i128::from(result) << 64 | i128::from(number), i128::from(arguments[0]));
            }
        }
    }
    for (number, arguments) in [
        (call::XEN_VERSION, [version::EXTRA_VERSION, read_only.at, 0, 0, 0]),
        (call::XEN_VERSION, [version::GET_FEATURES, read_only.at, 0, 0, 0]),
        (call::MEMORY_OP, [memory::MACHPHYS_MAPPING, read_only.at, 0, 0, 0]),
        (call::VCPU_OP, [vcpu::GET_RUNSTATE, 0, read_only.at, 0, 0]),
        (call::GRANT_TABLE_OP, [grant::QUERY_SIZE, read_only.at, 1, 0, 0]),
        (call::GRANT_TABLE_OP, [grant::UNMAP, read_only.at, 1, 0, 0]),
    ] {
        same("to write what is to be read", raw::call(number, arguments), FAULT)?;
    }
    same("nothing is written", (0..512).fold(0, |all, word| all | raw::load(read_only.word(word))), 0_u64)
}

/// Answers into a marked buffer: their bytes, and no byte behind.
fn exactly_the_answer() -> Outcome {
    let pages: [Own; 2] = Own::several();
    let at = pages[0].at;
    let own = u64::from(DOMID_SELF);
    for (number, first, second, bytes) in [
        (call::XEN_VERSION, version::EXTRA_VERSION, at, 16_u64),
        (call::XEN_VERSION, version::COMPILE_INFO, at, 144),
        (call::XEN_VERSION, version::CAPABILITIES, at, 1024),
        (call::XEN_VERSION, version::CHANGE_SET, at, 64),
        (call::XEN_VERSION, version::PLATFORM_PARAMETERS, at, 8),
        (call::XEN_VERSION, version::GUEST_HANDLE, at, 16),
        (call::XEN_VERSION, version::COMMAND_LINE, at, 1024),
        (call::MEMORY_OP, memory::MACHPHYS_MAPPING, at, 24),
        (call::VCPU_OP, vcpu::GET_RUNSTATE, 0, 48),
        (call::VCPU_OP, vcpu::GET_RUNSTATE, 1, 48),
    ] {
        fill(&pages);
        same("answered", hypercall(number, [first, second, at]), 0)?;
        let kept =
            (0..bytes).filter(|byte| raw::load_byte(at + byte) == UNTOUCHED.to_le_bytes()[*byte as usize % 8]).count();
        same("all its bytes are written", kept < 8, true)?;
        same("none behind it", is_untouched(&pages, bytes), true)?;
    }
    // Behind texts are zeros, and padding is clear.
    fill(&pages);
    same("a text", hypercall(call::XEN_VERSION, [version::CAPABILITIES, at, 0]), 0)?;
    same("zeros behind it", (2..128).fold(0, |all, word| all | raw::load(at + word * 8)), 0_u64)?;
    same("what it does", hypercall(call::VCPU_OP, [vcpu::GET_RUNSTATE, 0, at]), 0)?;
    same("its padding", raw::load(at) >> 32, 0_u64)?;
    // Those that read first.
    fill(&pages);
    raw::store(at, 0);
    same("features", hypercall(call::XEN_VERSION, [version::GET_FEATURES, at, 0]), 0)?;
    same("8 bytes", is_untouched(&pages, 8), true)?;
    fill(&pages);
    raw::store(at, 8);
    raw::store(at + 8, at + 64);
    same("a memory map", hypercall(call::MEMORY_OP, [memory::MEMORY_MAP, at, 0]), 0)?;
    same("one region of 20 bytes", raw::load(at + 80), UNTOUCHED & !0xffff_ffff | 1)?;
    same("none behind it", is_untouched(&pages, 88), true)?;
    fill(&pages);
    raw::store(at, 2 << 32 | own);
    same("a port", hypercall(call::EVENT_CHANNEL_OP, [event::STATUS, at, 0]), 0)?;
    same("24 bytes", is_untouched(&pages, 24), true)?;
    same("its padding", raw::load(at) >> 16 & 0xffff, 0_u64)?;
    let place = at + 256;
    fill(&pages);
    raw::store(at, place);
    same("how it reads time", hypercall(call::VCPU_OP, [vcpu::REGISTER_TIME_AREA, 0, at]), 0)?;
    same("its padding", (raw::load(place) >> 32) + (raw::load(place + 24) >> 48), 0_u64)?;
    same("32 bytes", is_untouched(&pages, 288), true)?;
    same("none before it", (1..32).all(|word| raw::load(at + word * 8) == UNTOUCHED), true)
}

/// Counts at both sides of what is done at a time.
fn counts_at_limits() -> Outcome {
    let list: [Own; 5] = Own::several();
    let at = list[0].at;
    let target = Own::new();
    for count in [1, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1024] {
        (0..512).for_each(|word| raw::store(target.word(word), 0));
        write_changes(at, 1280, target);
        same("changes", i64::from(change(at, count) == (0, count)), 1)?;
        same("of memory", changes(target), count)?;
    }
    for count in [1, 63, 64, 65, 127, 128, 129, 192, 193, 256] {
        write_batch(at, 320);
        same("a batch", hypercall(call::MULTICALL, [at, count, 0]), 0)?;
        same("its answers", answers(at, 320), count)?;
    }
    for count in [1_u64, 15, 16, 17, 31, 32, 33, 48, 160] {
        fill(&list);
        let size = size_of::<GrantQuerySize>() as u64;
        (0..200).for_each(|number| raw::store(at + number * size, DOMID_SELF.into()));
        same("questions", hypercall(call::GRANT_TABLE_OP, [grant::QUERY_SIZE, at, count]), 0)?;
        let answered = (0..200).take_while(|number| raw::load(at + number * size + 8) as u32 == 8).count();
        same("answers", answered as u64, count)?;
        same("none behind", (count..200).all(|number| raw::load(at + number * size + 8) == UNTOUCHED), true)?;
    }
    for count in [1, 255, 256, 257, 512] {
        let entry = trap::entry(3, 7);
        for number in 0..=count {
            let TrapInfo { vector, flags, address, .. } = if number == count { TrapInfo::default() } else { entry };
            raw::store(at + number * 16, u64::from(vector) | u64::from(flags) << 8);
            raw::store(at + number * 16 + 8, address);
        }
        same("handlers", hypercall(call::SET_TRAP_TABLE, [at, 0, 0]), 0)?;
        let trap = attempt!("int3").err().map_or(0, |trap| trap.vector);
        same("are there", trap, 3_u64)?;
    }
    trap::install(0);
    let (_, port) = ipi(0);
    (0..130).for_each(|index| raw::store(at + index * 4, u64::from(port) << 32 | u64::from(port)));
    for (count, wanted) in
        [(0, 0), (1, 0), (127, 0), (128, 0), (129, error(Errno::Invalid)), (u32::MAX, error(Errno::Invalid))]
    {
        let poll = SchedPoll { ports: at, nr_ports: count, timeout: 1, ..SchedPoll::default() };
        same("ports", hypercall(call::SCHED_OP, [sched::POLL, (&raw const poll) as u64, 0]), wanted)?;
    }
    same("closed", number(event::CLOSE, port), 0)
}

/// Counts of zero, with good and bad addresses: nothing is done.
fn counts_of_zero() -> Outcome {
    let page = Own::new();
    fill(&[page]);
    let own = u64::from(DOMID_SELF);
    for at in [page.at, 0, HYPERVISOR, 1 << 47, u64::MAX] {
        for (number, arguments) in [
            (call::MMU_UPDATE, [at, 0, 0, own, 0]),
            (call::MMU_UPDATE, [at, 1 << 32, 0, own, 0]),
            (call::MMUEXT_OP, [at, 0, 0, own, 0]),
            (call::MULTICALL, [at, 0, 0, 0, 0]),
            (call::SET_GDT, [at, 0, 0, 0, 0]),
            (call::GRANT_TABLE_OP, [grant::MAP, at, 0, 0, 0]),
            (call::GRANT_TABLE_OP, [grant::COPY, at, 0, 0, 0]),
            (call::GRANT_TABLE_OP, [grant::SETUP_TABLE, at, 1 << 32, 0, 0]),
        ] {
            same("nothing to do", raw::call(number, arguments), 0)?;
        }
        let reservation = [at, 0, 0, own, 0];
        for command in [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP, memory::INCREASE_RESERVATION] {
            same("no frame", hypercall(call::MEMORY_OP, [command, (&raw const reservation) as u64, 0]), 0)?;
        }
    }
    let mut done = [77_u32, 77];
    same("none", raw::call(call::MMU_UPDATE, [HYPERVISOR, 0, (&raw mut done) as u64, own, 0]), 0)?;
    same("none was done", u64::from(done[0]) << 32 | u64::from(done[1]), 77_u64)?;
    same("nothing changed", is_untouched(&[page], 0), true)
}

/// Counts greater than what is there: what is there is done.
fn longer_than_its_memory() -> Outcome {
    let (page, end) = end_of_memory()?;
    let target = Own::new();
    for there in [1, 2, 7, 128, 129, 256] {
        for more in [1, 100, 1 << 20, 0x7fff_0000] {
            (0..512).for_each(|word| raw::store(target.word(word), 0));
            let at = end - there * UPDATE;
            write_changes(at, there, target);
            same("changes", i64::from(change(at, there + more) == (FAULT, there)), 1)?;
            same("of memory", changes(target), there)?;
        }
    }
    for there in [1, 2, 63, 64] {
        for more in [1, 100, 1 << 20] {
            let at = end - there * ENTRY;
            write_batch(at, there);
            same("a batch", hypercall(call::MULTICALL, [at, there + more, 0]), FAULT)?;
            same("what was done of it", answers(at, there), there)?;
        }
    }
    for there in [1, 16, 17, 100] {
        fill(&[page]);
        let at = end - there * 16;
        (0..there).for_each(|number| raw::store(at + number * 16, DOMID_SELF.into()));
        same("questions", hypercall(call::GRANT_TABLE_OP, [grant::QUERY_SIZE, at, there + 9]), FAULT)?;
        same("answers", (0..there).all(|number| raw::load(at + number * 16 + 8) as u32 == 8), true)?;
    }
    // Nothing of a list of frames that leaves memory is taken.
    let at = end - 8;
    raw::store(at, page.frame);
    same("descriptors", hypercall(call::SET_GDT, [at, 1024, 0]), FAULT)?;
    same("to write", page.show(RW), 0)
}

/// Work that takes many steps, with events in between: all of it is done once.
fn work_of_many_steps() -> Outcome {
    let list: [Own; 16] = Own::several();
    let target = Own::new();
    let at = list[0].at;
    write_changes(at, 4096, target);
    let period = 1_000_000_u64;
    let (bound, timer) = crate::kernel::abi::events::virq(event::VIRQ_TIMER, 0);
    same("a timer", bound, 0)?;
    same("often", hypercall(call::VCPU_OP, [vcpu::SET_PERIODIC_TIMER, 0, (&raw const period) as u64]), 0)?;
    let result = (0..4).try_for_each(|_| {
        (0..512).for_each(|word| raw::store(target.word(word), 0));
        same("changes", i64::from(change(at, 4096) == (0, 4096)), 1)?;
        same("of memory", (0..512).all(|word| raw::load(target.word(word)) == 3584 + word + 1), true)?;
        // A list in a batch goes on where it was, and what is behind it is done once.
        let mut done = 0_u32;
        let mut batch = [
            MulticallEntry { op: call::XEN_VERSION, ..MulticallEntry::default() },
            MulticallEntry {
                op: call::MMU_UPDATE,
                args: [at, 4096, (&raw mut done) as u64, DOMID_SELF.into(), 0, 0],
                result: 77,
            },
            MulticallEntry { op: call::XEN_VERSION, ..MulticallEntry::default() },
        ];
        same("a batch", hypercall(call::MULTICALL, [(&raw mut batch) as u64, 3, 0]), 0)?;
        same("its list", batch[1].result, 0_u64)?;
        same("was done", core::hint::black_box(done), 4096_u32)?;
        same("both others", i64::from(batch[0].result == VERSION && batch[2].result == VERSION), 1)
    });
    hypercall(call::VCPU_OP, [vcpu::STOP_PERIODIC_TIMER, 0, 0]);
    same("closed", number(event::CLOSE, timer), 0)?;
    result.and_then(|()| whole_tables_in_a_batch())
}

/// Each operation works through a whole table. A batch of such lists would keep a CPU for seconds, if no more were
/// counted than operations and calls; that is found by the longest stay in ring 0.
fn whole_tables_in_a_batch() -> Outcome {
    let [page, table, list] = Own::several();
    (0..512).for_each(|word| raw::store(table.word(word), page.entry(RO)));
    let table = table.read_only();
    for number in 0..64 {
        let command = if number % 2 == 0 { mmuext::PIN_L1 } else { mmuext::UNPIN };
        raw::store(list.word(number * 3), command.into());
        raw::store(list.word(number * 3 + 1), table.frame);
        raw::store(list.word(number * 3 + 2), 0);
    }
    let entry = MulticallEntry { op: call::MMUEXT_OP, args: [list.at, 64, 0, DOMID_SELF.into(), 0, 0], result: 77 };
    let mut batch = [entry; 16];
    same("a batch", hypercall(call::MULTICALL, [(&raw mut batch) as u64, 16, 0]), 0)?;
    same("each list", core::hint::black_box(&batch).iter().all(|entry| entry.result == 0), true)
}

/// Errors that a call can have.
const ERRORS: [i64; 16] = [1, 2, 3, 7, 11, 12, 13, 14, 16, 17, 19, 22, 28, 38, 61, 95];

/// Calls with random arguments: each answer is one that calls can give.
fn random_arguments() -> Outcome {
    // Lists of any length end with it.
    let (page, _) = end_of_memory()?;
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    // Not those that go elsewhere, end the VM, take handlers away, or write memory that is named by number.
    let numbers = [
        call::MMU_UPDATE,
        call::SET_GDT,
        call::FPU_TASKSWITCH,
        call::SET_DEBUGREG,
        call::GET_DEBUGREG,
        call::UPDATE_DESCRIPTOR,
        call::MEMORY_OP,
        call::MULTICALL,
        call::UPDATE_VA_MAPPING,
        call::SET_TIMER_OP,
        call::XEN_VERSION,
        call::GRANT_TABLE_OP,
        call::VM_ASSIST,
        call::MMUEXT_OP,
        call::EVENT_CHANNEL_OP,
        call::PHYSDEV_OP,
        22,
        40,
        63,
    ];
    let extremes =
        [0, 1, 2, 8, 31, 32, 255, 4096, 1 << 31, u32::MAX.into(), 1 << 32, 1 << 47, 1 << 63, HYPERVISOR, u64::MAX];
    for _ in 0..6_000 {
        let number = numbers[(next() % numbers.len() as u64) as usize];
        let arguments = [0; 5].map(|_: u64| match next() % 4 {
            0 => next(),
            1 => next() % 64,
            2 => page.at,
            _ => extremes[(next() % extremes.len() as u64) as usize],
        });
        (0..64).for_each(|word| raw::store(page.word(word), extremes[((word + number) % 4) as usize]));
        let result = raw::call(number, arguments);
        // A debug register can hold an address, which looks like an error.
        let gives = match number {
            call::GET_DEBUGREG => true,
            call::MEMORY_OP | call::XEN_VERSION => result > 0,
            _ => false,
        };
        if number == call::UPDATE_VA_MAPPING {
            same("the page is there", map(page.at, page.entry(RW)), 0)?;
        }
        let is_known = result == 0 || gives || ERRORS.iter().any(|error| result == -error);
        if !is_known {
            return same("an answer", i128::from(result), i128::from(number));
        }
    }
    // Batches may have taken the handlers away.
    trap::install(0);
    for assist in [0, 1, 2, 3, 4, 5, 32] {
        hypercall(call::VM_ASSIST, [1, assist, 0]);
    }
    hypercall(call::FPU_TASKSWITCH, [0, 0, 0]);
    hypercall(call::SET_TIMER_OP, [0, 0, 0]);
    let (own, level) = (DOMID_SELF, 0_u32);
    hypercall(call::EVENT_CHANNEL_OP, [event::RESET, (&raw const own) as u64, 0]);
    hypercall(call::PHYSDEV_OP, [6, (&raw const level) as u64, 0]);
    for register in [7, 0, 1, 2, 3] {
        hypercall(call::SET_DEBUGREG, [register, 0, 0]);
    }
    same("no table", hypercall(call::SET_GDT, [0, 0, 0]), 0)
}

/// Batches that stop early and are gone on with: each entry has its answer, no other is touched.
fn batches_in_pieces() -> Outcome {
    let list: [Own; 4] = Own::several();
    let at = list[0].at;
    for count in [2, 20, 64, 65, 130, 200] {
        for every in [1, 2, 3, 64] {
            write_batch(at, 256);
            for number in (0..count).filter(|number| number % every == every - 1) {
                raw::store(at + number * ENTRY, call::SCHED_OP);
                raw::store(at + number * ENTRY + 16, sched::YIELD);
            }
            same("a batch", hypercall(call::MULTICALL, [at, count, 0]), 0)?;
            for number in 0..256 {
                let wanted = match number {
                    _ if number >= count => UNTOUCHED,
                    _ if number % every == every - 1 => 0,
                    _ => VERSION,
                };
                same("an answer", raw::load(at + number * ENTRY + 8), wanted)?;
            }
        }
    }
    // An answer that is another entry's number: each entry is read once, when it is its turn.
    write_batch(at, 4);
    raw::store(at + 16, version::PLATFORM_PARAMETERS);
    raw::store(at + 24, at + ENTRY);
    same("a batch over itself", hypercall(call::MULTICALL, [at, 4, 0]), 0)?;
    same("the second is no call any more", raw::load(at + ENTRY + 8) as i64, error(Errno::NotImplemented))?;
    same("the third is", raw::load(at + 2 * ENTRY + 8), VERSION)
}

/// Thousands of refusals: each is answered as the first, and none fills anything.
fn refusals() -> Outcome {
    for round in 0..5_000_u64 {
        same("no such call", hypercall(40 + round % 20, [round; 3]), error(Errno::NotImplemented))?;
        same("no such operation", hypercall(call::SCHED_OP, [100 + round, 0, 0]), error(Errno::NotImplemented))?;
        same("no text", hypercall(call::CONSOLE_IO, [console::WRITE, 8, HYPERVISOR]), FAULT)?;
        same("no page", map(HYPERVISOR, round), error(Errno::Invalid))?;
    }
    Ok(())
}

/// Counts around each power of two, of lists of which two elements are there.
fn powers_of_two() -> Outcome {
    let (_, end) = end_of_memory()?;
    let target = Own::new();
    for bit in 0..64 {
        let power = 1_u64 << bit;
        for count in [power - 1, power, power.wrapping_add(1)] {
            (0..4).for_each(|word| raw::store(target.word(word), 0));
            let at = end - 2 * UPDATE;
            write_changes(at, 2, target);
            // The calls count with 31 bits.
            let counted = count & 0x7fff_ffff;
            let wanted = (if counted > 2 { FAULT } else { 0 }, counted.min(2));
            same("changes", i64::from(change(at, count) == wanted), 1)?;
            same("of memory", changes(target), wanted.1)?;
            let at = end - 2 * ENTRY;
            write_batch(at, 2);
            let result = hypercall(call::MULTICALL, [at, count, 0]);
            same("a batch", result, if count > 2 { FAULT } else { 0 })?;
            // Of one whose end is no address nothing is done.
            let has_end = count.checked_mul(ENTRY).and_then(|length| at.checked_add(length)).is_some();
            same("what was done of it", answers(at, 2), if has_end { count.min(2) } else { 0 })?;
        }
    }
    Ok(())
}

/// A wrong element at each place of a list: what is before it is done, and nothing behind it.
fn wrong_at_each_place() -> Outcome {
    let list: [Own; 3] = Own::several();
    let at = list[0].at;
    let target = Own::new();
    for place in (0..20).chain([63, 64, 126, 127, 128, 129, 191, 255, 256, 257, 298, 299]) {
        for wrong in [(target.machine(7) | 5, 7), (0x7f_ffff_ffff << 12, 7), (!7, 7)] {
            (0..512).for_each(|word| raw::store(target.word(word), 0));
            write_changes(at, 300, target);
            raw::store(at + place * UPDATE, wrong.0);
            raw::store(at + place * UPDATE + 8, wrong.1);
            let (result, done) = change(at, 300);
            same("refused", result < 0, true)?;
            same("what was done", done, place)?;
            same("of memory", changes(target), place)?;
        }
    }
    Ok(())
}

/// Whether the other vCPU got on.
static LONG: AtomicU64 = AtomicU64::new(0);
static LIST: AtomicU64 = AtomicU64::new(0);
static ROOT: AtomicU64 = AtomicU64::new(0);

/// One vCPU makes the longest calls, the other short ones.
fn long_and_short_calls() -> Outcome {
    fn long() {
        while !is_over() {
            let at = LIST.load(Ordering::SeqCst);
            let pinned = pin(4, ROOT.load(Ordering::SeqCst)) == 0;
            let changed = change(at, 2048) == (0, 2048);
            let unpinned = unpin(ROOT.load(Ordering::SeqCst)) == 0;
            LONG.fetch_add(u64::from(pinned && changed && unpinned), Ordering::SeqCst);
        }
    }
    let list: [Own; 8] = Own::several();
    let [target, first, second, third, root] = Own::several();
    write_changes(list[0].at, 2048, target);
    for (table, below) in [(second, first), (third, second), (root, third)] {
        for slot in (0..512).filter(|slot| table != root || !(256..272).contains(slot)) {
            raw::store(table.word(slot), below.entry(TABLE));
        }
    }
    let _ = [first, second, third, root].map(Own::read_only);
    LIST.store(list[0].at, Ordering::SeqCst);
    ROOT.store(root.frame, Ordering::SeqCst);
    LONG.store(0, Ordering::SeqCst);
    beside(long, || {
        let mut rounds = 0_u64;
        while LONG.load(Ordering::SeqCst) < 10 {
            same("a short call", hypercall(call::XEN_VERSION, [0, 0, 0]), VERSION as i64)?;
            same("a page", map(target.at, target.entry(RW)), 0)?;
            same("an operation", crate::kernel::world::extended(mmuext::INVLPG_LOCAL, target.at, 0), 0)?;
            rounds += 1;
        }
        same("both got on", rounds > 10, true)
    })?;
    flush();
    same("the last change", changes(target), 2048)
}

/// Both vCPUs ask without end, one of them changes page tables in between.
fn questions_without_end() -> Outcome {
    fn ask() {
        while !is_over() {
            LONG.fetch_add(u64::from(questions()), Ordering::SeqCst);
        }
    }
    /// Questions that take the locks of memory, grants, ports and vCPUs.
    fn questions() -> bool {
        let mut size = GrantQuerySize { dom: DOMID_SELF, ..GrantQuerySize::default() };
        let mut state = protocol::xen::structure::RunstateInfo::default();
        let mut port = protocol::xen::structure::EventStatus { dom: DOMID_SELF, port: 2, ..Default::default() };
        let own = DOMID_SELF;
        let answers = [
            hypercall(call::GRANT_TABLE_OP, [grant::QUERY_SIZE, (&raw mut size) as u64, 1]),
            hypercall(call::VCPU_OP, [vcpu::GET_RUNSTATE, 0, (&raw mut state) as u64]),
            hypercall(call::VCPU_OP, [vcpu::GET_RUNSTATE, 1, (&raw mut state) as u64]),
            hypercall(call::EVENT_CHANNEL_OP, [event::STATUS, (&raw mut port) as u64, 0]),
            i64::from(hypercall(call::MEMORY_OP, [memory::CURRENT_RESERVATION, (&raw const own) as u64, 0]) <= 0),
        ];
        answers == [0; 5]
    }
    let table = Own::new().read_only();
    LONG.store(0, Ordering::SeqCst);
    beside(ask, || {
        let mut rounds = 0;
        while rounds < 300 || LONG.load(Ordering::SeqCst) < 100 {
            same("answered", questions(), true)?;
            same("a table", pin(1, table.frame) + unpin(table.frame), 0)?;
            rounds += 1;
            if rounds % 50 == 0 {
                crate::kernel::smp::give_way();
            }
        }
        Ok(())
    })
}
