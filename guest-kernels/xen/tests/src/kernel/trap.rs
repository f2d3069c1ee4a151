//! Traps: what the last one was, and going on behind what caused it.

use core::mem::offset_of;

use protocol::xen::structure::{CallbackRegister, TrapInfo};
use protocol::xen::{call, callback, event, segment};

use super::raw::{self, Shared};
use super::world::{self, hypercall};

/// What a handler finds on the stack, the registers pushed by it first.
#[repr(C)]
pub struct Frame {
    registers: [u64; 15],
    vector: u64,
    code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// A trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    /// Its vector; [`SYSTEM_CALL`], or [`EVENT`].
    pub vector: u64,
    /// The error code, or 0.
    pub code: u64,
    /// Where it was.
    pub rip: u64,
    /// The word of the frame that holds the code segment and the event mask.
    pub cs: u64,
    /// The flags.
    pub rflags: u64,
    /// The stack pointer.
    pub rsp: u64,
    /// The stack segment.
    pub ss: u64,
    /// Where the frame was.
    pub frame: u64,
    /// The event mask in the handler.
    pub mask: u8,
    /// The address that `vcpu_info` states.
    pub address: u64,
    /// The registers rax and rcx.
    pub registers: [u64; 2],
}

/// A system call from user mode.
pub const SYSTEM_CALL: u64 = 256;
/// An upcall.
pub const EVENT: u64 = 257;

/// The block of a vCPU that its GS leads to.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Local {
    number: u64,
    /// Where the handler is to go on, if a trap is expected.
    resume: u64,
    /// The stack to go back to from user mode.
    stack: u64,
    /// Traps so far.
    count: u64,
    /// The stack to go back to from elsewhere, if not 0.
    elsewhere: u64,
    last: Trap,
}

const NO_TRAP: Trap = Trap {
    vector: 0,
    code: 0,
    rip: 0,
    cs: 0,
    rflags: 0,
    rsp: 0,
    ss: 0,
    frame: 0,
    mask: 0,
    address: 0,
    registers: [0; 2],
};
const LOCAL: Local = Local { number: 0, resume: 0, stack: 0, count: 0, elsewhere: 0, last: NO_TRAP };

static LOCALS: [Shared<Local>; 2] =
    [Shared::new(Local { number: 0, ..LOCAL }), Shared::new(Local { number: 1, ..LOCAL })];
/// Ports whose events were taken, and how often any was.
static EVENTS: Shared<([u64; 64], u64)> = Shared::new(([0; 64], 0));

fn own() -> &'static Shared<Local> {
    &LOCALS[usize::from(raw::local(0) != 0)]
}

/// Where the block of a vCPU is.
pub fn block(vcpu: usize) -> u64 {
    LOCALS[vcpu].address()
}

/// Traps that this vCPU took.
pub fn count() -> u64 {
    raw::local(offset_of!(Local, count) as u64)
}

/// Whether there was a trap since a count.
pub fn since(before: u64) -> Result<(), Trap> {
    if count() == before { Ok(()) } else { Err(last()) }
}

/// The last one.
pub fn last() -> Trap {
    own().get().last
}

/// The ports that were raised, and upcalls.
pub fn events() -> ([u64; 64], u64) {
    EVENTS.get()
}

/// Forgets events.
pub fn forget_events() {
    EVENTS.set(([0; 64], 0));
}

/// A port that the handler of events sends to, and how often.
static CHAIN: Shared<(u32, u64)> = Shared::new((0, 0));

/// Has the handler of events send to a port itself, as often as is said.
pub fn send_from_handler(port: u32, times: u64) {
    CHAIN.set((port, times));
}

/// A handler's flags: its events are masked.
const MASKED: u8 = 4;

/// One entry of a trap table.
pub fn entry(vector: u8, flags: u8) -> TrapInfo {
    TrapInfo { vector, flags, address: raw::handler(vector.into()), ..TrapInfo::default() }
}

/// The trap table that this kernel has: 33 may be raised by the kernel, 34 by nobody but it, 128 by all.
pub fn table() -> [TrapInfo; 32] {
    let mut table = [TrapInfo::default(); 32];
    let vectors = [0, 1, 2, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21];
    let plain = vectors.map(|vector| entry(vector, MASKED));
    let soft = [entry(3, MASKED | 3), entry(4, MASKED | 3), entry(32, 0), entry(33, 1), entry(34, 3), entry(128, 3)];
    for (slot, entry) in table.iter_mut().zip(plain.into_iter().chain(soft)) {
        *slot = entry;
    }
    table
}

/// Makes all handlers known, of this vCPU.
pub fn install(vcpu: usize) {
    hypercall(call::SET_SEGMENT_BASE, [segment::GS_KERNEL, block(vcpu), 0]);
    TABLE.set(table());
    hypercall(call::SET_TRAP_TABLE, [TABLE.address(), 0, 0]);
    for (kind, handler) in [(callback::EVENT, 257), (callback::SYSCALL, 256)] {
        let request = CallbackRegister { kind, address: raw::handler(handler), ..CallbackRegister::default() };
        hypercall(call::CALLBACK_OP, [callback::REGISTER, (&raw const request) as u64, 0]);
    }
}

static TABLE: Shared<[TrapInfo; 32]> = Shared::new([TrapInfo { vector: 0, flags: 0, cs: 0, pad0: 0, address: 0 }; 32]);

/// Takes a trap.
pub fn take(frame: &mut Frame) {
    let local = own();
    let mut block = local.get();
    let info = world::info(block.number as usize);
    let trap = Trap {
        vector: frame.vector,
        code: frame.code,
        rip: frame.rip,
        cs: frame.cs,
        rflags: frame.rflags,
        rsp: frame.rsp,
        ss: frame.ss,
        frame: (&raw const frame.rip) as u64 - 16,
        mask: raw::load_byte(info + 1),
        address: raw::load(info + 16),
        registers: [frame.registers[14], frame.registers[12]],
    };
    block.count += 1;
    block.last = trap;
    if frame.vector == EVENT {
        local.set(block);
        return take_events(info);
    }
    let is_user = frame.cs & 3 == 3;
    let resume = block.resume;
    block.resume = 0;
    if is_user {
        frame.rip = raw::left_user();
        frame.rsp = block.stack;
    } else if resume != 0 {
        frame.rip = resume;
    } else {
        local.set(block);
        panic!("unexpected {trap:x?}");
    }
    if block.elsewhere != 0 {
        frame.rip = resume;
        frame.rsp = block.elsewhere;
        block.elsewhere = 0;
    }
    frame.cs = 0xe030;
    frame.ss = 0xe02b;
    frame.rflags &= 0x202;
    local.set(block);
}

/// Takes all events of a vCPU.
fn take_events(info: u64) {
    let (mut ports, upcalls) = EVENTS.get();
    raw::store_byte(info, 0);
    let chosen = raw::exchange(info + 8, 0);
    for word in (0..64).filter(|word| chosen >> word & 1 == 1) {
        ports[word as usize] |= raw::exchange(world::shared() + 2048 + word * 8, 0);
    }
    EVENTS.set((ports, upcalls + 1));
    let (port, left) = CHAIN.get();
    if left > 0 {
        CHAIN.set((port, left - 1));
        hypercall(call::EVENT_CHANNEL_OP, [event::SEND, (&raw const port) as u64, 0]);
    }
}
