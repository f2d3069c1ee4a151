//! The pages that a VM of the Xen personality shares with the hypervisor, as the hypervisor touches them:
//! single words, atomically, through the direct map. What stands there is a guest's claim.
#![expect(unsafe_code, reason = "a guest writes the pages at any time: only atomics at raw addresses may touch them")]

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use hv_core::addr::convert::index;
use hv_core::addr::{Mfn, Phys};
use protocol::xen::structure::{ConsoleRing, SharedInfo, VcpuInfo, VcpuTimeInfo};
use zerocopy::IntoBytes;

use crate::mmu::direct;

/// A frame that belongs to a VM for as long as whoever has this value may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(Phys);

macro_rules! word {
    ($name:ident, $Atomic:ty) => {
        #[inline(always)]
        fn $name(self, offset: usize) -> &'static $Atomic {
            let pointer = direct::pointer(self.0).wrapping_add(offset).cast();
            // SAFETY: M1 (the direct map covers every frame of RAM): the place is aligned to 8 and offsets
            // come from the layouts, so they are aligned and inside the page. A guest may change an atomic
            // at any time.
            unsafe { <$Atomic>::from_ptr(pointer) }
        }
    };
}

impl Place {
    word!(byte, AtomicU8);
    word!(pair, AtomicU16);
    word!(half, AtomicU32);
    word!(word, AtomicU64);
}

/// Where a vCPU's own record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info(Place);

impl Info {
    /// The record at a machine address, a multiple of 8 with room for it in its frame.
    #[must_use]
    #[inline(always)]
    pub const fn new(address: Phys) -> Info {
        Info(Place(address))
    }

    /// Whether an upcall is due: an event came, and the vCPU takes upcalls.
    #[must_use]
    #[inline(always)]
    pub fn wants_upcall(self) -> bool {
        // The byte behind it is the mask: both read as one.
        let flags = self.0.pair(offset_of!(VcpuInfo, evtchn_upcall_pending)).load(Ordering::SeqCst);
        (1..=0xff).contains(&flags)
    }

    /// Whether an event came that the vCPU has not looked at.
    #[must_use]
    pub fn is_pending(self) -> bool {
        self.0.byte(offset_of!(VcpuInfo, evtchn_upcall_pending)).load(Ordering::SeqCst) != 0
    }

    /// Notes that an event came; whether that is news.
    #[expect(clippy::must_use_candidate, reason = "some callers want only the effect")]
    pub fn mark(self) -> bool {
        self.0.byte(offset_of!(VcpuInfo, evtchn_upcall_pending)).swap(1, Ordering::SeqCst) == 0
    }

    /// The mask byte.
    #[must_use]
    #[inline(always)]
    pub fn mask(self) -> u8 {
        self.0.byte(offset_of!(VcpuInfo, evtchn_upcall_mask)).load(Ordering::Relaxed)
    }

    /// Sets the mask byte.
    #[inline(always)]
    pub fn set_mask(self, mask: u8) {
        self.0.byte(offset_of!(VcpuInfo, evtchn_upcall_mask)).store(mask, Ordering::SeqCst);
    }

    /// Tells the vCPU the address of a page fault.
    #[inline(always)]
    pub fn set_fault_address(self, address: u64) {
        self.0.word(offset_of!(VcpuInfo, cr2)).store(address, Ordering::Relaxed);
    }

    /// The address of the last page fault as it stands there.
    #[must_use]
    pub fn fault_address(self) -> u64 {
        self.0.word(offset_of!(VcpuInfo, cr2)).load(Ordering::Relaxed)
    }

    /// Sets a bit of the selector of words; whether it was clear.
    #[must_use]
    pub fn select(self, word: u32) -> bool {
        let bit = 1_u64.wrapping_shl(word);
        self.0.word(offset_of!(VcpuInfo, evtchn_pending_sel)).fetch_or(bit, Ordering::SeqCst) & bit == 0
    }

    /// Sets all bits of the selector.
    pub fn select_all(self) {
        self.0.word(offset_of!(VcpuInfo, evtchn_pending_sel)).store(u64::MAX, Ordering::SeqCst);
    }

    /// Writes how the vCPU reads time: the version odd, the fields, the version even.
    pub fn set_time(self, time: &VcpuTimeInfo) {
        let at = offset_of!(VcpuInfo, time);
        let version = self.0.half(at);
        let next = (version.load(Ordering::Relaxed) | 1).wrapping_add(2);
        version.store(next, Ordering::SeqCst);
        let field = |offset: usize, value: u64| self.0.word(at.wrapping_add(offset)).store(value, Ordering::Relaxed);
        field(offset_of!(VcpuTimeInfo, tsc_timestamp), time.tsc_timestamp);
        field(offset_of!(VcpuTimeInfo, system_time), time.system_time);
        let [_, _, rest] = time.as_bytes().as_chunks::<8>().0.get(1..).unwrap_or(&[]) else {
            return;
        };
        field(offset_of!(VcpuTimeInfo, tsc_to_system_mul), u64::from_le_bytes(*rest));
        version.store(next.wrapping_add(1), Ordering::SeqCst);
    }

    /// Copies what stands at another place, for a record that moves.
    pub fn copy_from(self, other: Info) {
        for offset in (0..size_of::<VcpuInfo>()).step_by(8) {
            let value = other.0.word(offset).load(Ordering::Relaxed);
            self.0.word(offset).store(value, Ordering::Relaxed);
        }
    }
}

/// The page that a VM shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared(Place);

impl Shared {
    /// The page in a frame that is shared for as long as the VM exists.
    #[must_use]
    pub const fn new(frame: Mfn) -> Shared {
        Shared(Place(frame.start()))
    }

    /// Where the record of a vCPU lies before the guest moves it.
    #[must_use]
    pub fn info(self, vcpu: u32) -> Phys {
        let offset = u64::from(vcpu % 32).wrapping_mul(64);
        let Place(start) = self.0;
        Phys(start.0.wrapping_add(offset))
    }

    /// Makes a port pending; whether its vCPU is to be told: it was not pending, and is not masked.
    #[must_use]
    pub fn raise(self, port: u32) -> bool {
        let (word, bit) = place(port);
        let is_news = self.pending(word).fetch_or(bit, Ordering::SeqCst) & bit == 0;
        is_news && self.masked(word).load(Ordering::SeqCst) & bit == 0
    }

    /// Takes the mask of a port off; whether its vCPU is to be told: it was masked and is pending.
    #[must_use]
    pub fn unmask(self, port: u32) -> bool {
        let (word, bit) = place(port);
        self.masked(word).fetch_and(!bit, Ordering::SeqCst) & bit != 0
            && self.pending(word).load(Ordering::SeqCst) & bit != 0
    }

    /// Whether a port is pending, masked or not.
    #[must_use]
    pub fn is_pending(self, port: u32) -> bool {
        let (word, bit) = place(port);
        self.pending(word).load(Ordering::SeqCst) & bit != 0
    }

    /// Takes back that a port is pending.
    pub fn clear(self, port: u32) {
        let (word, bit) = place(port);
        self.pending(word).fetch_and(!bit, Ordering::SeqCst);
    }

    fn pending(self, word: usize) -> &'static AtomicU64 {
        self.0.word(offset_of!(SharedInfo, evtchn_pending).wrapping_add(word.wrapping_mul(8)))
    }

    fn masked(self, word: usize) -> &'static AtomicU64 {
        self.0.word(offset_of!(SharedInfo, evtchn_mask).wrapping_add(word.wrapping_mul(8)))
    }
}

/// Word and bit of a port; numbers beyond the table wrap.
fn place(port: u32) -> (usize, u64) {
    (index(u64::from(port / 64 % 64)), 1_u64.wrapping_shl(port))
}

/// The rings of a VM's console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Console(Place);

impl Console {
    /// The rings in a frame that is the console's for as long as the VM exists.
    #[must_use]
    pub const fn new(frame: Mfn) -> Console {
        Console(Place(frame.start()))
    }

    /// The indices of what the guest writes: consumed, produced.
    #[must_use]
    pub fn output_indices(self) -> [u32; 2] {
        [offset_of!(ConsoleRing, out_cons), offset_of!(ConsoleRing, out_prod)]
            .map(|offset| self.0.half(offset).load(Ordering::SeqCst))
    }

    /// The indices of what the guest reads: consumed, produced.
    #[must_use]
    pub fn input_indices(self) -> [u32; 2] {
        [offset_of!(ConsoleRing, in_cons), offset_of!(ConsoleRing, in_prod)]
            .map(|offset| self.0.half(offset).load(Ordering::SeqCst))
    }

    /// A byte that the guest wrote, by its place in the ring.
    #[must_use]
    pub fn output(self, at: usize) -> u8 {
        let offset = offset_of!(ConsoleRing, output).wrapping_add(at % 2048);
        self.0.byte(offset).load(Ordering::Relaxed)
    }

    /// Says how far the guest's bytes were taken.
    pub fn set_consumed(self, to: u32) {
        self.0.half(offset_of!(ConsoleRing, out_cons)).store(to, Ordering::SeqCst);
    }

    /// Puts a byte for the guest, by its place in the ring.
    pub fn set_input(self, at: usize, byte: u8) {
        let offset = offset_of!(ConsoleRing, input).wrapping_add(at % 1024);
        self.0.byte(offset).store(byte, Ordering::Relaxed);
    }

    /// Says how far there are bytes for the guest.
    pub fn set_produced(self, to: u32) {
        self.0.half(offset_of!(ConsoleRing, in_prod)).store(to, Ordering::SeqCst);
    }
}
