//! Port instructions, each of which the handler skips.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::{Status, TrapContext, trap};

static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Goes on at the address in r12.
fn skip(context: &mut TrapContext) {
    if context.frame.error_code == 0 {
        FAULTS.fetch_add(1, Ordering::Relaxed);
    }
    context.frame.rip = context.r12;
}

/// Has general protection faults skip the instruction.
pub fn install() -> Result<(), Status> {
    trap::set_handler(trap::GENERAL_PROTECTION, skip)
}

macro_rules! instructions {
    ($($line:literal)*) => {
        /// Executes each instruction on a port, and counts those that faulted, and all.
        pub fn execute(port: u16) -> (u64, u64) {
            let before = FAULTS.load(Ordering::Relaxed);
            let mut all = 0;
            $(
                let mut room = [0_u64; 2];
                // SAFETY: each is skipped when it faults, as it must; if one did not, the test fails, and
                // what a string instruction transfers is in `room`.
                unsafe {
                    asm!(
                        "lea r12, [rip + 77f]", $line, "77:",
                        in("dx") port, inout("rax") 0_u64 => _, inout("rsi") room.as_mut_ptr() => _,
                        inout("rdi") room.as_mut_ptr() => _, inout("rcx") 1_u64 => _, out("r12") _,
                    );
                }
                all += 1;
            )*
            (FAULTS.load(Ordering::Relaxed) - before, all)
        }
    };
}

instructions! {
    "in al, dx" "in ax, dx" "in eax, dx" "out dx, al" "out dx, ax" "out dx, eax"
    "insb" "insw" "insd" "outsb" "outsw" "outsd" "rep insb" "rep outsb"
    "in al, 0x70" "out 0x70, al"
}
