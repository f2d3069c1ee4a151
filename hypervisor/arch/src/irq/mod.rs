//! Interrupts from outside: the old controller kept silent ([`pic`]), the local controller of each
//! CPU ([`local_apic`]) with its timer ([`timer`]), and the one that routes devices ([`io_apic`]).

pub mod io_apic;
pub mod local_apic;
pub mod pic;
pub mod timer;

pub use local_apic::{acknowledge, send};

/// Which vector means what. The upper four bits are the priority.
pub mod vector {
    /// First vector of the old controller. It is masked, but can raise spurious 0x27 and 0x2f.
    pub const PIC_FIRST: u8 = 0x20;
    /// Last vector of the old controller.
    pub const PIC_LAST: u8 = 0x2f;
    /// The serial line.
    pub const SERIAL: u8 = 0x40;
    /// This CPU's timer.
    pub const TIMER: u8 = 0x50;
    /// Another CPU wants this one to look at its run queue.
    pub const RESCHEDULE: u8 = 0x60;
    /// Never an interrupt: what guests of the Xen personality raise by `int 0x80`.
    pub const GUEST: u8 = 0x80;
    /// Another CPU wants this one to flush translations.
    pub const FLUSH: u8 = 0xf0;
    /// The local controller withdrew an interrupt. Not to be acknowledged.
    pub const SPURIOUS: u8 = 0xff;
}
