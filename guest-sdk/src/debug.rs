//! Breakpoints of this vCPU. A hit is exception 1, with the slot in [`status`].
//!
//! ```no_run
//! use guest_sdk::debug::{self, Access, Length};
//! use guest_sdk::trap;
//!
//! trap::set_handler(trap::DEBUG, |_| guest_sdk::println!("hit: {:#x}", debug::status())).unwrap();
//! debug::set(0, 0x40_0000, Access::Write, Length::Eight).unwrap();
//! debug::clear(0).unwrap();
//! ```

use protocol::Status;

use crate::raw::call;

/// What a breakpoint waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The instruction at the address.
    Execute,
    /// A write.
    Write,
    /// A read or a write.
    ReadWrite,
}

/// Bytes that a breakpoint covers; the address is a multiple of it. One for [`Access::Execute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Length {
    One,
    Two,
    Four,
    Eight,
}

const CONTROL: u64 = 7;
const STATUS: u64 = 6;
/// Slots 0 to 3.
pub const SLOTS: u64 = 4;

/// Sets a breakpoint.
///
/// # Errors
/// [`Status::InvalidArgument`] for a slot that does not exist, and for an address that is not the
/// guest's.
pub fn set(slot: u64, address: u64, access: Access, length: Length) -> Result<(), Status> {
    if slot >= SLOTS {
        return Err(Status::InvalidArgument);
    }
    call::debug_register_set(slot, address)?;
    let control = call::debug_register_get(CONTROL)?.1;
    call::debug_register_set(CONTROL, with(control, slot, access, length))
}

/// Takes a breakpoint away.
///
/// # Errors
/// [`Status::InvalidArgument`] for a slot that does not exist.
pub fn clear(slot: u64) -> Result<(), Status> {
    if slot >= SLOTS {
        return Err(Status::InvalidArgument);
    }
    let control = call::debug_register_get(CONTROL)?.1;
    call::debug_register_set(CONTROL, without(control, slot))
}

/// Why the last debug exception came, as DR6 tells: bits 0 to 3 for the slots, bit 14 for a single
/// step.
#[must_use]
pub fn status() -> u64 {
    call::debug_register_get(STATUS).map_or(0, |reply| reply.1)
}

/// The control register without a slot.
const fn without(control: u64, slot: u64) -> u64 {
    control & !(0b11 << (2 * slot)) & !(0b1111 << (16 + 4 * slot))
}

/// The control register with a slot, locally enabled (Intel SDM volume 3, 17.2.4).
const fn with(control: u64, slot: u64, access: Access, length: Length) -> u64 {
    let kind = match access {
        Access::Execute => 0b00,
        Access::Write => 0b01,
        Access::ReadWrite => 0b11,
    };
    let length = match length {
        Length::One => 0b00,
        Length::Two => 0b01,
        Length::Four => 0b11,
        Length::Eight => 0b10,
    };
    without(control, slot) | (0b01 << (2 * slot)) | ((kind | (length << 2)) << (16 + 4 * slot))
}

#[cfg(test)]
mod tests {
    use super::{Access, Length, with, without};

    #[test]
    fn the_control_register_is_laid_out_as_in_the_manual() {
        assert_eq!(with(0x400, 0, Access::Execute, Length::One), 0x401);
        assert_eq!(with(0x400, 1, Access::Write, Length::Eight), 0x0090_0404);
        assert_eq!(with(0x400, 3, Access::ReadWrite, Length::Four), 0xf000_0440);
        let both = with(with(0x400, 0, Access::Write, Length::Two), 3, Access::Write, Length::One);
        assert_eq!(without(both, 3), with(0x400, 0, Access::Write, Length::Two));
        assert_eq!(without(without(both, 0), 3), 0x400);
    }
}
