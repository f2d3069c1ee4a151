//! I/O ports as values. The list of the hypervisor's own is closed: a port that is not here can be used
//! for guests only, who have it by their manifest.
#![expect(unsafe_code, reason = "port instructions have no safe form")]

use hv_core::io::Access;
use protocol::flags::IoWidth;

/// A port whose reads and writes cannot break memory safety (P1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port(u16);

/// The old interrupt controllers, command and data: they set interrupt routing only.
pub(crate) const PIC: [[Port; 2]; 2] = [[Port(0x20), Port(0x21)], [Port(0xa0), Port(0xa1)]];
/// The interval timer: count of channel 2, and commands.
pub(crate) const PIT_CHANNEL_2: Port = Port(0x42);
pub(crate) const PIT_COMMAND: Port = Port(0x43);
/// Bit 0 lets channel 2 of the interval timer count, bit 1 leads it to the speaker.
pub(crate) const PIT_GATE: Port = Port(0x61);
/// COM1: data, interrupts, FIFO (written) or identification (read), line and modem control, status.
pub(crate) mod com1 {
    use super::Port;
    pub(crate) const DATA: Port = Port(0x3f8);
    pub(crate) const INTERRUPT_ENABLE: Port = Port(0x3f9);
    pub(crate) const FIFO_CONTROL: Port = Port(0x3fa);
    pub(crate) const LINE_CONTROL: Port = Port(0x3fb);
    pub(crate) const MODEM_CONTROL: Port = Port(0x3fc);
    pub(crate) const LINE_STATUS: Port = Port(0x3fd);
}
/// QEMU's `isa-debug-exit` device: ends QEMU with `(value << 1) | 1`. Elsewhere nothing listens here.
pub(crate) const DEBUG_EXIT: Port = Port(0xf4);
/// Bochs ends when the word "Shutdown" arrives here. Elsewhere nothing listens here.
pub(crate) const SHUTDOWN: Port = Port(0x8900);

/// Reads a port for a guest.
#[must_use]
pub fn read_for_guest(access: &Access) -> u32 {
    let port = access.port();
    match access.width() {
        // SAFETY: P2 (a guest's ports are none of the hypervisor's and reach no memory).
        IoWidth::Byte => unsafe { x86::io::inb(port) }.into(),
        // SAFETY: P2 (a guest's ports are none of the hypervisor's and reach no memory).
        IoWidth::Word => unsafe { x86::io::inw(port) }.into(),
        // SAFETY: P2 (a guest's ports are none of the hypervisor's and reach no memory).
        IoWidth::Long => unsafe { x86::io::inl(port) },
    }
}

/// Writes a port for a guest, with as many of the low bits as the access is wide.
pub fn write_for_guest(access: &Access, value: u32) {
    let port = access.port();
    let [first, second, ..] = value.to_le_bytes();
    match access.width() {
        // SAFETY: P2 (a guest's ports are none of the hypervisor's and reach no memory).
        IoWidth::Byte => unsafe { x86::io::outb(port, first) },
        // SAFETY: P2 (a guest's ports are none of the hypervisor's and reach no memory).
        IoWidth::Word => unsafe { x86::io::outw(port, u16::from_le_bytes([first, second])) },
        // SAFETY: P2 (a guest's ports are none of the hypervisor's and reach no memory).
        IoWidth::Long => unsafe { x86::io::outl(port, value) },
    }
}

impl Port {
    /// Reads a byte.
    #[inline]
    pub(crate) fn read(self) -> u8 {
        // SAFETY: P1 (only the harmless ports above exist as `Port`).
        unsafe { x86::io::inb(self.0) }
    }

    /// Writes a byte.
    #[inline]
    pub(crate) fn write(self, value: u8) {
        // SAFETY: P1 (only the harmless ports above exist as `Port`).
        unsafe { x86::io::outb(self.0, value) };
    }

    /// Writes four bytes.
    #[inline]
    pub(crate) fn write_long(self, value: u32) {
        // SAFETY: P1 (only the harmless ports above exist as `Port`).
        unsafe { x86::io::outl(self.0, value) };
    }
}
