//! Copying to and from the memory of the guest that is loaded: the only place where ring 0 touches
//! an address that a guest chose.
//!
//! The range is checked against the guest's own halves, then the bytes are moved with SMAP opened;
//! a fault in the middle ends the copy instead of the machine (never check-then-touch: another CPU
//! may unmap the page at any time).
#![expect(unsafe_code, reason = "guest memory is reached by raw copies only")]

use hv_core::addr::Mfn;
use hv_core::addr::convert::{index, wide};
use protocol::layout::PAGE_SIZE;
use protocol::{GuestVirt, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Registers;
use crate::mmu::direct;

#[cfg(target_os = "none")]
core::arch::global_asm!(
    // Copies rdx bytes from rsi to rdi, words first; rax = bytes not copied. Called from Rust by the
    // SysV convention with GS at this CPU's block. One of the two addresses is a guest's: a page or
    // protection fault at `copy_words` or `copy_bytes` continues at `copy_fault`.
    r#"
    .global guest_copy
    guest_copy:
        cmp dword ptr gs:[{has_smap}], 0
        je 1f
        stac
    1:
        mov rcx, rdx
        and edx, 7
        shr rcx, 3
    .global copy_words
    copy_words:
        rep movsq
        mov ecx, edx
    .global copy_bytes
    copy_bytes:
        rep movsb
        xor eax, eax
        jmp 2f
    .global copy_words_fault
    copy_words_fault:
        lea rax, [rdx + rcx * 8]
        jmp 2f
    .global copy_bytes_fault
    copy_bytes_fault:
        mov rax, rcx
    2:
        cmp dword ptr gs:[{has_smap}], 0
        je 3f
        clac
    3:
        ret
    "#,
    has_smap = const crate::local::offset::HAS_SMAP,
);

unsafe extern "C" {
    fn guest_copy(to: *mut u8, from: *const u8, length: usize) -> usize;
    static copy_words: u8;
    static copy_words_fault: u8;
    static copy_bytes: u8;
    static copy_bytes_fault: u8;
}

/// Where a fault at `rip` continues, if it came from the copy routine.
pub(crate) fn recover(registers: &mut Registers) -> bool {
    let target = if registers.rip == wide((&raw const copy_words).addr()) {
        &raw const copy_words_fault
    } else if registers.rip == wide((&raw const copy_bytes).addr()) {
        &raw const copy_bytes_fault
    } else {
        return false;
    };
    registers.rip = wide(target.addr());
    true
}

/// Copies, with one of the two addresses a guest's.
///
/// # Errors
/// [`Status::BadAddress`] when the guest's range is not a guest's, or a page of it is not accessible;
/// what comes before that page is copied.
///
/// # Safety
/// `length` bytes at the other address are valid for the copy, and no range of a guest.
#[inline]
unsafe fn transfer(guest: GuestVirt, to: *mut u8, from: *const u8, length: usize) -> Result<(), Status> {
    if wide(length) > LONGEST || !guest.is_guest_range(wide(length)) {
        return Err(Status::BadAddress);
    }
    // SAFETY: C1 (a checked guest range lies outside the hypervisor, and faults in it are
    // recovered); the other address is right by the caller's promise.
    let left = unsafe { guest_copy(to, from, length) };
    if left == 0 { Ok(()) } else { Err(Status::BadAddress) }
}

fn pointer(address: GuestVirt) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(index(address.0))
}

/// Copies bytes out of the guest.
///
/// # Errors
/// [`Status::BadAddress`] when the range is not the guest's or a page of it cannot be read; then
/// `into` holds unspecified guest bytes in part.
#[inline]
pub fn read(from: GuestVirt, into: &mut [u8]) -> Result<(), Status> {
    // SAFETY: the destination is a live exclusive slice of that length.
    unsafe { transfer(from, into.as_mut_ptr(), pointer(from), into.len()) }
}

/// Copies bytes into the guest.
///
/// # Errors
/// [`Status::BadAddress`] when the range is not the guest's or a page of it cannot be written; the
/// pages before it are written.
#[inline]
pub fn write(to: GuestVirt, from: &[u8]) -> Result<(), Status> {
    // SAFETY: the source is a live slice of that length.
    unsafe { transfer(to, pointer(to), from.as_ptr(), from.len()) }
}

/// Reads one structure into a private copy.
///
/// # Errors
/// As [`read`].
#[inline]
pub fn read_value<T: FromBytes + IntoBytes>(from: GuestVirt) -> Result<T, Status> {
    let mut value = T::new_zeroed();
    read(from, value.as_mut_bytes())?;
    Ok(value)
}

/// Writes one structure.
///
/// # Errors
/// As [`write`].
#[inline]
pub fn write_value<T: IntoBytes + Immutable>(to: GuestVirt, value: &T) -> Result<(), Status> {
    write(to, value.as_bytes())
}

/// Copies bytes of the guest into a machine frame. Offset and length must stay within it; otherwise
/// nothing is copied.
///
/// # Errors
/// As [`read`], with part of the frame written.
pub fn to_frame(from: GuestVirt, frame: Mfn, offset: u64, length: u64) -> Result<(), Status> {
    let (inside, length) = frame_range(frame, offset, length)?;
    // SAFETY: M1: the range lies in one frame, which belongs to a guest.
    unsafe { transfer(from, inside, pointer(from), length) }
}

/// Copies bytes of a machine frame into the guest. Offset and length must stay within it; otherwise
/// nothing is copied.
///
/// # Errors
/// As [`write`].
pub fn from_frame(frame: Mfn, offset: u64, to: GuestVirt, length: u64) -> Result<(), Status> {
    let (inside, length) = frame_range(frame, offset, length)?;
    // SAFETY: M1: the range lies in one frame, which belongs to a guest.
    unsafe { transfer(to, pointer(to), inside, length) }
}

/// The part of a frame, as a pointer and a length.
///
/// # Errors
/// [`Status::InvalidArgument`] when it is not within the frame.
fn frame_range(frame: Mfn, offset: u64, length: u64) -> Result<(*mut u8, usize), Status> {
    match offset.checked_add(length) {
        Some(end) if end <= PAGE_SIZE => Ok((direct::frame_pointer(frame).wrapping_add(index(offset)), index(length))),
        _ => Err(Status::InvalidArgument),
    }
}

/// Most bytes of one copy, so that none takes long.
const LONGEST: u64 = 16 * PAGE_SIZE;
