//! The checks.

use core::sync::atomic::{AtomicU64, Ordering};

use functional_support::wild;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::TrapTableSet;
use guest_sdk::protocol::shared::{RESUME_FLAGS, TrapEntry};
use guest_sdk::{StartInfo, Status, TrapContext, check, check_eq, println, trap, verdict};

use crate::instructions as raise;

/// What the last handler saw.
static SEEN: AtomicU64 = AtomicU64::new(NOTHING);
static ERROR_CODE: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
/// Flags that the handler of #UD puts into the frame.
static FLAGS: AtomicU64 = AtomicU64::new(0);
const NOTHING: u64 = u64::MAX;

/// Goes on where rax says, and changes what the code can see: rcx, r11 and r12 count one up.
fn go_on(context: &mut TrapContext) {
    SEEN.store(u64::from(context.vector()), Ordering::Relaxed);
    ERROR_CODE.store(context.frame.error_code, Ordering::Relaxed);
    ADDRESS.store(context.frame.address, Ordering::Relaxed);
    context.frame.rip = context.frame.rax;
    context.frame.rax = 0x76;
    context.frame.rcx += 1;
    context.frame.r11 += 1;
    context.r12 += 1;
}

/// Not a jump: the instruction behind the stepped one goes on by itself.
fn end_stepping(context: &mut TrapContext) {
    const TRAP_FLAG: u64 = 1 << 8;
    go_on(context);
    context.frame.rflags &= !TRAP_FLAG;
}

type Case = (&'static str, fn() -> [u64; 4], u8, u64, Option<u64>);

/// Bits of a page fault's error code: present, write, user mode (as which the kernel runs), fetch.
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const FETCH: u64 = 16;

const CASES: [Case; 13] = [
    ("divide", raise::divide, trap::DIVIDE, 0, None),
    ("int3", raise::breakpoint, trap::BREAKPOINT, 0, None),
    ("ud2", raise::undefined, trap::INVALID_OPCODE, 0, None),
    ("mov from cr0", raise::privileged, trap::GENERAL_PROTECTION, 0, None),
    ("non-canonical", raise::non_canonical, trap::GENERAL_PROTECTION, 0, None),
    ("hlt", raise::halt, trap::GENERAL_PROTECTION, 0, None),
    ("cli", raise::interrupts_off, trap::GENERAL_PROTECTION, 0, None),
    ("in", raise::port, trap::GENERAL_PROTECTION, 0, None),
    ("read", raise::read_nothing, trap::PAGE_FAULT, USER, Some(0x1000)),
    ("write", raise::write_nothing, trap::PAGE_FAULT, USER | WRITE, Some(0x1008)),
    ("jump", raise::jump_nowhere, trap::PAGE_FAULT, USER | FETCH, Some(0x2000)),
    ("single step", raise::step, trap::DEBUG, 0, None),
    ("x87 division", raise::x87, trap::FLOATING_POINT, 0, None),
];

pub fn main(_start: &'static StartInfo) {
    match run() {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run() -> Result<(), Status> {
    trap::set_handler(trap::SIMD, go_on)?;
    for (_, _, vector, _, _) in CASES {
        trap::set_handler(vector, if vector == trap::DEBUG { end_stepping } else { go_on })?;
    }
    for case in CASES {
        check_case(case);
    }
    check_simd();
    check_protection();
    check_flags()?;
    check_nesting()?;
    check_refusals();
    Ok(())
}

fn check_case((name, raise, vector, error_code, address): Case) {
    SEEN.store(NOTHING, Ordering::Relaxed);
    let registers = raise();
    raise::calm_fpu();
    check_eq!(SEEN.load(Ordering::Relaxed), u64::from(vector), "{name}: vector");
    check_eq!(ERROR_CODE.load(Ordering::Relaxed), error_code, "{name}: error code");
    check_eq!(ADDRESS.load(Ordering::Relaxed), address.unwrap_or(0), "{name}: address");
    check_eq!(registers, [0x76, 0x78, 0x79, 0x7a], "{name}: registers afterwards");
}

/// Emulators may raise no SIMD exception at all (QEMU's does not).
fn check_simd() {
    SEEN.store(NOTHING, Ordering::Relaxed);
    let registers = raise::simd();
    raise::calm_fpu();
    match SEEN.load(Ordering::Relaxed) {
        NOTHING => println!("this machine raises no SIMD exception"),
        seen => {
            check_eq!(seen, u64::from(trap::SIMD), "SSE division: vector");
            check_eq!(registers, [0x76, 0x78, 0x79, 0x7a], "SSE division: registers afterwards");
        }
    }
}

/// Accesses whose error code shows that the page is there.
fn check_protection() {
    raise::read_hypervisor();
    check_eq!(SEEN.load(Ordering::Relaxed), u64::from(trap::PAGE_FAULT), "hypervisor: vector");
    check_eq!(ADDRESS.load(Ordering::Relaxed), 0xffff_8000_0000_0000, "hypervisor: address");
    check!(ERROR_CODE.load(Ordering::Relaxed) & (USER | WRITE) == USER, "hypervisor: error code");
    raise::jump_into_data();
    check_eq!(ERROR_CODE.load(Ordering::Relaxed), PRESENT | USER | FETCH, "jump into data");
}

/// A frame cannot give a guest more flags than it may have.
fn check_flags() -> Result<(), Status> {
    const INTERRUPT: u64 = 1 << 9;
    /// I/O privilege, nested task, resume, virtual-8086, virtual interrupts.
    const FORBIDDEN: u64 = (3 << 12) | (1 << 14) | (1 << 16) | (1 << 17) | (1 << 19) | (1 << 20);
    const TRAP_FLAG: u64 = 1 << 8;
    const ALIGNMENT: u64 = 1 << 18;

    trap::set_handler(trap::INVALID_OPCODE, |context| {
        go_on(context);
        context.frame.rflags = FLAGS.load(Ordering::Relaxed);
    })?;
    for wanted in [0, !(TRAP_FLAG | ALIGNMENT), FORBIDDEN, 0xc5, 1 << 11] {
        FLAGS.store(wanted, Ordering::Relaxed);
        let found = raise::flags_after_undefined();
        check!(found & INTERRUPT != 0, "flags {wanted:#x}: interrupts are off: {found:#x}");
        check_eq!(found & FORBIDDEN, 0, "flags {wanted:#x}: forbidden ones");
        let visible = RESUME_FLAGS & !TRAP_FLAG;
        check_eq!(found & visible, wanted & visible, "flags {wanted:#x}: allowed ones");
    }
    trap::set_handler(trap::INVALID_OPCODE, go_on)
}

/// A handler that faults itself.
fn check_nesting() -> Result<(), Status> {
    static DEPTH: AtomicU64 = AtomicU64::new(0);
    trap::set_handler(trap::DIVIDE, |context| {
        if DEPTH.fetch_add(1, Ordering::Relaxed) < 10 {
            let inner = raise::divide();
            check_eq!(inner, [0x76, 0x78, 0x79, 0x7a], "registers of a nested fault");
            let other = raise::read_nothing();
            check_eq!(other, [0x76, 0x78, 0x79, 0x7a], "registers of another nested fault");
        }
        go_on(context);
    })?;
    let outer = raise::divide();
    check_eq!(outer, [0x76, 0x78, 0x79, 0x7a], "registers after nested faults");
    check_eq!(DEPTH.load(Ordering::Relaxed), 11, "depth");
    Ok(())
}

/// Vectors that are the hypervisor's, and handlers that are nobody's code.
fn check_refusals() {
    let kernel = main as fn(&'static StartInfo) as usize as u64;
    let set = |vector: u32, flags: u32, handler: u64| {
        let entry = [TrapEntry { vector, flags, handler }];
        wild::call(TrapTableSet::NUMBER, [entry.as_ptr().addr() as u64, 1, 0, 0, 0, 0])
    };
    for vector in [2, 8, 18, 32, 33, 255, 256, u32::MAX] {
        check_eq!(set(vector, 0, kernel), Err(Status::InvalidArgument), "vector {vector}");
    }
    check_eq!(set(6, 1, kernel), Err(Status::InvalidArgument), "flags");
    for handler in [1, 0x1000, 0xffff_8000_0000_0000, 1 << 63, u64::MAX] {
        check_eq!(set(6, 0, handler), Err(Status::BadAddress), "handler {handler:#x}");
    }
    let registers = raise::undefined();
    check_eq!(registers, [0x76, 0x78, 0x79, 0x7a], "after refusals the handler is still there");
}
