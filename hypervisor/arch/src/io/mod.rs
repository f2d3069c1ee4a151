//! Ports, the serial line, and the end of the machine.

pub(crate) mod port;
pub mod serial;

use port::{DEBUG_EXIT, SHUTDOWN};
pub use port::{read_for_guest, write_for_guest};
pub use serial::{EmergencyWriter, Interrupts, Received, Serial};

/// Ends the machine, with a value of [`protocol::record::exit`] for those who look. Where nothing
/// answers, this CPU halts; stopping the others is the caller's business.
pub fn machine_exit(value: u32) -> ! {
    serial::drain();
    DEBUG_EXIT.write_long(value);
    for byte in *b"Shutdown" {
        SHUTDOWN.write(byte);
    }
    crate::cpu::halt()
}
