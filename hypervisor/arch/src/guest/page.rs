//! The page that a vCPU and the hypervisor share, as the hypervisor touches it: single words,
//! atomically, through the direct map. What stands there is a guest's claim.
#![expect(unsafe_code, reason = "a guest writes the page at any time: only atomics at raw addresses may touch it")]

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_core::abi::native::entry::Upcalls;
use hv_core::addr::Mfn;
use hv_core::addr::convert::index;
use protocol::shared::VcpuPage;

use crate::mmu::direct;

/// The shared page of a vCPU.
#[derive(Debug, Clone, Copy)]
pub struct SharedPage(Mfn);

impl SharedPage {
    /// The page in a frame that belongs to a VM for as long as the VM exists.
    #[must_use]
    pub const fn new(frame: Mfn) -> SharedPage {
        SharedPage(frame)
    }

    /// Sets the pending bit of a port. Returns whether that makes an upcall due: the port is not
    /// masked. `events_pending` is set then.
    #[must_use]
    pub fn raise(self, port: u32) -> bool {
        let (word, bit) = place(port);
        self.pending(word).fetch_or(bit, Ordering::SeqCst);
        let is_open = self.masked(word).load(Ordering::SeqCst) & bit == 0;
        if is_open {
            self.half(offset_of!(VcpuPage, events_pending)).store(1, Ordering::SeqCst);
        }
        is_open
    }

    /// Clears the pending bit of a port and tells whether it was set.
    #[must_use]
    pub fn clear(self, port: u32) -> bool {
        let (word, bit) = place(port);
        self.pending(word).fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Whether any unmasked port is pending.
    #[must_use]
    pub fn has_pending(self) -> bool {
        (0..4).any(|word| self.pending(word).load(Ordering::SeqCst) & !self.masked(word).load(Ordering::SeqCst) != 0)
    }

    /// Whether an upcall is due now: an event came since the guest last looked, and it takes upcalls.
    #[must_use]
    #[inline(always)]
    pub fn wants_upcall(self) -> bool {
        self.half(offset_of!(VcpuPage, events_pending)).load(Ordering::SeqCst) != 0
            && self.half(offset_of!(VcpuPage, events_masked)).load(Ordering::Relaxed) == 0
    }

    /// Sets the event mask and tells what it was.
    #[expect(clippy::must_use_candidate, reason = "most callers want only the effect")]
    #[inline(always)]
    pub fn replace_mask(self, to: Upcalls) -> Upcalls {
        let mask = self.half(offset_of!(VcpuPage, events_masked));
        let before = mask.load(Ordering::Relaxed);
        mask.store(u32::from(to == Upcalls::Masked), Ordering::SeqCst);
        if before == 0 { Upcalls::Open } else { Upcalls::Masked }
    }

    /// The stack for entries from user mode, unchecked.
    #[must_use]
    #[inline(always)]
    pub fn kernel_stack(self) -> u64 {
        self.word(offset_of!(VcpuPage, kernel_stack)).load(Ordering::Relaxed)
    }

    /// Tells the vCPU its number.
    pub fn set_number(self, vcpu: u32) {
        self.half(offset_of!(VcpuPage, vcpu)).store(vcpu, Ordering::Relaxed);
    }

    /// Tells the vCPU how long it ran and waited, and how often it was given a CPU.
    pub fn set_times(self, run_ns: u64, steal_ns: u64, switches: u64) {
        self.word(offset_of!(VcpuPage, run_time_ns)).store(run_ns, Ordering::Relaxed);
        self.word(offset_of!(VcpuPage, steal_time_ns)).store(steal_ns, Ordering::Relaxed);
        self.word(offset_of!(VcpuPage, switches)).store(switches, Ordering::Relaxed);
    }

    fn pending(self, word: usize) -> &'static AtomicU64 {
        self.word(offset_of!(VcpuPage, pending).wrapping_add(word.wrapping_mul(8)))
    }

    fn masked(self, word: usize) -> &'static AtomicU64 {
        self.word(offset_of!(VcpuPage, masked).wrapping_add(word.wrapping_mul(8)))
    }

    #[inline(always)]
    fn word(self, offset: usize) -> &'static AtomicU64 {
        let pointer = direct::frame_pointer(self.0).wrapping_add(offset).cast::<u64>();
        // SAFETY: M1 (the direct map covers every frame of RAM): offsets come from the layout, so
        // they are aligned and inside the page. An atomic may be changed by a guest at any time.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    #[inline(always)]
    fn half(self, offset: usize) -> &'static AtomicU32 {
        let pointer = direct::frame_pointer(self.0).wrapping_add(offset).cast::<u32>();
        // SAFETY: M1 (the direct map covers every frame of RAM): offsets come from the layout, so
        // they are aligned and inside the page. An atomic may be changed by a guest at any time.
        unsafe { AtomicU32::from_ptr(pointer) }
    }
}

/// Where a port's bit stands: which of the four words, and the bit as a mask. Numbers beyond the table
/// wrap; a port of the table never does.
fn place(port: u32) -> (usize, u64) {
    (index(u64::from(port / 64 % 4)), 1_u64.wrapping_shl(port))
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let mut all: Vec<_> = (0..protocol::layout::limit::PORTS).map(place).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 256);
        assert!(all.iter().all(|(word, mask)| *word < 4 && mask.is_power_of_two()));
        assert_eq!(place(65), (1, 2));
        assert_eq!(place(256), place(0));
    }
}
