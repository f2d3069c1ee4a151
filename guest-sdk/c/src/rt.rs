//! The symbols.

use core::ffi::{CStr, c_char, c_int};

use guest_sdk::protocol::note::AbiNote;
use guest_sdk::protocol::shared::StartInfo;
use guest_sdk::{call, console, exit_code};

#[used]
#[unsafe(link_section = ".note.cloister")]
static NOTE: AbiNote = AbiNote::CURRENT;

unsafe extern "C" {
    fn cloister_main(start: *const StartInfo) -> c_int;
}

/// Where the hypervisor enters the kernel: rdi is the start info, the stack is empty.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    core::arch::naked_asm!("xor ebp, ebp", "call {run}", "ud2", run = sym run)
}

extern "C" fn run(start: *const StartInfo) -> ! {
    // SAFETY: the kernel's function has this type, and the start info is mapped.
    let code = unsafe { cloister_main(start) };
    // A negative result stays large, and so tells apart from success.
    call::exit(i64::from(code).cast_unsigned())
}

/// Writes a zero-terminated string to the console.
///
/// # Safety
/// `text` points to such a string.
#[unsafe(no_mangle)]
unsafe extern "C" fn cloister_print(text: *const c_char) {
    // SAFETY: the caller's duty.
    let text = unsafe { CStr::from_ptr(text) };
    console::write(text.to_bytes());
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    call::exit(exit_code::PANIC)
}
