//! User mode: system calls and page faults, from the program's own point of view and through the
//! SDK's `UserContext`.

use functional_support::program::{DATA, NOWHERE, Program};
use functional_support::user_code;
use guest_sdk::Status;
use guest_sdk::raw::trap::install_entry_points;

use crate::bare;
use crate::meter::{measure, middle, report};

const RUNS: usize = 64;

user_code! {
    /// Writes the ticks of 64 system calls to the data page, then stops by `hlt`.
    time_calls:
        "lea rbx, [rdi + 512]",
        "2:",
        "rdtsc",
        "mov r12d, eax",
        "syscall",
        "rdtsc",
        "sub eax, r12d",
        "mov [rdi], rax",
        "add rdi, 8",
        "cmp rdi, rbx",
        "jne 2b",
        "hlt",
}

user_code! {
    /// The same for page faults: writes to the address in rsi.
    time_faults:
        "mov rbp, rdi",
        "lea rbx, [rdi + 512]",
        "2:",
        "mov rdi, rsi",
        "rdtsc",
        "mov r12d, eax",
        "mov [rdi], rax",
        "rdtsc",
        "sub eax, r12d",
        "mov [rbp], rax",
        "add rbp, 8",
        "cmp rbp, rbx",
        "jne 2b",
        "hlt",
}

user_code! {
    /// The same for nothing.
    time_nothing:
        "lea rbx, [rdi + 512]",
        "2:",
        "rdtsc",
        "mov r12d, eax",
        "rdtsc",
        "sub eax, r12d",
        "mov [rdi], rax",
        "add rdi, 8",
        "cmp rdi, rbx",
        "jne 2b",
        "hlt",
}

user_code! {
    /// Makes system calls.
    call_forever:
        "2:",
        "syscall",
        "jmp 2b",
}

user_code! {
    /// Faults.
    fault_forever:
        "2:",
        "mov [rdi], rax",
        "jmp 2b",
}

pub fn measure_all() -> Result<(), Status> {
    let nothing = median_of(time_nothing())?;
    report("user-call", median_of(time_calls())?.saturating_sub(nothing));
    report("user-fault", median_of(time_faults())?.saturating_sub(nothing));

    let mut calls = Program::new(call_forever())?;
    report(
        "user-call-sdk",
        measure(|| {
            let _ = calls.run();
        }),
    );
    let mut faults = Program::new(fault_forever())?;
    faults.context.registers_mut().rdi = NOWHERE;
    report(
        "user-fault-sdk",
        measure(|| {
            let _ = faults.run();
        }),
    );
    Ok(())
}

/// Runs a program that measures itself, with handlers that only resume.
fn median_of(code: &[u8]) -> Result<u64, Status> {
    let mut program = Program::new(code)?;
    let registers = program.context.registers_mut();
    registers.rdi = DATA;
    registers.rsi = NOWHERE;
    // The first run installs the SDK's handlers; a program that halts at once does no harm.
    let mut idle = Program::new(&[0xf4])?;
    idle.run()?;
    bare::install()?;
    // General protection still comes to the SDK: `hlt` ends the run.
    program.run()?;
    install_entry_points()?;
    guest_sdk::trap::set_handler(6, |_| ())?;
    guest_sdk::trap::set_handler(14, |_| ())?;
    let mut ticks = [0; RUNS];
    for (slot, offset) in ticks.iter_mut().zip((0..).step_by(8)) {
        let mut word = [0; 8];
        program.space.read(DATA + offset, &mut word)?;
        *slot = u64::from_le_bytes(word);
    }
    Ok(middle(&mut ticks))
}
