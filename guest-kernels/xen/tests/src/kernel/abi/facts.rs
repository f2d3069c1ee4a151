//! What a guest is told, and its memory.

use protocol::xen::structure::{MachphysMapping, MemoryMap, MemoryReservation, MulticallEntry};
use protocol::xen::{
    DOMID_SELF, Errno, M2P_END, M2P_INVALID, M2P_START, VERSION, assist, call, console, memory, physdev, version,
};

use crate::kernel::raw;
use crate::kernel::world::{
    Own, RW, check, error, frame_at, frames, hypercall, map, place_of, shared_frame, start_info,
};

/// An address in the hypervisor's range, and one that is none.
pub const HYPERVISOR: u64 = 0xffff_8300_0000_0000;
/// See [`HYPERVISOR`].
pub const HOLE: u64 = 0x8000_0000_0000_0000;

pub fn run() {
    start();
    page_of_calls();
    versions();
    unknown();
    memory_facts();
    reservations();
    services();
    batches();
}

fn start() {
    let word = |offset: u64| raw::load(start_info() + offset);
    check("magic", word(0), u64::from_le_bytes(*b"xen-3.0-"));
    check("frames are there", word(32) > 256, true);
    check("shared info is a machine address", word(40) & 0xfff, 0);
    check("flag of the linear list", word(48) & 0x10, 0x10);
    check("port of the console", word(80) & 0xffff_ffff, 2);
    check("root is in the first mapping", word(88) & 0xfff, 0);
    check("list of machine frames", word(104) & 7, 0);
    check("the two lists agree", place_of(frame_at(start_info() & !0xfff)), start_info() & !0xfff);
    check("shared frame is in no list", raw::load(M2P_START + shared_frame() * 8), M2P_INVALID);
}

fn page_of_calls() {
    for number in [0_u64, 17, 23, 63, 127] {
        let stub = raw::page_of_calls() + number * 32;
        let bytes: [u8; 11] = core::array::from_fn(|offset| raw::load_byte(stub + offset as u64));
        let wanted: [u8; 11] = if number == 23 {
            [0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05]
        } else {
            [0x51, 0x41, 0x53, 0xb8, number as u8, 0, 0, 0, 0x0f, 0x05, 0x41]
        };
        check("stub", bytes, wanted);
    }
    check("call by a stub", raw::call_by_page(call::XEN_VERSION, [0; 5]), VERSION as i64);
    check("registers that a call keeps", raw::call_keeping(call::XEN_VERSION, 0), (VERSION as i64, 0));
    check("registers that an error keeps", raw::call_keeping(63, 7), (error(Errno::NotImplemented), 0));
}

fn versions() {
    let page = Own::new();
    let ask = |command, argument| hypercall(call::XEN_VERSION, [command, argument, 0]);
    let fill = || (0..512).for_each(|word| raw::store(page.word(word), u64::MAX));
    check("version", ask(version::VERSION, 0), VERSION as i64);
    for (command, bytes) in [
        (version::EXTRA_VERSION, 16_u64),
        (version::COMPILE_INFO, 144),
        (version::CAPABILITIES, 1024),
        (version::CHANGE_SET, 64),
        (version::COMMAND_LINE, 1024),
    ] {
        fill();
        check("a text", ask(command, page.at), 0);
        check("ends with zero", raw::load_byte(page.at + bytes - 1), 0);
        check("nothing behind it", raw::load(page.at + bytes), u64::MAX);
    }
    check(
        "capabilities",
        (ask(version::CAPABILITIES, page.at), raw::load(page.at)),
        (0, u64::from_le_bytes(*b"xen-3.0-")),
    );
    check("where the hypervisor is", (ask(version::PLATFORM_PARAMETERS, page.at), raw::load(page.at)), (0, M2P_START));
    raw::store(page.at, 0);
    check("features", (ask(version::GET_FEATURES, page.at), raw::load(page.at) >> 32 & 0xa0), (0, 0xa0));
    check("features that must not be", raw::load(page.at) >> 32 & 0x80f, 0);
    raw::store(page.at, 1);
    check("no more features", ask(version::GET_FEATURES, page.at), error(Errno::Invalid));
    check("page size", ask(version::PAGE_SIZE, 0), 4096);
    check("a name of 16 bytes", ask(version::GUEST_HANDLE, page.at), 0);
    check("no build id", ask(version::BUILD_ID, 0), error(Errno::NoData));
    for place in [0, 0x10_0000_0000, HYPERVISOR, HOLE, u64::MAX, M2P_START] {
        check("nowhere to write to", ask(version::CAPABILITIES, place), error(Errno::Fault));
    }
    page.read_only();
    check("a page that cannot be written", ask(version::CAPABILITIES, page.at), error(Errno::Fault));
}

fn unknown() {
    for number in [11, 22, 31, 35, 36, 39, 48, 63, 64, 127, 1 << 31, 1 << 32, u64::MAX] {
        check("no such call", hypercall(number, [0; 3]), error(Errno::NotImplemented));
    }
    let cases = [
        (call::XEN_VERSION, 99),
        (call::MEMORY_OP, 63),
        (call::SCHED_OP, 77),
        (call::EVENT_CHANNEL_OP, 11),
        (call::EVENT_CHANNEL_OP, 99),
        (call::CALLBACK_OP, 9),
        (call::PHYSDEV_OP, 99),
        (call::CONSOLE_IO, 9),
    ];
    for (number, command) in cases {
        check("no such command", (number, hypercall(number, [command, 0, 0])), (number, error(Errno::NotImplemented)));
    }
    check("no such command of a vCPU", hypercall(call::VCPU_OP, [99, 0, 0]), error(Errno::NotImplemented));
}

fn memory_facts() {
    let ask = |command, argument: u64| hypercall(call::MEMORY_OP, [command, argument, 0]);
    let own = DOMID_SELF;
    let own = (&raw const own) as u64;
    check("frames that it has", ask(memory::MAXIMUM_RESERVATION, own), frames() as i64);
    let mut mapping = MachphysMapping::default();
    check("the list of frames", ask(memory::MACHPHYS_MAPPING, (&raw mut mapping) as u64), 0);
    check("where it is", [mapping.v_start, mapping.v_end], [M2P_START, M2P_END]);
    let page = Own::new();
    let mut map = MemoryMap { nr_entries: 8, buffer: page.at, ..MemoryMap::default() };
    check("memory map", ask(memory::MEMORY_MAP, (&raw mut map) as u64), 0);
    let region = [raw::load(page.at), raw::load(page.at + 8), raw::load(page.at + 16)];
    check("its region", (region, map.nr_entries), ([0, frames() << 12, 1], 1));
    map.nr_entries = 0;
    check("no room", ask(memory::MEMORY_MAP, (&raw mut map) as u64), error(Errno::Invalid));
    check("the machine's map", ask(memory::MACHINE_MEMORY_MAP, (&raw mut map) as u64), error(Errno::NotPermitted));
    check("a map nowhere", ask(memory::MEMORY_MAP, HYPERVISOR), error(Errno::Fault));
    check("the greatest guest frame", ask(memory::MAXIMUM_GPFN, own), frames() as i64 - 1);
}

/// Gives frames back and takes them; as many as asked for or how many were done.
pub fn reserve(operation: u64, first: &mut [u64], domid: u16) -> i64 {
    let reservation = MemoryReservation {
        extent_start: first.as_mut_ptr() as u64,
        nr_extents: first.len() as u64,
        domid,
        ..MemoryReservation::default()
    };
    hypercall(call::MEMORY_OP, [operation, (&raw const reservation) as u64, 0])
}

fn reservations() {
    let [page, other] = Own::several();
    let give = |frames: &mut [u64]| reserve(memory::DECREASE_RESERVATION, frames, DOMID_SELF);
    let take = |frames: &mut [u64]| reserve(memory::POPULATE_PHYSMAP, frames, DOMID_SELF);
    check("a frame that is shown", give(&mut [page.frame]), 0);
    check("a frame of nobody", give(&mut [u64::MAX]), 0);
    check("another VM's name", reserve(memory::DECREASE_RESERVATION, &mut [page.frame], 1), error(Errno::NotPermitted));
    check(
        "list that cannot be read",
        {
            let reservation =
                MemoryReservation { extent_start: HYPERVISOR, nr_extents: 1, domid: DOMID_SELF, ..Default::default() };
            hypercall(call::MEMORY_OP, [memory::DECREASE_RESERVATION, (&raw const reservation) as u64, 0])
        },
        error(Errno::Fault),
    );
    raw::store(other.at, 0x5ec2e7);
    check("hidden", map(other.at, 0), 0);
    check("the second is shown", give(&mut [other.frame, page.frame]), 1);
    check("no longer its own", map(other.at, other.entry(RW)), error(Errno::Busy));
    check("no longer listed", raw::load(M2P_START + other.frame * 8), M2P_INVALID);
    let mut taken = [(other.at - crate::kernel::world::BASE) >> 12];
    check("taken again", take(&mut taken), 1);
    check("listed", place_of(taken[0]), other.at);
    check("shown", map(other.at, taken[0] << 12 | RW), 0);
    check("it is clear", raw::load(other.at), 0);
    check("the same frame, as no other was free before", taken[0], other.frame);
}

fn services() {
    let ask = |command, which| hypercall(call::VM_ASSIST, [command, which, 0]);
    for which in [0, 1, 2, 3, 5] {
        check("a service", ask(assist::ENABLE, which), 0);
    }
    for which in [6, 31, 33, 64, u64::MAX] {
        check("no such service", ask(assist::ENABLE, which), error(Errno::Invalid));
    }
    check("no such command", ask(7, 2), error(Errno::NotImplemented));
    let level = |level: u32| hypercall(call::PHYSDEV_OP, [physdev::SET_IOPL, (&raw const level) as u64, 0]);
    check("levels", [level(0), level(3), level(1), level(0)], [0; 4]);
    check("no such level", [level(4), level(u32::MAX)], [error(Errno::Invalid); 2]);
    let write = |count, at| hypercall(call::CONSOLE_IO, [console::WRITE, count, at]);
    check("nothing to write", write(0, 0), 0);
    check("text that cannot be read", [write(8, HYPERVISOR), write(8, 16)], [error(Errno::Fault); 2]);
    check("nothing to read", hypercall(call::CONSOLE_IO, [console::READ, 8, start_info()]), 0);
}

fn batches() {
    let entry = |op, first| MulticallEntry { op, args: [first, 0, 0, 0, 0, 0], ..MulticallEntry::default() };
    let mut entries = [
        entry(call::XEN_VERSION, version::PAGE_SIZE),
        entry(99, 0),
        entry(call::MULTICALL, 0),
        entry(call::XEN_VERSION, version::VERSION),
    ];
    let run = |at: u64, count: u64| hypercall(call::MULTICALL, [at, count, 0]);
    check("a batch", run((&raw mut entries) as u64, 4), 0);
    let results = entries.map(|entry| entry.result as i64);
    check("its results", results, [4096, error(Errno::NotImplemented), error(Errno::Invalid), VERSION as i64]);
    check("none", run(0, 0), 0);
    for (at, count) in [(HYPERVISOR, 1), (HOLE, 1), (16, 1), ((&raw mut entries) as u64, u64::MAX), (u64::MAX, 1)] {
        check("no batch", run(at, count), error(Errno::Fault));
    }
    let many = Own::new();
    for number in 0..64 {
        raw::store(many.word(number * 8), call::XEN_VERSION);
        raw::store(many.word(number * 8 + 1), 7);
    }
    check("a long one", run(many.at, 64), 0);
    check("all are done", (0..64).all(|number| raw::load(many.word(number * 8 + 1)) == VERSION), true);
}
