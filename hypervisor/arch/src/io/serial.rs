//! The first serial line (COM1, a 16550): 115200 baud, 8 bits, no parity, one stop bit.
//!
//! Sending and receiving never wait. Who must not lose a byte at any price (a panic) uses
//! [`EmergencyWriter`].

use core::fmt;

use super::port::com1::{DATA, FIFO_CONTROL, INTERRUPT_ENABLE, LINE_CONTROL, LINE_STATUS, MODEM_CONTROL};

/// The interrupt line of COM1 on the ISA bus.
pub const ISA_LINE: u8 = 4;

/// Bits of the line status.
const RECEIVED: u8 = 1 << 0;
const BREAK: u8 = 1 << 4;
const CAN_SEND: u8 = 1 << 5;
const ALL_SENT: u8 = 1 << 6;

/// Bytes that the send FIFO takes at once.
const FIFO_BYTES: usize = 16;
/// Reads of the status after which a silent device is given up: some milliseconds on hardware.
const PATIENCE: u32 = 1_000_000;

/// Which interrupts the device raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupts {
    /// None.
    Off,
    /// When a byte was received.
    Receive,
    /// When a byte was received, and when more can be sent.
    ReceiveAndSend,
}

/// What came over the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A byte.
    Byte(u8),
    /// The line was held down for longer than a byte: no byte can say that.
    Break,
}

/// The serial line. There should be one value, owned by who writes the console.
#[derive(Debug)]
pub struct Serial {
    burst: usize,
    /// A BREAK was seen, whose zero byte was not received yet.
    is_broken: bool,
}

impl Serial {
    /// Sets the device up from scratch, with interrupts off. What was sent before still leaves.
    #[must_use]
    pub fn start() -> Serial {
        drain();
        INTERRUPT_ENABLE.write(0);
        // Divisor latch on, divisor 1 (115200 baud), then 8N1 with the latch off.
        LINE_CONTROL.write(0x80);
        DATA.write(1);
        INTERRUPT_ENABLE.write(0);
        LINE_CONTROL.write(0x03);
        // FIFO on, both emptied, interrupt from the first received byte.
        FIFO_CONTROL.write(0x07);
        // DTR, RTS, and OUT2, which connects the interrupt line.
        MODEM_CONTROL.write(0x0b);
        let has_fifo = FIFO_CONTROL.read() & 0xc0 == 0xc0;
        Serial { burst: if has_fifo { FIFO_BYTES } else { 1 }, is_broken: false }
    }

    /// How many bytes [`Serial::send`] takes at once when it takes any.
    #[must_use]
    pub const fn burst(&self) -> usize {
        self.burst
    }

    /// Whether [`Serial::send`] would take a byte.
    #[must_use]
    pub fn can_send(&mut self) -> bool {
        self.status() & CAN_SEND != 0
    }

    /// The line status. Reading it makes the device forget a BREAK, so that is kept here.
    fn status(&mut self) -> u8 {
        let status = LINE_STATUS.read();
        self.is_broken |= status & BREAK != 0;
        status
    }

    /// Hands over the first bytes, as many as fit now, and returns their number.
    #[must_use]
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() || !self.can_send() {
            return 0;
        }
        bytes.iter().take(self.burst).map(|byte| DATA.write(*byte)).count()
    }

    /// What was received next, if anything was. A BREAK stands in the queue as a zero byte.
    #[must_use]
    pub fn receive(&mut self) -> Option<Received> {
        let byte = (self.status() & RECEIVED != 0).then(|| DATA.read())?;
        if byte == 0 && self.is_broken {
            self.is_broken = false;
            return Some(Received::Break);
        }
        Some(Received::Byte(byte))
    }

    /// Chooses the interrupts.
    pub fn set_interrupts(&mut self, interrupts: Interrupts) {
        INTERRUPT_ENABLE.write(match interrupts {
            Interrupts::Off => 0b00,
            Interrupts::Receive => 0b01,
            Interrupts::ReceiveAndSend => 0b11,
        });
    }

    /// Acknowledges a "can send" interrupt, which reading the identification does.
    pub fn acknowledge(&mut self) {
        let _ = FIFO_CONTROL.read();
    }
}

/// Waits until all bytes have left the device, but not forever.
pub(super) fn drain() {
    wait_for(ALL_SENT);
}

fn wait_for(bits: u8) {
    for _ in 0..PATIENCE {
        if LINE_STATUS.read() & bits != 0 {
            return;
        }
    }
}

/// Writes at once, byte by byte, whoever else owns the line, and sets the device up first. For the
/// last words of a panic, and for words before there is an owner.
#[derive(Debug)]
pub struct EmergencyWriter(());

impl EmergencyWriter {
    /// Takes the line.
    #[must_use]
    pub fn start() -> EmergencyWriter {
        let _ = Serial::start();
        EmergencyWriter(())
    }
}

impl fmt::Write for EmergencyWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                wait_for(CAN_SEND);
                DATA.write(b'\r');
            }
            wait_for(CAN_SEND);
            DATA.write(byte);
        }
        Ok(())
    }
}
