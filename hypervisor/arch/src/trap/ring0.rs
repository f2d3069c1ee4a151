//! Traps inside ring 0: few, all expected, anything else ends the machine.
#![expect(unsafe_code, reason = "assembly calls this by its symbol")]

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;
use crate::guest::{Registers, copy};

static NMIS: AtomicU64 = AtomicU64::new(0);

/// How many non-maskable interrupts came.
#[must_use]
pub fn nmi_count() -> u64 {
    NMIS.load(Ordering::Relaxed)
}

unsafe extern "Rust" {
    /// See [`crate::handlers`].
    safe fn hv_on_interrupt(vector: u8);
}

/// First vector that is not an exception.
const FIRST_INTERRUPT: u64 = 32;

/// Handles a trap that ring 0 took itself.
// SAFETY: the name is unique in the image: only the assembly of `entry` refers to it.
#[unsafe(no_mangle)]
extern "C" fn trap_in_ring0(registers: &mut Registers) {
    let vector = registers.vector;
    match vector {
        // A guest's breakpoint on memory that ring 0 copied, or one deferred by MOV SS: not ours.
        1 => cpu::clear_debug_status(),
        2 => {
            NMIS.fetch_add(1, Ordering::Relaxed);
        }
        13 | 14 if copy::recover(registers) => {}
        FIRST_INTERRUPT..=255 => {
            if let Ok(vector) = u8::try_from(registers.vector) {
                hv_on_interrupt(vector);
            }
        }
        vector => {
            let address = cpu::fault_address();
            #[expect(clippy::panic, reason = "T2: ring 0 takes no other trap; the machine's state is unknown")]
            {
                panic!(
                    "T2: trap {vector} in ring 0, error {:#x}, address {address:#x}\n{registers:#x?}",
                    registers.error_code
                );
            }
        }
    }
}
