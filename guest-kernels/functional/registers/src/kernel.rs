//! The checks.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use functional_support::program::Program;
use functional_support::user_code;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call;
use guest_sdk::timer::Timer;
use guest_sdk::user::Exit;
use guest_sdk::{Nanos, StartInfo, Status, check, check_eq, event, verdict};

use crate::patterns::{self, Registers, at};

/// Registers with a pattern each, and carry, zero and sign set in the flags.
const PATTERNS: Registers = {
    let mut registers = [0; 16];
    let mut index = 0;
    while index < registers.len() {
        registers[index] = 0x0101_0101_0101_0101 * (index as u64 + 0x50);
        index += 1;
    }
    registers[at::FLAGS] = 0xc5;
    registers
};

/// Calls: number, rdi, rsi, whether rdx is a second result.
const CALLS: [(u64, u64, u64, bool); 10] = [
    (call::Info::NUMBER, 0, 1, false),
    (call::Info::NUMBER, 999, 1, false),
    (call::YieldCpu::NUMBER, 2, 3, false),
    (call::Block::NUMBER, 0, 3, false),
    (call::TimerSet::NUMBER, u64::MAX, 3, false),
    (call::EventDeliver::NUMBER, 4, 5, false),
    (call::Map::NUMBER, 0, 0, false),
    (call::Translate::NUMBER, 0, 0x40_0000, false),
    (call::SegmentBaseGet::NUMBER, 0, 1, true),
    (4096, 6, 7, false),
];

pub fn main(_start: &'static StartInfo) {
    for (number, rdi, rsi, second) in CALLS {
        check_call(number, rdi, rsi, second);
    }
    match check_events() {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

#[expect(unsafe_code, reason = "calls with patterns in place of arguments")]
fn check_call(number: u64, rdi: u64, rsi: u64, second: bool) {
    let mut expected = PATTERNS;
    expected[at::RAX] = number;
    expected[at::RDI] = rdi;
    expected[at::RSI] = rsi;
    // No count of pages, so that `map` has nothing to do.
    let mut registers = expected;
    // SAFETY: none of the calls touches memory of this program: `map` is refused or maps nothing,
    // the others take no address.
    unsafe { patterns::call(&mut registers) };
    for (index, (found, wanted)) in registers.iter().zip(expected).enumerate() {
        let free = matches!(index, at::RAX | at::RCX | at::R11) || (second && index == at::RDX);
        if index == at::FLAGS {
            check_eq!(found & 0xcd5, wanted & 0xcd5, "flags after call {number}");
        } else if !free {
            check_eq!(*found, wanted, "register {index} after call {number}");
        }
    }
}

static STOP: AtomicU8 = AtomicU8::new(0);
static TICKS: AtomicU32 = AtomicU32::new(0);

const TICK: Nanos = Nanos(200_000);
const ENOUGH: u32 = 50;

fn check_events() -> Result<(), Status> {
    let timer = Timer::new()?;
    timer.on_event(|_| {
        if TICKS.fetch_add(1, Ordering::Relaxed) >= ENOUGH {
            STOP.store(1, Ordering::Relaxed);
        }
        // Each upcall arms the next.
        let _ = guest_sdk::call::timer_set(Nanos(guest_sdk::time::now().0 + TICK.0));
    });
    timer.set_after(TICK)?;
    event::unmask();
    let changed = patterns::spin(&STOP);
    event::mask();
    check_eq!(changed, 0, "registers that an upcall in kernel mode changed");
    check!(TICKS.load(Ordering::Relaxed) > ENOUGH, "the timer came too rarely");
    check_user_mode(&timer)
}

user_code! {
    /// Sets patterns, spins a while, and says by rdi how many registers had changed.
    spin_in_user_mode:
        "mov rbx, 0x1111111111111111",
        "lea rcx, [rbx + rbx]",
        "lea rdx, [rcx + rbx]",
        "lea rsi, [rdx + rbx]",
        "lea rbp, [rsi + rbx]",
        "lea r8, [rbp + rbx]",
        "lea r9, [r8 + rbx]",
        "lea r10, [r9 + rbx]",
        "lea r11, [r10 + rbx]",
        "lea r12, [r11 + rbx]",
        "lea r13, [r12 + rbx]",
        "lea r14, [r13 + rbx]",
        "lea r15, [r14 + rbx]",
        "mov eax, 30000000",
        "2:",
        "dec eax",
        "jnz 2b",
        "xor edi, edi",
        "mov rax, r15",
        "lea rbx, [rbx + r14]",
        "cmp rax, rbx",
        "setnz al",
        "movzx eax, al",
        "add edi, eax",
        // The patterns of rcx to r14 are 2 to 12 times the one of rbx: 77 in all.
        "lea rax, [rcx + rdx]",
        "add rax, rsi",
        "add rax, rbp",
        "add rax, r8",
        "add rax, r9",
        "add rax, r10",
        "add rax, r11",
        "add rax, r12",
        "add rax, r13",
        "add rax, r14",
        "mov rbx, 0x1111111111111111",
        "imul rbx, rbx, 77",
        "sub rax, rbx",
        "add rdi, rax",
        "syscall",
}

fn check_user_mode(timer: &Timer) -> Result<(), Status> {
    let mut program = Program::new(spin_in_user_mode())?;
    timer.set_after(TICK)?;
    let mut events = 0;
    loop {
        match program.run()? {
            Exit::Event => events += 1,
            Exit::Syscall => break,
            Exit::Fault(fault) => verdict::fail(format_args!("user mode: {fault:?}")),
        }
    }
    let [changed, ..] = program.context.arguments();
    check_eq!(changed, 0, "what events in user mode changed");
    check!(events > 3, "only {events} events came in user mode");
    Ok(())
}
