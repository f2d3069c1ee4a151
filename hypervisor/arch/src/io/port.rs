//! I/O ports as values: who makes one argues once that using it is harmless.
#![expect(unsafe_code, reason = "port instructions have no safe form")]

/// A port whose reads and writes cannot break memory safety.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Port(u16);

impl Port {
    /// A port by its number.
    ///
    /// # Safety
    /// Nothing that is read from or written to the port makes a device touch memory.
    pub(crate) const unsafe fn new(number: u16) -> Port {
        Port(number)
    }

    /// Reads a byte.
    #[inline]
    pub(crate) fn read(self) -> u8 {
        // SAFETY: P1 (a `Port` exists only for harmless ports).
        unsafe { x86::io::inb(self.0) }
    }

    /// Writes a byte.
    #[inline]
    pub(crate) fn write(self, value: u8) {
        // SAFETY: P1 (a `Port` exists only for harmless ports).
        unsafe { x86::io::outb(self.0, value) };
    }

    /// Writes four bytes.
    #[inline]
    pub(crate) fn write_long(self, value: u32) {
        // SAFETY: P1 (a `Port` exists only for harmless ports).
        unsafe { x86::io::outl(self.0, value) };
    }
}
