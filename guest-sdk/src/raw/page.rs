//! The pages that the hypervisor shares with the kernel, as atomics.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use protocol::layout::{START_INFO, TIME_PAGE};
use protocol::shared;

/// [`shared::VcpuPage`] with every field an atomic, since the hypervisor writes meanwhile.
#[derive(Debug, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of the protocol, described there")]
pub struct VcpuPage {
    pub pending: [AtomicU64; 4],
    pub masked: [AtomicU64; 4],
    pub events_masked: AtomicU32,
    pub events_pending: AtomicU32,
    pub kernel_stack: AtomicU64,
    pub vcpu: AtomicU32,
    pub reserved: AtomicU32,
    pub run_time_ns: AtomicU64,
    pub steal_time_ns: AtomicU64,
    pub switches: AtomicU64,
}

/// [`shared::TimePage`], likewise.
#[derive(Debug, Default)]
#[repr(C)]
struct TimePage {
    version: AtomicU32,
    reserved: AtomicU32,
    tsc_base: AtomicU64,
    multiplier: AtomicU64,
    time_base_ns: AtomicU64,
    wall_base_ns: AtomicU64,
}

macro_rules! same_layout {
    ($Type:ident: $($field:ident)*) => {
        const _: () = assert!(size_of::<$Type>() == size_of::<shared::$Type>());
        $(const _: () = assert!(offset_of!($Type, $field) == offset_of!(shared::$Type, $field));)*
    };
}
same_layout! { VcpuPage: pending masked events_masked events_pending kernel_stack vcpu run_time_ns steal_time_ns switches }
same_layout! { TimePage: version tsc_base multiplier time_base_ns wall_base_ns }

/// The start info at its fixed address.
#[cfg(target_os = "none")]
#[must_use]
pub fn start_info() -> &'static shared::StartInfo {
    let pointer = core::ptr::with_exposed_provenance(START_INFO.0 as usize);
    // SAFETY: the hypervisor maps a start info here for the whole life of the VM and does not write
    // it after the start; the kernel has no business writing it.
    unsafe { &*pointer }
}

/// As above, for tests on a host: a start info that says nothing.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn start_info() -> &'static shared::StartInfo {
    use zerocopy::FromBytes;
    static NOTHING: [u64; size_of::<shared::StartInfo>() / 8] = [0; size_of::<shared::StartInfo>() / 8];
    const _: () = assert!(START_INFO.0 != 0);
    let bytes = zerocopy::IntoBytes::as_bytes(&NOTHING);
    match shared::StartInfo::ref_from_bytes(bytes) {
        Ok(info) => info,
        Err(_) => unreachable!(),
    }
}

#[cfg(target_os = "none")]
fn time_page() -> &'static TimePage {
    let pointer = core::ptr::with_exposed_provenance(TIME_PAGE.0 as usize);
    // SAFETY: the hypervisor maps the time page here for the whole life of the VM; it writes it
    // meanwhile, which atomics allow.
    unsafe { &*pointer }
}

#[cfg(not(target_os = "none"))]
fn time_page() -> &'static TimePage {
    static PAGE: TimePage = TimePage {
        version: AtomicU32::new(0),
        reserved: AtomicU32::new(0),
        tsc_base: AtomicU64::new(0),
        multiplier: AtomicU64::new(1 << 32),
        time_base_ns: AtomicU64::new(0),
        wall_base_ns: AtomicU64::new(0),
    };
    const _: () = assert!(TIME_PAGE.0 != 0);
    &PAGE
}

/// A consistent copy of the time page, and the TSC within the time that it was valid; 0 where the time
/// does not depend on it, since it may not be read then.
#[must_use]
pub fn read_time() -> (shared::TimePage, u64) {
    let page = time_page();
    loop {
        let version = page.version.load(Ordering::Acquire);
        if !version.is_multiple_of(2) {
            core::hint::spin_loop();
            continue;
        }
        let copy = shared::TimePage {
            version,
            reserved: 0,
            tsc_base: page.tsc_base.load(Ordering::Relaxed),
            multiplier: page.multiplier.load(Ordering::Relaxed),
            time_base_ns: page.time_base_ns.load(Ordering::Relaxed),
            wall_base_ns: page.wall_base_ns.load(Ordering::Relaxed),
        };
        let tsc = if copy.multiplier == 0 { 0 } else { super::cpu::rdtsc() };
        fence(Ordering::Acquire);
        if page.version.load(Ordering::Relaxed) == version {
            return (copy, tsc);
        }
    }
}
