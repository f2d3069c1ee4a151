//! Segment bases of user mode, which kernel code does not use itself.
//!
//! ```no_run
//! use guest_sdk::protocol::flags::SegmentBase;
//! use guest_sdk::segment;
//!
//! // Where a kernel writes the register `IA32_FS_BASE`, or executes `wrfsbase`.
//! segment::set(SegmentBase::Fs, 0x7000_0000_1000).unwrap();
//! assert_eq!(segment::get(SegmentBase::Fs), Ok(0x7000_0000_1000));
//! ```

use protocol::Status;
use protocol::flags::SegmentBase;

use super::{call, cpu};

/// Sets the FS base or the GS base of user mode by a call.
///
/// # Errors
/// [`Status::InvalidArgument`] for an address that is not canonical, and for the kernel's GS.
pub fn set(base: SegmentBase, address: u64) -> Result<(), Status> {
    match base {
        SegmentBase::KernelGs => Err(Status::InvalidArgument),
        // SAFETY: code of the kernel uses neither base.
        SegmentBase::Fs | SegmentBase::UserGs => unsafe { call::segment_base_set(base, address) },
    }
}

/// Reads a segment base, also one that the program changed without a call.
///
/// # Errors
/// None in practice.
pub fn get(base: SegmentBase) -> Result<u64, Status> {
    call::segment_base_get(base).map(|reply| reply.1)
}

/// Sets the FS base by an instruction; only for `FSGSBASE`, which the caller has seen offered.
///
/// # Errors
/// [`Status::InvalidArgument`] for an address that is not canonical.
pub(crate) fn set_fs_base_quickly(base: u64) -> Result<(), Status> {
    let sign_extended = ((base << 16).cast_signed() >> 16).cast_unsigned();
    if base != sign_extended {
        return Err(Status::InvalidArgument);
    }
    // SAFETY: the instruction is offered, the address canonical, and kernel code uses no FS.
    unsafe { cpu::wrfsbase(base) };
    Ok(())
}

/// The FS base; only for `FSGSBASE`, which the caller has seen offered.
pub(crate) fn fs_base() -> u64 {
    // SAFETY: the instruction is offered.
    unsafe { cpu::rdfsbase() }
}
