//! The global allocator: a linked-list heap that grows over the VM's free frames, from the lowest.
//! Invariant H1: the heap's range is one run of frames that [`crate::frame`] gave to it for good.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use linked_list_allocator as list;
use protocol::Gfn;
use protocol::layout::PAGE_SIZE;

use super::frame;
use super::region::physmap;
use crate::sync::Mutex;

/// Frames by which the heap grows at least.
const GROWTH_FRAMES: u64 = 32;

/// The heap as a value, for `#[global_allocator]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heap;

struct State {
    list: list::Heap,
    started: bool,
}

static STATE: Mutex<State> = Mutex::new(State { list: list::Heap::empty(), started: false });

impl State {
    /// Takes more frames; whether there were any.
    fn grow(&mut self, layout: Layout) -> bool {
        let Some(bytes) = layout.size().checked_add(layout.align()) else { return false };
        let needed = (bytes as u64).div_ceil(PAGE_SIZE) + 1;
        let count = needed.max(GROWTH_FRAMES);
        let taken = frame::take_for_heap(count).map(|first| (first, count));
        let Some((first, count)) = taken.or_else(|| frame::take_for_heap(needed).map(|first| (first, needed))) else {
            return false;
        };
        let bytes = (count * PAGE_SIZE) as usize;
        if self.started {
            // SAFETY: the frames follow the heap's last one, by H1.
            unsafe { self.list.extend(bytes) };
        } else {
            let bottom: *mut u8 = physmap(Gfn(first));
            // SAFETY: the frames are the heap's for good, and nothing else refers to them.
            unsafe { self.list.init(bottom, bytes) };
            self.started = true;
        }
        true
    }

    fn allocate(&mut self, layout: Layout) -> *mut u8 {
        loop {
            if let Ok(place) = self.list.allocate_first_fit(layout) {
                return place.as_ptr();
            }
            if !self.grow(layout) {
                return core::ptr::null_mut();
            }
        }
    }
}

// SAFETY: the list hands out ranges of its own memory, none twice; the lock makes that true for all
// vCPUs and for event handlers.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        STATE.lock().allocate(layout)
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        let Some(place) = NonNull::new(place) else { return };
        // SAFETY: the caller gives back what `alloc` of the same layout returned.
        unsafe { STATE.lock().list.deallocate(place, layout) };
    }
}

/// Bytes in use, and bytes free within what the heap has taken.
#[must_use]
pub fn usage() -> (usize, usize) {
    let state = STATE.lock();
    if state.started { (state.list.used(), state.list.free()) } else { (0, 0) }
}
