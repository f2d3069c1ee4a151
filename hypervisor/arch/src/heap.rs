//! Memory for what lives as long as the machine: tables made while the system is built. It only
//! grows, and not at all once it is sealed: nothing that a guest does can need it.
#![expect(unsafe_code, reason = "a global allocator hands out raw memory")]

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};

use hv_core::addr::Mfn;
use hv_core::addr::convert::index;
use protocol::layout::PAGE_SIZE;

use crate::mmu::direct;

/// The heap: from `next` to `end` it is free.
#[derive(Debug)]
struct Heap {
    next: AtomicUsize,
    end: AtomicUsize,
}

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: Heap = Heap { next: AtomicUsize::new(0), end: AtomicUsize::new(0) };

/// Gives the heap its memory: frames that nobody else uses, below 4 GiB, one after the other.
pub fn start(first: Mfn, frames: u64) {
    #[cfg(feature = "recount")]
    (0..frames).for_each(|offset| direct::paint(first.offset(offset)));
    let start = direct::frame_pointer(first).expose_provenance();
    HEAP.next.store(start, Ordering::Relaxed);
    HEAP.end.store(start.wrapping_add(index(frames.wrapping_mul(PAGE_SIZE))), Ordering::Release);
}

/// Ends allocation for good.
pub fn seal() {
    HEAP.end.store(0, Ordering::Release);
}

// SAFETY: H1 (the heap's memory is nobody else's): blocks that are handed out do not overlap, since
// `next` only moves up, by an atomic exchange, except back over the last block when that is freed.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let taken = self.next.fetch_update(Ordering::AcqRel, Ordering::Acquire, |next| {
            let start = next.checked_next_multiple_of(layout.align())?;
            let after = start.checked_add(layout.size())?;
            (after <= self.end.load(Ordering::Acquire)).then_some(after)
        });
        match taken {
            Ok(next) => core::ptr::with_exposed_provenance_mut(next.next_multiple_of(layout.align())),
            Err(_) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // Growing vectors free their last block; anything else stays.
        let after = block.addr().wrapping_add(layout.size());
        let _ = self.next.compare_exchange(after, block.addr(), Ordering::AcqRel, Ordering::Relaxed);
    }
}
