//! Handlers that do nothing but resume: the cost without an SDK around it.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{Info, Resume};
use guest_sdk::protocol::shared::{TrapEntry, TrapFrame};
use guest_sdk::{GuestVirt, Status, call};

/// Resumes where the code stopped.
#[unsafe(naked)]
extern "C" fn resume() {
    naked_asm!("mov eax, {number}", "syscall", "ud2", number = const Resume::NUMBER)
}

/// Resumes behind an instruction of two bytes (`ud2`).
#[unsafe(naked)]
extern "C" fn skip_two() {
    naked_asm!(
        "add qword ptr [rsp + {rip}], 2",
        "mov eax, {number}",
        "syscall",
        "ud2",
        rip = const offset_of!(TrapFrame, rip),
        number = const Resume::NUMBER,
    )
}

/// Resumes behind an instruction of three bytes (`mov [rdi], rax`).
#[unsafe(naked)]
extern "C" fn skip_three() {
    naked_asm!(
        "add qword ptr [rsp + {rip}], 3",
        "mov eax, {number}",
        "syscall",
        "ud2",
        rip = const offset_of!(TrapFrame, rip),
        number = const Resume::NUMBER,
    )
}

fn address(function: extern "C" fn()) -> u64 {
    function as usize as u64
}

/// Takes system calls and events by [`resume`], `ud2` and page faults by skipping the instruction.
pub fn install() -> Result<(), Status> {
    let entry = |vector, function| TrapEntry { vector, flags: 0, handler: address(function) };
    let entries = [entry(6, skip_two), entry(14, skip_three)];
    // SAFETY: the handlers keep every register and go on behind the instruction.
    unsafe { call::trap_table_set(&entries) }?;
    // SAFETY: the handler resumes what was interrupted.
    unsafe { call::entry_points_set(GuestVirt(address(resume)), GuestVirt(address(resume))) }
}

/// Takes the page-fault and `ud2` handlers away again.
pub fn remove() -> Result<(), Status> {
    let entry = |vector| TrapEntry { vector, flags: 0, handler: 0 };
    // SAFETY: handler 0 is no code.
    unsafe { call::trap_table_set(&[entry(6), entry(14)]) }
}

/// The least that a hypercall can be: two registers and the instruction.
#[inline(always)]
pub fn null_call() {
    // SAFETY: asks for the version; the registers that the call loses are named.
    unsafe {
        asm!(
            "syscall",
            inout("eax") Info::NUMBER as u32 => _,
            in("edi") 0,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
}

/// Raises an exception.
#[inline(always)]
pub fn undefined() {
    // SAFETY: the handler skips the instruction.
    unsafe { asm!("ud2", options(nostack)) };
}
