//! The defmt logger: each frame is collected in a buffer and handed over by one call.
//!
//! Invariant L1: between `acquire` and `release` the lock `LOCKED` is held by the code in between,
//! with events masked, so that nothing else reaches `FRAME`.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use protocol::layout::limit;

use super::call;
use crate::event::{self, MaskState};

const CAPACITY: usize = limit::CONSOLE_BYTES as usize;

struct Frame {
    encoder: defmt::Encoder,
    buffer: Buffer,
    before: MaskState,
}

struct Buffer {
    bytes: [u8; CAPACITY],
    length: usize,
    /// A frame that outgrew the buffer is dropped: cut short it could not be decoded.
    too_long: bool,
}

impl Buffer {
    fn push(&mut self, bytes: &[u8]) {
        match self.bytes.get_mut(self.length..self.length + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            None => self.too_long = true,
        }
    }
}

struct Shared(UnsafeCell<Frame>);

// SAFETY: only whoever holds the lock uses the cell, by L1.
unsafe impl Sync for Shared {}

static LOCKED: AtomicBool = AtomicBool::new(false);
static FRAME: Shared = Shared(UnsafeCell::new(Frame {
    encoder: defmt::Encoder::new(),
    buffer: Buffer { bytes: [0; CAPACITY], length: 0, too_long: false },
    before: MaskState::Masked,
}));

#[defmt::global_logger]
struct Logger;

// SAFETY: `acquire` excludes other vCPUs by the lock and event handlers of this one by the mask. An
// exception handler that logs while its vCPU logs would wait for itself; handlers of the SDK do not
// log.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        let before = event::mask();
        while LOCKED.swap(true, Ordering::Acquire) {
            let _ = call::yield_cpu();
        }
        // SAFETY: the lock was just taken.
        let frame = unsafe { &mut *FRAME.0.get() };
        frame.before = before;
        frame.buffer.length = 0;
        frame.buffer.too_long = false;
        let Frame { encoder, buffer, .. } = frame;
        encoder.start_frame(|bytes| buffer.push(bytes));
    }

    unsafe fn flush() {}

    unsafe fn release() {
        // SAFETY: the caller acquired, by the trait's contract.
        let frame = unsafe { &mut *FRAME.0.get() };
        let Frame { encoder, buffer, before } = frame;
        encoder.end_frame(|bytes| buffer.push(bytes));
        let before = *before;
        if !buffer.too_long {
            let _ = call::log_write(buffer.bytes.get(..buffer.length).unwrap_or_default());
        }
        LOCKED.store(false, Ordering::Release);
        event::restore(before);
    }

    unsafe fn write(bytes: &[u8]) {
        // SAFETY: the caller acquired, by the trait's contract.
        let frame = unsafe { &mut *FRAME.0.get() };
        let Frame { encoder, buffer, .. } = frame;
        encoder.write(bytes, |bytes| buffer.push(bytes));
    }
}

defmt::timestamp!("{=u64:us}", crate::time::now().0 / 1000);
