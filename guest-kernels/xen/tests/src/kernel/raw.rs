//! Calls, memory and instructions as they are. Everything unsafe of this kernel is here. Its functions are safe to
//! call in one sense only: whatever they break is this VM, and then the test fails.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use super::trap::Frame;

global_asm!(
    include_str!("entry.s"),
    stacks = sym STACKS,
    main = sym start,
    second = sym second,
    on_trap = sym on_trap,
);

/// The stacks of both vCPUs.
#[repr(C, align(4096))]
struct Stacks(UnsafeCell<[u8; 0x10000]>);

// SAFETY: only the stack pointers of the two vCPUs, a half each, lead there.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(UnsafeCell::new([0; 0x10000]));

extern "C" fn start(info: u64, stack: u64, cs: u64, ss: u64) -> ! {
    super::main(info, stack, [cs, ss])
}

extern "C" fn second() -> ! {
    super::smp::second()
}

extern "C" fn on_trap(frame: &mut Frame) {
    super::trap::take(frame);
}

unsafe extern "C" {
    safe static hypercall_page: u8;
    safe static second_start: u8;
    safe static user_left: u8;
    safe static user_code: u8;
    safe static user_syscall: u8;
    safe static user_read: u8;
    safe static user_write: u8;
    safe static user_int33: u8;
    safe static user_int34: u8;
    safe static user_int128: u8;
    safe static user_ud: u8;
    safe static user_cli: u8;
    safe fn run_user(rip: u64, rsp: u64, argument: u64, rflags: u64);
}

/// Addresses of the symbols above.
macro_rules! places {
    ($($name:ident = $symbol:ident;)*) => { $(
        #[doc = concat!("Where `", stringify!($symbol), "` is.")]
        pub fn $name() -> u64 { (&raw const $symbol) as u64 }
    )* };
}

places! {
    page_of_calls = hypercall_page;
    start_of_second = second_start;
    left_user = user_left;
    code_of_user = user_code;
    user_call = user_syscall;
    user_reads = user_read;
    user_writes = user_write;
    user_int_33 = user_int33;
    user_int_34 = user_int34;
    user_int_128 = user_int128;
    user_undefined = user_ud;
    user_disables = user_cli;
}

/// Goes to user mode until it traps or calls.
pub fn enter_user(rip: u64, rsp: u64, argument: u64, rflags: u64) {
    run_user(rip, rsp, argument, rflags);
}

/// Declares the handlers.
macro_rules! handlers {
    ($($number:literal)*) => {
        /// Where the handler of a vector is.
        pub fn handler(vector: u16) -> u64 {
            match vector {
                $($number => {
                    unsafe extern "C" {
                        #[link_name = concat!("handler_", $number)]
                        safe static PLACE: u8;
                    }
                    (&raw const PLACE) as u64
                })*
                _ => 0,
            }
        }
    };
}

handlers! { 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 128 256 257 }

/// A call.
pub fn call(number: u64, arguments: [u64; 5]) -> i64 {
    let [first, second, third, fourth, fifth] = arguments;
    let result: i64;
    // SAFETY: see the module.
    unsafe {
        asm!(
            "syscall",
            inout("rax") number => result,
            inout("rdi") first => _, inout("rsi") second => _, inout("rdx") third => _, inout("r10") fourth => _,
            inout("r8") fifth => _, out("rcx") _, out("r11") _,
        );
    }
    result
}

/// The same through the page of stubs.
pub fn call_by_page(number: u64, arguments: [u64; 5]) -> i64 {
    let [first, second, third, fourth, fifth] = arguments;
    let result: i64;
    // SAFETY: see the module.
    unsafe {
        asm!(
            "call {stub}",
            stub = in(reg) page_of_calls() + number * 32,
            out("rax") result,
            inout("rdi") first => _, inout("rsi") second => _, inout("rdx") third => _, inout("r10") fourth => _,
            inout("r8") fifth => _,
        );
    }
    result
}

/// A call with a value in every register that it must keep; those that it did not keep, a bit each.
pub fn call_keeping(number: u64, argument: u64) -> (i64, u64) {
    let pattern = 0xa5a5_0000_5a5a_ffff_u64;
    let (result, changed): (i64, u64);
    // SAFETY: see the module. rbx and rbp are put back.
    unsafe {
        asm!(
            "push rbx", "push rbp", "push r15",
            "mov r15, {pattern}", "mov rbx, r15", "mov rbp, r15", "mov r9, r15", "mov r12, r15", "mov r13, r15", "mov r14, r15",
            "mov rdx, r15", "mov r10, r15", "mov r8, r15", "mov rsi, r15",
            "syscall",
            "xor rcx, rcx",
            "xor rbx, r15", "or rcx, rbx", "xor rbp, r15", "or rcx, rbp", "xor r9, r15", "or rcx, r9",
            "xor r12, r15", "or rcx, r12", "xor r13, r15", "or rcx, r13", "xor r14, r15", "or rcx, r14",
            "xor rdx, r15", "or rcx, rdx", "xor r10, r15", "or rcx, r10", "xor r8, r15", "or rcx, r8",
            "xor rsi, r15", "or rcx, rsi",
            "pop r15", "pop rbp", "pop rbx",
            pattern = in(reg) pattern,
            inout("rax") number => result, inout("rdi") argument => _,
            out("rcx") changed, out("r11") _, out("rdx") _, out("r10") _, out("r8") _, out("rsi") _, out("r9") _,
            out("r12") _, out("r13") _, out("r14") _,
        );
    }
    (result, changed)
}

/// Reads a word, which must not fault.
pub fn load(address: u64) -> u64 {
    // SAFETY: see the module.
    unsafe { core::ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() }
}

/// Writes a word, which must not fault.
pub fn store(address: u64, value: u64) {
    // SAFETY: see the module.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) }
}

/// Reads a byte.
pub fn load_byte(address: u64) -> u8 {
    // SAFETY: see the module.
    unsafe { core::ptr::with_exposed_provenance::<u8>(address as usize).read_volatile() }
}

/// Writes a byte.
pub fn store_byte(address: u64, value: u8) {
    // SAFETY: see the module.
    unsafe { core::ptr::with_exposed_provenance_mut::<u8>(address as usize).write_volatile(value) }
}

/// Puts a value in place of a word and returns what was there.
pub fn exchange(address: u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: see the module.
    unsafe { asm!("xchg [{at}], {value}", at = in(reg) address, value = inout(reg) value) };
    value
}

/// Reads a word of the vCPU's own block.
pub fn local(offset: u64) -> u64 {
    let value: u64;
    // SAFETY: see the module.
    unsafe { asm!("mov {value}, gs:[{offset}]", value = out(reg) value, offset = in(reg) offset) };
    value
}

/// Reads through FS.
pub fn load_fs(offset: u64) -> u64 {
    let value: u64;
    // SAFETY: see the module.
    unsafe { asm!("mov {value}, fs:[{offset}]", value = out(reg) value, offset = in(reg) offset) };
    value
}

/// Stores the floating-point state at an address, a multiple of 16 with room for 512 bytes.
pub fn save_state(address: u64) {
    // SAFETY: see the module.
    unsafe { asm!("fxsave64 [{at}]", at = in(reg) address) };
}

/// Loads the floating-point state from there. Nothing else of this kernel uses it.
pub fn load_state(address: u64) {
    // SAFETY: see the module.
    unsafe { asm!("fxrstor64 [{at}]", at = in(reg) address) };
}

/// Executes instructions that may trap: then the handler goes on behind them. Operands as for `asm!`.
macro_rules! attempt {
    ($code:expr $(, $($operands:tt)*)?) => {{
        let before = $crate::kernel::trap::count();
        // SAFETY: see the module `raw`.
        unsafe {
            core::arch::asm!(
                "lea {resume}, [rip + 77f]",
                "mov gs:[8], {resume}",
                $code,
                "77:",
                "mov qword ptr gs:[8], 0",
                resume = out(reg) _,
                $($($operands)*)?
            )
        };
        $crate::kernel::trap::since(before)
    }};
}

pub(crate) use attempt;

use super::trap::Trap;

/// Declares functions that execute one instruction on a word of memory.
macro_rules! on_memory {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal;)*) => { $(
        $(#[doc = $doc])*
        pub fn $name(address: u64, value: u64) -> Result<u64, Trap> {
            let mut value = value;
            attempt!($code, at = in(reg) address, value = inout(reg) value)?;
            Ok(value)
        }
    )* };
}

on_memory! {
    /// Reads a word.
    try_load = "mov {value}, [{at}]";
    /// Writes a word.
    try_store = "mov [{at}], {value}";
    /// Writes four bytes.
    try_store_4 = "mov [{at}], {value:e}";
    /// Writes two bytes.
    try_store_2 = "mov [{at}], {value:x}";
    /// Writes a byte.
    try_store_1 = "mov [{at}], {value:l}";
    /// Exchanges a word.
    try_exchange = "xchg [{at}], {value}";
    /// Clears bits of a byte.
    try_and_byte = "lock and byte ptr [{at}], {value:l}";
    /// Clears bits of a word.
    try_and = "lock and [{at}], {value}";
    /// Sets bits of a word.
    try_or = "lock or [{at}], {value}";
    /// Clears bit 5.
    try_clear_5 = "lock btr qword ptr [{at}], 5 /* {value} */";
    /// Flips bits of a word.
    try_xor = "lock xor [{at}], {value}";
}

/// Exchanges a word if it is `old`; what it was.
pub fn try_compare_exchange(address: u64, old: u64, new: u64) -> Result<u64, Trap> {
    let mut value = old;
    attempt!("lock cmpxchg [{at}], {new}", at = in(reg) address, new = in(reg) new, inout("rax") value)?;
    Ok(value)
}

/// Jumps to an address; whatever comes of it.
pub fn try_jump(address: u64) -> Option<Trap> {
    attempt!("jmp rax", inout("rax") address => _, out("rcx") _, out("rdx") _).err()
}

/// Goes on elsewhere, with another stack, by the call `iret` with a frame of one's own.
pub fn try_iret(rip: u64, cs: u64, rflags: u64, rsp: u64, ss: u64) -> Option<Trap> {
    attempt!(
        "mov gs:[32], rsp
         push {ss}
         push {rsp_}
         push {rflags}
         push {cs}
         push {rip_}
         push 0
         jmp {stub}",
        ss = in(reg) ss, rsp_ = in(reg) rsp, rflags = in(reg) rflags, cs = in(reg) cs, rip_ = in(reg) rip,
        stub = in(reg) page_of_calls() + 23 * 32, out("rax") _, out("rcx") _, out("r11") _,
    )
    .err()
}

/// The same to the next instruction on the same stack: the flags and rax there, and whether rcx and r11 came with
/// their values.
pub fn iret_to_next(rflags: u64, rax: u64) -> (u64, u64, bool) {
    let (flags, value, kept): (u64, u64, u64);
    // SAFETY: see the module.
    unsafe {
        asm!(
            "mov rdx, rsp",
            "push {ss}", "push rdx", "push {rflags}", "push {cs}", "lea rdx, [rip + 77f]", "push rdx", "push 0",
            "mov rcx, 0x1234", "mov r11, 0x5678",
            "jmp {stub}",
            "77:", "pushfq", "pop rdx", "sub rcx, 0x1234", "sub r11, 0x5678", "or rcx, r11",
            ss = in(reg) 0xe02b_u64, cs = in(reg) 0xe030_u64, rflags = in(reg) rflags,
            stub = in(reg) page_of_calls() + 23 * 32,
            inout("rax") rax => value, out("rcx") kept, out("r11") _, out("rdx") flags,
        );
    }
    (flags, value, kept == 0)
}

/// Executes code with another stack, at which an exception is then taken: no way back.
pub fn with_stack(rsp: u64, instruction: Deadly) -> ! {
    match instruction {
        // SAFETY: see the module.
        Deadly::Undefined => unsafe { asm!("mov rsp, {rsp}", "ud2", rsp = in(reg) rsp, options(noreturn)) },
        // SAFETY: see the module.
        Deadly::Iret => unsafe {
            asm!("mov rsp, {rsp}", "mov eax, 23", "syscall", "ud2", rsp = in(reg) rsp, options(noreturn))
        },
    }
}

/// What [`with_stack`] executes.
pub enum Deadly {
    /// An undefined instruction.
    Undefined,
    /// The call `iret`.
    Iret,
}

/// A page for calls and tables to work on.
#[repr(C, align(4096))]
pub struct Page(UnsafeCell<[u64; 512]>);

// SAFETY: reached by address only, with volatile accesses.
unsafe impl Sync for Page {}

impl Page {
    /// All zero.
    pub const fn zero() -> Page {
        Page(UnsafeCell::new([0; 512]))
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.0.get().expose_provenance() as u64
    }
}

/// One thing that both vCPUs use, one at a time by their own agreement.
pub struct Shared<T>(UnsafeCell<T>);

// SAFETY: see the module: the vCPUs agree by `smp::run`.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// With a value.
    pub const fn new(value: T) -> Shared<T> {
        Shared(UnsafeCell::new(value))
    }

    /// What it is.
    pub fn get(&self) -> T {
        // SAFETY: see the module.
        unsafe { self.0.get().read_volatile() }
    }

    /// Gives it another value.
    pub fn set(&self, value: T) {
        // SAFETY: see the module.
        unsafe { self.0.get().write_volatile(value) }
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.0.get().expose_provenance() as u64
    }
}

/// Loads a selector into ES; whether that went well. It is null otherwise.
pub fn load_selector(selector: u64) -> bool {
    let loaded = attempt!("mov es, {selector:x}", selector = in(reg) selector).is_ok();
    if !loaded {
        let _ = attempt!("mov es, {null:x}", null = in(reg) 0);
    }
    loaded
}

/// Goes to user mode with a number in rax until it traps or calls.
pub fn enter_user_calling(rip: u64, rsp: u64, number: u64) {
    // SAFETY: see the module.
    unsafe {
        asm!(
            "call run_user",
            inout("rax") number => _, in("rdi") rip, in("rsi") rsp, in("rdx") 0, in("rcx") 2,
            clobber_abi("C"),
        );
    }
}

/// A batch whose first call is `iret`, with a frame that goes on behind it; rax there.
pub fn batch_with_return(batch: u64, count: u64, rax: u64) -> u64 {
    let result: u64;
    // SAFETY: see the module.
    unsafe {
        asm!(
            "mov r9, rsp",
            "push {ss}", "push r9", "push 2", "push {cs}", "lea r9, [rip + 77f]", "push r9", "push 0",
            "push 0", "push 0", "push {rax_}",
            "mov eax, 13",
            "syscall",
            "ud2",
            "77:",
            ss = in(reg) 0xe02b_u64, cs = in(reg) 0xe030_u64, rax_ = in(reg) rax,
            inout("rdi") batch => _, inout("rsi") count => _, out("rdx") _, out("r10") _, out("r8") _,
            out("r9") _, out("rax") result, out("rcx") _, out("r11") _,
        );
    }
    result
}
