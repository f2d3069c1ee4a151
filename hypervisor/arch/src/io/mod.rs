//! Ports, the serial line, and the end of the machine.
#![expect(unsafe_code, reason = "naming a port is a promise about its device")]

pub(crate) mod port;
pub mod serial;

use port::Port;
pub use serial::{EmergencyWriter, Interrupts, Serial};

/// QEMU's `isa-debug-exit` device: ends QEMU with `(value << 1) | 1`.
// SAFETY: the device only ends the emulator; elsewhere nothing listens at this port.
const DEBUG_EXIT: Port = unsafe { Port::new(0xf4) };
/// Bochs ends when the word "Shutdown" arrives here.
// SAFETY: the device only ends the emulator; elsewhere nothing listens at this port.
const SHUTDOWN: Port = unsafe { Port::new(0x8900) };

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
