//! System calls as functions.

use crate::abi::{Call, FAILED};

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "a system call is an instruction that Rust does not know")]
fn call(call: Call, first: u64, second: u64) -> u64 {
    let result;
    // SAFETY: the kernel reads the memory that the arguments name and writes none.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") call as u64 => result,
            in("rdi") first,
            in("rsi") second,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(not(target_os = "none"))]
fn call(_call: Call, _first: u64, _second: u64) -> u64 {
    FAILED
}

/// Ends the process.
pub fn exit(code: u64) -> ! {
    loop {
        call(Call::Exit, code, 0);
    }
}

/// Prints up to [`PRINT_BYTES`](crate::abi::PRINT_BYTES) bytes; whether the kernel took them.
pub fn print(text: &[u8]) -> bool {
    call(Call::Print, text.as_ptr().addr() as u64, text.len() as u64) != FAILED
}

/// Gives up the CPU.
pub fn yield_now() {
    call(Call::Yield, 0, 0);
}

/// Sleeps.
pub fn sleep(nanos: u64) {
    call(Call::Sleep, nanos, 0);
}

/// The process's number.
pub fn pid() -> u64 {
    call(Call::Pid, 0, 0)
}

/// Memory for `words` more words, all zero; nothing when the kernel has none.
#[must_use]
#[expect(unsafe_code, reason = "the kernel names fresh memory by its address")]
pub fn grow(words: usize) -> Option<&'static mut [u64]> {
    let address = call(Call::Grow, (words * 8) as u64, 0);
    if address == FAILED {
        return None;
    }
    let start = core::ptr::with_exposed_provenance_mut(address as usize);
    // SAFETY: the kernel hands out each range once, page-aligned, and fills it with zeros on demand.
    Some(unsafe { core::slice::from_raw_parts_mut(start, words) })
}
