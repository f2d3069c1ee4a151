//! Memory that others can change at any time: shared rings, user pages, granted frames.
//!
//! Bytes are copied in and out by assembly, which the compiler cannot reason about; no reference
//! into a region is ever made.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use protocol::Gfn;
use protocol::layout::{PAGE_SIZE, PHYSMAP};

/// A range of shared bytes, mapped for as long as the value lives.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a region has no state of its own, and its bytes are shared with others anyhow.
unsafe impl Send for Region {}
// SAFETY: as above; every access is a copy or an atomic.
unsafe impl Sync for Region {}

impl Region {
    /// A region of `bytes` from `base` on, which is aligned to 8.
    ///
    /// # Safety
    /// The bytes stay mapped, readable and (if written through this value) writable, and no Rust
    /// reference covers them while the region lives.
    #[must_use]
    pub const unsafe fn new(base: NonNull<u8>, bytes: usize) -> Region {
        Region { base, bytes }
    }

    /// How many bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn has(&self, offset: usize, length: usize) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.bytes)
    }

    /// The word at `offset`, as an atomic; nothing outside the region or off its alignment.
    #[must_use]
    pub fn word(&self, offset: usize) -> Option<&AtomicU32> {
        if !offset.is_multiple_of(4) || !self.has(offset, 4) {
            return None;
        }
        // SAFETY: the offset lies within the region.
        let pointer = unsafe { self.base.add(offset) };
        // SAFETY: aligned, since the base is aligned to 8; mapped, as the constructor was told. Others
        // may change the word meanwhile, which an atomic allows.
        Some(unsafe { AtomicU32::from_ptr(pointer.as_ptr().cast::<u32>()) })
    }

    /// Copies bytes out; whether the range lies within the region.
    #[must_use]
    pub fn read(&self, offset: usize, target: &mut [u8]) -> bool {
        if !self.has(offset, target.len()) {
            return false;
        }
        // SAFETY: the offset lies within the region.
        let source = unsafe { self.base.add(offset) };
        // SAFETY: both ranges are mapped and apart: no Rust reference covers the region.
        unsafe { copy(source.as_ptr(), target.as_mut_ptr(), target.len()) };
        true
    }

    /// Copies bytes in; whether the range lies within the region.
    #[must_use]
    pub fn write(&self, offset: usize, source: &[u8]) -> bool {
        if !self.has(offset, source.len()) {
            return false;
        }
        // SAFETY: the offset lies within the region.
        let target = unsafe { self.base.add(offset) };
        // SAFETY: both ranges are mapped and apart: no Rust reference covers the region.
        unsafe { copy(source.as_ptr(), target.as_ptr(), source.len()) };
        true
    }

    /// Fills the whole region with zeros.
    pub fn clear(&self) {
        // SAFETY: the region is mapped and writable, as the constructor was told.
        unsafe { zero(self.base.as_ptr(), self.bytes) };
    }
}

/// Copies bytes that somebody else may be changing.
///
/// # Safety
/// Both ranges are mapped for it and do not overlap; the target's bytes belong to nobody's reference
/// but the caller's.
#[cfg(target_os = "none")]
unsafe fn copy(source: *const u8, target: *mut u8, bytes: usize) {
    // SAFETY: copies exactly `bytes`, words first; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rsi") source => _,
            inout("rdi") target => _,
            options(nostack, preserves_flags),
        );
    }
}

/// As above, for tests on a host.
///
/// # Safety
/// As above; and nobody changes the bytes meanwhile.
#[cfg(not(target_os = "none"))]
unsafe fn copy(source: *const u8, target: *mut u8, bytes: usize) {
    // SAFETY: the caller's duty.
    unsafe { core::ptr::copy_nonoverlapping(source, target, bytes) };
}

/// Writes zeros.
///
/// # Safety
/// The range is mapped for writing and covered by no reference.
unsafe fn zero(target: *mut u8, bytes: usize) {
    // SAFETY: the caller's duty.
    unsafe { core::ptr::write_bytes(target, 0, bytes) };
}

/// Where the physmap shows a frame of the VM's own memory.
#[must_use]
pub fn physmap(frame: Gfn) -> *mut u8 {
    let address = PHYSMAP.0.wrapping_add(frame.0.wrapping_mul(PAGE_SIZE));
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// The bytes of whole frames as a region.
///
/// # Safety
/// The frames are the VM's own, not released, and no Rust reference covers them while the region
/// lives.
#[must_use]
pub unsafe fn frames(first: Gfn, count: u64) -> Option<Region> {
    let base = NonNull::new(physmap(first))?;
    // SAFETY: the physmap shows all memory of the VM, writable; the rest is the caller's duty.
    Some(unsafe { Region::new(base, (count * PAGE_SIZE) as usize) })
}

/// The contents of a module of the start info.
#[cfg(target_os = "none")]
pub(crate) fn module_bytes(module: &protocol::shared::ModuleInfo) -> &'static [u8] {
    let start = physmap(Gfn(module.frame)).cast_const();
    // SAFETY: the hypervisor put the module below the first free frame, and the SDK neither writes
    // nor releases frames there.
    unsafe { core::slice::from_raw_parts(start, module.bytes as usize) }
}

/// On a host there are no modules.
#[cfg(not(target_os = "none"))]
pub(crate) fn module_bytes(_module: &protocol::shared::ModuleInfo) -> &'static [u8] {
    &[]
}
