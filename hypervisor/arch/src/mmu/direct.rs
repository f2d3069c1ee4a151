//! The direct map: every frame of RAM at a fixed distance, for ring 0 only. Page tables, shared
//! pages and frames being filled are reached through it.
#![expect(unsafe_code, reason = "frames are reached by raw addresses")]

use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::convert::index;
use hv_core::addr::{Mfn, Phys};
use hv_core::space::{TableMemory, ValidEntry};
use protocol::layout::PAGE_SIZE;
use protocol::shared::TimePage;
use zerocopy::IntoBytes;

/// Where machine address 0 appears: top-level slot 262.
pub const BASE: u64 = 0xffff_8300_0000_0000;

/// The first byte of a frame.
#[must_use]
#[inline(always)]
pub fn frame_pointer(frame: Mfn) -> *mut u8 {
    pointer(frame.start())
}

/// A machine address as ring 0 reaches it.
#[must_use]
#[inline(always)]
pub fn pointer(address: Phys) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(index(BASE.wrapping_add(address.0)))
}

/// The page tables of all spaces, and frames that are being filled, as hv-core reaches them.
#[derive(Debug, Default, Clone, Copy)]
pub struct DirectMap;

impl TableMemory for DirectMap {
    #[inline(always)]
    fn load(&self, frame: Mfn, index: usize) -> u64 {
        load_entry(frame, index)
    }

    #[inline(always)]
    fn store(&self, table: Mfn, index: usize, entry: ValidEntry) {
        store_entry(table, index, entry.bits());
    }

    fn clear(&self, frame: Mfn) {
        clear_frame(frame);
    }

    fn write(&self, frame: Mfn, offset: usize, bytes: &[u8]) {
        fill_frame(frame, offset, bytes);
    }
}

/// Words in a frame.
const WORDS: usize = 512;

/// Stores an entry of a page table. The only place that does.
#[inline(always)]
pub(super) fn store_entry(table: Mfn, entry: usize, value: u64) {
    let pointer = frame_pointer(table).cast::<u64>().wrapping_add(entry % WORDS);
    // SAFETY: M1 (the direct map covers every frame of RAM) and M3 (tables belong to the hypervisor
    // until their VM is gone): an aligned word inside the frame. Volatile, since the processor reads it.
    unsafe { pointer.write_volatile(value) }
}

/// Loads an entry of a page table.
#[inline(always)]
pub(super) fn load_entry(table: Mfn, entry: usize) -> u64 {
    let pointer = frame_pointer(table).cast::<u64>().wrapping_add(entry % WORDS);
    // SAFETY: M1, M3: as in `store_entry`. Volatile, since the processor sets accessed and dirty bits.
    unsafe { pointer.read_volatile() }
}

/// Replaces an entry of a page table if it still is `old`.
///
/// # Errors
/// What it is.
#[inline(always)]
pub fn compare_exchange_entry(table: Mfn, entry: usize, old: u64, value: ValidEntry) -> Result<(), u64> {
    word(table, entry).compare_exchange(old, value.bits(), Ordering::SeqCst, Ordering::SeqCst).map(drop)
}

/// Stores a word of a guest's frame that is no page table.
#[inline(always)]
pub fn store_word(frame: Mfn, entry: usize, value: u64) {
    word(frame, entry).store(value, Ordering::SeqCst);
}

/// Replaces a word of a guest's frame that is no page table, if it still is `old`; whether it was.
#[cfg(feature = "xen")]
#[must_use]
pub fn compare_exchange_word(frame: Mfn, entry: usize, old: u64, value: u64) -> bool {
    word(frame, entry).compare_exchange(old, value, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Clears bits of such a word.
#[cfg(feature = "xen")]
pub fn clear_bits(frame: Mfn, entry: usize, bits: u64) {
    word(frame, entry).fetch_and(!bits, Ordering::SeqCst);
}

/// A word of a frame that guests or the processor change at any time.
#[inline(always)]
fn word(frame: Mfn, entry: usize) -> &'static AtomicU64 {
    let pointer = frame_pointer(frame).cast::<u64>().wrapping_add(entry % WORDS);
    // SAFETY: M1 (the direct map covers every frame of RAM): an aligned word inside the frame.
    unsafe { AtomicU64::from_ptr(pointer) }
}

/// Copies bytes from one guest frame to another; what would not fit in both is left out.
pub fn copy_frame(from: (Mfn, usize), to: (Mfn, usize), length: usize) {
    let room = |offset| index(PAGE_SIZE).saturating_sub(offset);
    let length = length.min(room(from.1)).min(room(to.1));
    let [source, target] = [from, to].map(|(frame, offset)| frame_pointer(frame).wrapping_add(offset));
    // SAFETY: M1, and both ranges lie within a frame of a guest; they may be the same one.
    unsafe { core::ptr::copy(source, target, length) }
}

/// The records of the frame table, in frames that are set aside for them for ever.
#[must_use]
pub fn records(first: Mfn, count: u64) -> &'static [AtomicU64] {
    let frames = count.div_ceil(512);
    for frame in 0..frames {
        clear_frame(first.offset(frame));
    }
    // SAFETY: M1 (the direct map covers every frame of RAM): aligned, zeroed, and never used for
    // anything else; atomics may be shared.
    unsafe { core::slice::from_raw_parts(frame_pointer(first).cast_const().cast(), index(count)) }
}

/// Writes the time page of a VM that does not run yet.
pub fn write_time_page(frame: Mfn, page: &TimePage) {
    fill_frame(frame, 0, page.as_bytes());
}

/// Brings the base of a coarse time page up to a time, if it is behind.
pub fn advance_time_page(frame: Mfn, time_ns: u64) {
    let base = frame_pointer(frame).wrapping_add(offset_of!(TimePage, time_base_ns)).cast::<AtomicU64>();
    // SAFETY: M1 (the direct map covers every frame of RAM) and M3 (no guest can write the frame): an
    // aligned word of it, which after the start of the VM is only touched here.
    unsafe { &*base }.fetch_max(time_ns, Ordering::SeqCst);
}

/// Fills a frame that nobody has with a pattern, in builds for tests.
#[cfg(feature = "recount")]
pub fn paint(frame: Mfn) {
    let pointer = frame_pointer(frame).cast::<u64>();
    for word in 0..WORDS {
        // SAFETY: M1 (the direct map covers every frame of RAM): a word of a frame that is nobody's.
        unsafe { pointer.wrapping_add(word).write_volatile(crate::local::CANARY) };
    }
}

/// Fills a frame with zero.
pub(super) fn clear_frame(frame: Mfn) {
    let pointer = frame_pointer(frame).cast::<u64>();
    // SAFETY: M1 (the direct map covers every frame of RAM): a whole frame that its owner gave up or
    // has not seen yet, so nobody relies on its contents.
    unsafe { pointer.write_bytes(0, WORDS) }
}

/// Copies bytes into a frame; what would not fit is left out.
fn fill_frame(frame: Mfn, offset: usize, bytes: &[u8]) {
    let room = index(PAGE_SIZE).saturating_sub(offset);
    let length = bytes.len().min(room);
    let target = frame_pointer(frame).wrapping_add(offset);
    // SAFETY: M1 (the direct map covers every frame of RAM): `length` bytes fit behind `offset`, and
    // Rust objects never lie in frames that are given to guests or used as tables (M3).
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, length) }
}
