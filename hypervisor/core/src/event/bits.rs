//! Judges copies of the pending and masked words of a vCPU page.

use protocol::Port;
use protocol::layout::limit;

/// Where a port's bit stands in `pending` and `masked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortBit {
    /// Which of the four words.
    pub word: usize,
    /// The bit as a mask.
    pub mask: u64,
}

/// What follows when a pending bit was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notify {
    /// Nothing: the port is masked, or the vCPU knows already.
    Nothing,
    /// Store 1 to `events_pending`, then wake the vCPU.
    Wake,
}

/// The bit of a port. Numbers beyond the table wrap; a port of the table never does.
#[must_use]
pub fn bit(port: Port) -> PortBit {
    let number = port.0 & limit::PORTS.wrapping_sub(1);
    PortBit { word: usize::try_from(number / u64::BITS).unwrap_or(0), mask: 1_u64.wrapping_shl(number) }
}

/// What to do after the bit was set in a pending word that held `before`.
///
/// A bit that was set already needs a second wake only when the vCPU has taken the first: then
/// `events_pending` is 0 again. Read `masked` and `events_pending` after setting the bit.
#[must_use]
pub const fn notify(bit: PortBit, before: u64, masked: u64, events_pending: u32) -> Notify {
    let told = before & bit.mask != 0 && events_pending != 0;
    if masked & bit.mask != 0 || told { Notify::Nothing } else { Notify::Wake }
}

/// Whether an unmasked port is pending: `block` returns, and an upcall is due if events are
/// unmasked and there is an entry for them.
#[must_use]
pub fn upcall_due(pending: &[u64; 4], masked: &[u64; 4]) -> bool {
    pending.iter().zip(masked).any(|(pending, masked)| pending & !masked != 0)
}
