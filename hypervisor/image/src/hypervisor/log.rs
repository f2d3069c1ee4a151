//! The hypervisor's own log: defmt frames, as records on the serial line.
//!
//! A frame is collected in a buffer of this CPU's turn and handed over whole. Logging never happens
//! under the line's lock.

use core::sync::atomic::{AtomicU32, Ordering};

use super::lock::Lock;
use super::machine::{is_installed, machine};

/// Longest frame; a longer one is cut off and lost.
const LONGEST: usize = 512;

#[defmt::global_logger]
struct Logger;

/// The frame being written, by the CPU that holds `OWNER`.
static FRAME: Lock<Frame> = Lock::new(Frame { bytes: [0; LONGEST], used: 0 });
/// CPU number plus one of who writes a frame; 0 for nobody.
static OWNER: AtomicU32 = AtomicU32::new(0);
static SEQUENCE: AtomicU32 = AtomicU32::new(0);

struct Frame {
    bytes: [u8; LONGEST],
    used: usize,
}

// SAFETY-free: the trait is unsafe only in its contract; see `implement`.
mod implement {
    use super::{Logger, acquire, release, write};
    hv_arch::logger!(Logger, acquire, write, release);
}

fn acquire() {
    let own = hv_arch::local::id().0.wrapping_add(1);
    while OWNER.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_err() {
        hv_arch::mmu::flush::service();
        hv_arch::cpu::pause();
    }
    FRAME.lock().used = 0;
}

fn write(bytes: &[u8]) {
    let mut frame = FRAME.lock();
    let used = frame.used;
    let end = used.saturating_add(bytes.len());
    if let Some(room) = frame.bytes.get_mut(used..end) {
        room.copy_from_slice(bytes);
        frame.used = end;
    } else {
        frame.used = LONGEST.saturating_add(1);
    }
}

fn release() {
    {
        let frame = FRAME.lock();
        if let Some(bytes) = frame.bytes.get(..frame.used)
            && is_installed()
        {
            let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
            machine().line.lock().log(None, sequence, bytes);
        }
    }
    OWNER.store(0, Ordering::Release);
}
