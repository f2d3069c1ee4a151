//! The old interrupt controller (two 8259A): moved away from the exceptions and masked for good.

use super::vector;
use crate::io::port::PIC;

/// Lines of one controller.
const LINES: u8 = 8;

/// Moves both controllers to [`vector::PIC_FIRST`] and masks every line. Firmware leaves them at
/// vector 8, where a timer tick looks like a double fault.
pub fn silence() {
    let [first, second] = PIC;
    let setups = [(first, vector::PIC_FIRST, 1 << 2), (second, vector::PIC_FIRST.wrapping_add(LINES), 2)];
    for ([command, data], first_vector, cascade) in setups {
        // Edge triggered, cascaded, four words of setup; vectors; wiring; 8086 mode; all masked.
        command.write(0x11);
        data.write(first_vector);
        data.write(cascade);
        data.write(0x01);
        data.write(0xff);
    }
}
