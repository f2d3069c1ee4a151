//! What the kernel knows of its memory, and calls by name.

use core::fmt::{self, Debug, Write};

use protocol::xen::structure::{GrantSetupTable, MmuUpdate, MmuextOp, StartInfo};
use protocol::xen::{DOMID_SELF, Errno, M2P_START, call, console, grant, sched};
use zerocopy::FromBytes;

use super::raw::{self, Page, Shared};

/// Where guest frame 0 appears.
pub const BASE: u64 = 0xffff_ffff_8000_0000;
/// Bits of entries: a page to write, one to read, a table.
pub const RW: u64 = 0x67;
/// See [`RW`].
pub const RO: u64 = 0x65;
/// See [`RW`].
pub const TABLE: u64 = 0x67;
/// The bits of an entry that hold the frame.
pub const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Pages to work with.
pub const PAGES: usize = 160;
static POOL: [Page; PAGES] = [const { Page::zero() }; PAGES];
/// The next one that is free.
static NEXT: Shared<usize> = Shared::new(0);
/// Frames of the table of grants.
const GRANT_FRAMES: usize = 8;
static GRANTS: Shared<[u64; GRANT_FRAMES]> = Shared::new([0; GRANT_FRAMES]);

/// The frames of the table of grants.
pub fn grant_frames() -> [u64; GRANT_FRAMES] {
    let known = GRANTS.get();
    if known[0] != 0 {
        return known;
    }
    let mut list = [0_u64; GRANT_FRAMES];
    let mut asked = GrantSetupTable {
        dom: DOMID_SELF,
        nr_frames: GRANT_FRAMES as u32,
        frame_list: (&raw mut list) as u64,
        ..GrantSetupTable::default()
    };
    let result = hypercall(call::GRANT_TABLE_OP, [grant::SETUP_TABLE, (&raw mut asked) as u64, 1]);
    check("the table of grants", (result, asked.status), (0, 0));
    GRANTS.set(list);
    list
}

/// Where the shared page is shown.
static SHARED: Page = Page::zero();
/// The start info, the list of machine frames, and guest frames.
static START: Shared<[u64; 6]> = Shared::new([0; 6]);
/// The command line.
static COMMAND: Shared<([u8; 64], usize)> = Shared::new(([0; 64], 0));

/// What a call with three arguments at most returns.
pub fn hypercall(number: u64, [first, second, third]: [u64; 3]) -> i64 {
    raw::call(number, [first, second, third, 0, 0])
}

/// What a call returns for an error.
pub const fn error(errno: Errno) -> i64 {
    errno.to_register() as i64
}

/// Reads the start info and shows the shared page.
pub fn begin(address: u64) {
    let mut bytes = [0; size_of::<StartInfo>()];
    for (offset, byte) in bytes.iter_mut().enumerate() {
        *byte = raw::load_byte(address + offset as u64);
    }
    let Ok(info) = StartInfo::read_from_bytes(&bytes) else { return };
    START.set([address, info.mfn_list, info.nr_pages, info.pt_base, info.shared_info, info.console_mfn]);
    let mut line = [0; 64];
    let end = info.cmd_line.iter().position(|byte| *byte == 0).unwrap_or(64).min(64);
    line[..end].copy_from_slice(&info.cmd_line[..end]);
    COMMAND.set((line, end));
    hypercall(call::UPDATE_VA_MAPPING, [SHARED.address(), info.shared_info | RW, 2]);
}

/// Calls something with the command line.
pub fn with_command<T>(action: impl FnOnce(&str) -> T) -> T {
    let (line, end) = COMMAND.get();
    action(core::str::from_utf8(&line[..end]).unwrap_or(""))
}

/// Where the start info is.
pub fn start_info() -> u64 {
    START.get()[0]
}

/// Guest frames.
pub fn frames() -> u64 {
    START.get()[2]
}

/// Where the first root is.
pub fn first_root() -> u64 {
    START.get()[3]
}

/// The frame of the shared page.
pub fn shared_frame() -> u64 {
    START.get()[4] >> 12
}

/// The frame of the console.
pub fn console_frame() -> u64 {
    START.get()[5]
}

/// Where the shared page is shown.
pub fn shared() -> u64 {
    SHARED.address()
}

/// Where the record of a vCPU is.
pub fn info(vcpu: usize) -> u64 {
    SHARED.address() + vcpu as u64 * 64
}

/// Where the list of machine frames is.
pub fn list() -> u64 {
    START.get()[1]
}

/// The machine frame of a guest frame.
pub fn frame_of(guest_frame: u64) -> u64 {
    raw::load(START.get()[1] + guest_frame * 8)
}

/// The machine frame of an address of the first mapping.
pub fn frame_at(address: u64) -> u64 {
    frame_of((address - BASE) >> 12)
}

/// Where a machine frame of the VM appears.
pub fn place_of(frame: u64) -> u64 {
    BASE + (raw::load(M2P_START + frame * 8) << 12)
}

/// A page of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Where it is shown.
    pub at: u64,
    /// Its machine frame.
    pub frame: u64,
}

impl Own {
    /// Takes one; it is zero.
    pub fn new() -> Own {
        let next = NEXT.get();
        let Some(page) = POOL.get(next) else { panic!("the pages are too few") };
        NEXT.set(next + 1);
        Own { at: page.address(), frame: frame_at(page.address()) }
    }

    /// Some.
    pub fn several<const N: usize>() -> [Own; N] {
        core::array::from_fn(|_| Own::new())
    }

    /// An entry that leads to it.
    pub fn entry(self, bits: u64) -> u64 {
        self.frame << 12 | bits
    }

    /// Where a word of it is.
    pub fn word(self, index: u64) -> u64 {
        self.at + index * 8
    }

    /// The machine address of a word.
    pub fn machine(self, index: u64) -> u64 {
        (self.frame << 12) | (index * 8)
    }

    /// Shows it at its own place: with these bits.
    pub fn show(self, bits: u64) -> i64 {
        map(self.at, self.entry(bits))
    }

    /// Shows it for reading only.
    pub fn read_only(self) -> Own {
        let shown = self.show(RO);
        assert!(shown == 0, "made read-only: {shown}");
        self
    }
}

/// Pages that are in use.
pub fn pages_in_use() -> usize {
    NEXT.get()
}

/// Gives all pages but the first `keep` back: each must be plain memory again, and becomes zero. How many are not.
pub fn give_back(keep: usize) -> usize {
    let mut stuck = 0;
    for page in POOL.iter().take(NEXT.get()).skip(keep) {
        let own = Own { at: page.address(), frame: frame_at(page.address()) };
        let shown = own.show(RW);
        if shown != 0 {
            say(format_args!("the page of frame {:#x} is stuck: {shown}", own.frame));
            stuck += 1;
            continue;
        }
        flush();
        (0..512).for_each(|word| raw::store(own.word(word), 0));
    }
    NEXT.set(keep);
    stuck
}

/// One element of `mmu_update`.
pub fn update(request: u64, value: u64) -> i64 {
    update_for(request, value, DOMID_SELF.into())
}

/// The same, in the name of a domain.
pub fn update_for(request: u64, value: u64, domain: u64) -> i64 {
    let element = MmuUpdate { ptr: request, val: value };
    raw::call(call::MMU_UPDATE, [(&raw const element) as u64, 1, 0, domain, 0])
}

/// One `mmuext_op`.
pub fn extended(cmd: u32, arg1: u64, arg2: u64) -> i64 {
    let element = MmuextOp { cmd, arg1, arg2, pad0: 0 };
    raw::call(call::MMUEXT_OP, [(&raw const element) as u64, 1, 0, DOMID_SELF.into(), 0])
}

/// Pins a page table of a level, 1 to 4.
pub fn pin(level: u32, frame: u64) -> i64 {
    extended(level - 1, frame, 0)
}

/// Unpins a page table.
pub fn unpin(frame: u64) -> i64 {
    extended(protocol::xen::mmuext::UNPIN, frame, 0)
}

/// Forgets all translations of this vCPU.
pub fn flush() -> i64 {
    extended(protocol::xen::mmuext::TLB_FLUSH_LOCAL, 0, 0)
}

/// Changes the entry that maps an address, and forgets that.
pub fn map(address: u64, value: u64) -> i64 {
    hypercall(call::UPDATE_VA_MAPPING, [address, value, 2])
}

/// The same without forgetting anything.
pub fn map_lazily(address: u64, value: u64) -> i64 {
    hypercall(call::UPDATE_VA_MAPPING, [address, value, 0])
}

/// The frame of the table of a level that leads to an address, and the entry.
pub fn table_of(level: u32, address: u64) -> (u64, u64) {
    let mut frame = frame_at(first_root());
    for above in (level + 1..5).rev() {
        let entry = raw::load(place_of(frame) + slot(above, address) * 8);
        frame = (entry & FRAME) >> 12;
    }
    (frame, slot(level, address))
}

/// The entry of an address in a table of a level.
pub const fn slot(level: u32, address: u64) -> u64 {
    address >> (3 + 9 * level) & 511
}

/// The machine address of the entry that maps an address.
pub fn entry_of(address: u64) -> u64 {
    let (table, slot) = table_of(1, address);
    (table << 12) | (slot * 8)
}

/// Four tables that lead to a page of user mode at `0x400000`: from the root on.
pub fn user_tree(pages: &[(u64, u64)]) -> [Own; 4] {
    let tables: [Own; 4] = Own::several();
    let [root, third, second, first] = tables;
    for (table, index, entry) in
        [(root, 0, third.entry(TABLE)), (third, 0, second.entry(TABLE)), (second, 2, first.entry(TABLE))]
    {
        raw::store(table.word(index), entry);
    }
    for (index, entry) in pages {
        raw::store(first.word(*index), *entry);
    }
    tables.map(Own::read_only)
}

/// A line for the console.
struct Line {
    bytes: [u8; 250],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(slot) = self.bytes.get_mut(self.length) {
                *slot = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// Writes a line.
pub fn say(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 250], length: 0 };
    // It cannot fail.
    let _ = writeln!(line, "{text}");
    let length = line.length;
    if let Some(last) = line.bytes.get_mut(249).filter(|_| length == 250) {
        *last = b'\n';
    }
    raw::call(call::CONSOLE_IO, [console::WRITE, length as u64, (&raw const line.bytes) as u64, 0, 0]);
}

/// Ends the VM.
pub fn shut_down(reason: u32) -> ! {
    loop {
        hypercall(call::SCHED_OP, [sched::SHUTDOWN, (&raw const reason) as u64, 0]);
    }
}

/// Has a hypervisor that is built for it recount all frames.
pub fn recount() {
    hypercall(call::XEN_VERSION, [u64::MAX, 0, 0]);
}

/// Checks that passed and failed.
static TALLY: Shared<[u32; 2]> = Shared::new([0; 2]);

/// Counts a check.
pub fn check<T: Debug + PartialEq>(what: &str, got: T, wanted: T) {
    let [passed, failed] = TALLY.get();
    if got == wanted {
        TALLY.set([passed + 1, failed]);
    } else {
        TALLY.set([passed, failed + 1]);
        say(format_args!("FAIL {what}: {got:x?}, not {wanted:x?}"));
    }
}

/// What all checks came to.
pub fn tally() -> [u32; 2] {
    TALLY.get()
}
