//! Runs any bytes as instructions, and says which exception ended them.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_sdk::frame::Frame;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::Map;
use guest_sdk::protocol::flags::MapFlags;
use guest_sdk::protocol::shared::TrapFrame;
use guest_sdk::{GuestVirt, SpaceId, Status, TrapContext, println, trap};
use hostile_support::touch;
use hostile_support::wild::go;

/// Where the bytes are put: the end of a page, behind which there is nothing.
const PAGE: u64 = 0x7000_0000;

/// An exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The vector.
    pub vector: u8,
    /// The error code.
    pub error_code: u64,
    /// The address of a page fault, else 0.
    pub address: u64,
    /// Where.
    pub rip: u64,
    /// The flags there.
    pub rflags: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// The first exception, if one came.
    pub fault: Option<Fault>,
    /// How many came.
    pub faults: u64,
    /// rax, rbx, rcx, rdx, rsi, rdi afterwards.
    pub registers: [u64; 6],
}

impl Ran {
    /// The vector of the first exception; 255 for none.
    pub fn vector(&self) -> u8 {
        self.fault.map_or(255, |fault| fault.vector)
    }
}

static ARMED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Vector, error code, address, rip and flags of the first exception.
static FIRST: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// Has every exception of this vCPU, and those that it starts later, end what [`Code::run`] runs.
pub fn install() -> Result<(), Status> {
    (0..32).filter(|vector| !trap::RESERVED.contains(vector)).try_for_each(|vector| trap::set_handler(vector, rescue))
}

/// Goes on at the address in r15, where the code under test was called.
fn rescue(context: &mut TrapContext) {
    if touch::end(context) {
        return;
    }
    if !ARMED.load(Ordering::Relaxed) {
        println!("attack FAIL: an exception {} in the attacker itself, at {:#x}", context.vector(), context.frame.rip);
        let _ = trap::clear_handler(context.vector());
        ARMED.store(true, Ordering::Relaxed);
    }
    if COUNT.fetch_add(1, Ordering::Relaxed) == 0 {
        let frame = &context.frame;
        let values = [u64::from(context.vector()), frame.error_code, frame.address, frame.rip, frame.rflags];
        for (slot, value) in FIRST.iter().zip(values) {
            slot.store(value, Ordering::Relaxed);
        }
    }
    const TRAP_FLAG: u64 = 1 << 8;
    context.frame.rflags &= !TRAP_FLAG;
    context.frame.rip = context.r15;
}

/// The page for code.
#[derive(Debug)]
pub struct Code {
    frame: Frame,
}

impl Code {
    /// Maps the page.
    pub fn new() -> Result<Code, Status> {
        let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
        let flags = MapFlags::EXECUTE;
        go(Map { space: SpaceId::FIRST, address: GuestVirt(PAGE), frame: frame.number(), count: 1, flags })?;
        Ok(Code { frame })
    }

    /// Runs bytes with values in rax, rbx, rcx, rdx, rsi and rdi, until they return, fall off the page,
    /// or an exception comes. They may change any register but r14 and r15.
    pub fn run(&self, bytes: &[u8], registers: [u64; 6]) -> Ran {
        let offset = 4095 - bytes.len();
        let _ = self.frame.write(offset, bytes) && self.frame.write(4095, &[0xc3]);
        self.run_at(PAGE + offset as u64, registers)
    }

    /// Puts bytes at an offset of the page.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        let _ = self.frame.write(offset, bytes);
    }

    /// The page's frame.
    pub fn number(&self) -> u64 {
        self.frame.number().0
    }

    /// As [`Code::run`], for code that is somewhere already.
    pub fn run_at(&self, address: u64, mut registers: [u64; 6]) -> Ran {
        COUNT.store(0, Ordering::Relaxed);
        ARMED.store(true, Ordering::Relaxed);
        // SAFETY: the function keeps what the ABI wants kept, and any exception leads to its end; what
        // the code itself does is a hostile guest's risk.
        unsafe { enter(registers.as_mut_ptr(), address) };
        ARMED.store(false, Ordering::Relaxed);
        let faults = COUNT.load(Ordering::Relaxed);
        let [vector, error_code, address, rip, rflags] = FIRST.each_ref().map(|word| word.load(Ordering::Relaxed));
        let fault = Fault { vector: vector as u8, error_code, address, rip, rflags };
        Ran { fault: (faults > 0).then_some(fault), faults, registers }
    }

    /// Reads a word.
    pub fn read(&self, address: u64) -> Result<u64, Fault> {
        let ran = self.run(&[0x48, 0x8b, 0x07], [0, 0, 0, 0, 0, address]);
        ran.fault.map_or(Ok(ran.registers[0]), Err)
    }

    /// Writes a word.
    pub fn write(&self, address: u64, value: u64) -> Result<(), Fault> {
        let ran = self.run(&[0x48, 0x89, 0x07], [value, 0, 0, 0, 0, address]);
        ran.fault.map_or(Ok(()), Err)
    }
}

/// What came of a `resume`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// It was refused; rax.
    Refused(u64),
    /// It went on as the frame says, with these flags.
    Flags(u64),
    /// It went on, and an exception came.
    Faulted,
}

const WENT_ON: u64 = 1 << 62;
const FAULTED: u64 = 1 << 61;

/// Makes the call `resume` with a frame. With `here`, the frame goes on in this function, on its stack.
/// Events are to be masked.
pub fn resume(frame: &mut TrapFrame, here: bool) -> Resumed {
    COUNT.store(0, Ordering::Relaxed);
    ARMED.store(true, Ordering::Relaxed);
    // SAFETY: the function keeps what the ABI wants kept, whatever becomes of the frame.
    let result = unsafe { resume_with(frame, u64::from(here)) };
    ARMED.store(false, Ordering::Relaxed);
    match result {
        FAULTED => Resumed::Faulted,
        flags if flags & WENT_ON != 0 && flags >> 63 == 0 => Resumed::Flags(flags & !WENT_ON),
        rax => Resumed::Refused(rax),
    }
}

/// As [`resume`], for a stack pointer where no frame may be; returns rax.
pub fn resume_at(stack: u64) -> u64 {
    let place = core::ptr::with_exposed_provenance_mut::<TrapFrame>(stack as usize);
    // SAFETY: as above; the function does not touch the frame without `here`.
    unsafe { resume_with(place, 0) }
}

/// Makes the call with rsp at the frame.
///
/// # Safety
/// With `here` the frame is the caller's.
#[unsafe(naked)]
unsafe extern "C" fn resume_with(frame: *mut TrapFrame, here: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov r14, rsp",
        "test rsi, rsi",
        "jz 2f",
        "lea rax, [rip + 3f]",
        "mov [rdi + 24], rax",
        "mov [rdi + 40], rsp",
        "2:",
        "lea r15, [rip + 4f]",
        "mov rsp, rdi",
        "mov eax, {resume}",
        "syscall",
        "mov rsp, r14",
        "jmp 5f",
        "3:",
        "pushfq",
        "pop rax",
        "bts rax, 62",
        "jmp 5f",
        "4:",
        "mov rsp, r14",
        "mov eax, 1",
        "shl rax, 61",
        "5:",
        "push 0x202",
        "popfq",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        resume = const guest_sdk::protocol::call::Resume::NUMBER,
    )
}

/// Calls `code` with registers from the array, and stores them there afterwards.
///
/// # Safety
/// The array is the caller's, and exceptions go on at the address in r15.
#[unsafe(naked)]
unsafe extern "C" fn enter(registers: *mut u64, code: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "mov r14, rsp",
        "lea r15, [rip + 2f]",
        "mov r13, rsi",
        "mov rax, [rdi]",
        "mov rbx, [rdi + 8]",
        "mov rcx, [rdi + 16]",
        "mov rdx, [rdi + 24]",
        "mov rsi, [rdi + 32]",
        "mov rdi, [rdi + 40]",
        "call r13",
        "2:",
        "mov rsp, r14",
        "push 0x202",
        "popfq",
        "xchg rdi, [rsp]",
        "mov [rdi], rax",
        "mov [rdi + 8], rbx",
        "mov [rdi + 16], rcx",
        "mov [rdi + 24], rdx",
        "mov [rdi + 32], rsi",
        "pop rax",
        "mov [rdi + 40], rax",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}

/// Faults with a stack pointer at which nothing can be written: the end of the VM.
pub fn lose_stack() {
    // SAFETY: none is needed: the VM ends here.
    unsafe { core::arch::asm!("mov rsp, {}", "ud2", in(reg) 0xffff_9000_0000_0000_u64) };
}
