//! The old interrupt controller (two 8259A): moved away from the exceptions and masked for good.
#![expect(unsafe_code, reason = "naming a port is a promise about its device")]

use super::vector;
use crate::io::port::Port;

/// A port of the controller.
const fn port(number: u16) -> Port {
    // SAFETY: the controller's four ports set interrupt routing only; it reaches no memory.
    unsafe { Port::new(number) }
}

const FIRST: [Port; 2] = [port(0x20), port(0x21)];
const SECOND: [Port; 2] = [port(0xa0), port(0xa1)];

/// Lines of one controller.
const LINES: u8 = 8;

/// Moves both controllers to [`vector::PIC_FIRST`] and masks every line. Firmware leaves them at
/// vector 8, where a timer tick looks like a double fault.
pub fn silence() {
    let setups = [(FIRST, vector::PIC_FIRST, 1 << 2), (SECOND, vector::PIC_FIRST.wrapping_add(LINES), 2)];
    for ([command, data], first_vector, cascade) in setups {
        // Edge triggered, cascaded, four words of setup; vectors; wiring; 8086 mode; all masked.
        command.write(0x11);
        data.write(first_vector);
        data.write(cascade);
        data.write(0x01);
        data.write(0xff);
    }
}
