//! Traps inside ring 0: few, all expected, anything else ends the machine.
#![expect(unsafe_code, reason = "assembly calls this by its symbol")]

use crate::cpu;
use crate::guest::{Registers, copy};

unsafe extern "Rust" {
    /// See [`crate::handlers`].
    safe fn hv_on_interrupt(vector: u8);
}

/// First vector that is not an exception.
const FIRST_INTERRUPT: u64 = 32;

/// Handles a trap that ring 0 took itself.
// The name is unique in the image: only the assembly of `entry` refers to it.
#[unsafe(no_mangle)]
extern "C" fn trap_in_ring0(registers: &mut Registers) {
    let vector = registers.vector;
    match vector {
        // A guest's breakpoint on memory that ring 0 copied, or one deferred by MOV SS: not ours.
        1 => cpu::clear_debug_status(),
        // A non-maskable interrupt: nothing here sends any, and the machine's own ask for nothing.
        2 => {}
        13 | 14 if copy::recover(registers) => {}
        #[cfg(feature = "xen")]
        11..=14 if crate::guest::segments::recover(registers) => {}
        13 if cpu::gate::recover(registers) => {}
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
