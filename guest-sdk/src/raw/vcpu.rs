//! What the kernel keeps for each vCPU, behind the kernel's GS base.
//!
//! Invariant V1: from [`attach`] on, GS of kernel mode holds the address of this vCPU's entry of
//! `VCPUS`. The hypervisor keeps a GS base for each mode, so that user code cannot change it.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use protocol::flags::SegmentBase;
use protocol::layout::{self, limit};
use protocol::{SpaceId, Status, VcpuId};

use super::{call, page::VcpuPage};

/// One vCPU, as the SDK sees it.
#[derive(Debug)]
#[repr(C)]
pub struct Vcpu {
    /// Address of this very value, at offset 0 for `gs:[0]`.
    this: AtomicPtr<Vcpu>,
    page: AtomicPtr<VcpuPage>,
    number: AtomicU32,
    /// The space that was switched to last, plus nothing: 0 at the start, as the hypervisor's.
    pub(crate) space: AtomicU32,
    /// GS base of user mode, as set last.
    pub(crate) user_gs: AtomicU64,
    /// FS base, as set last without `FSGSBASE`.
    pub(crate) user_fs: AtomicU64,
    /// Whether exceptions of this vCPU come to the SDK's handlers.
    pub(crate) traps_installed: AtomicBool,
}

static VCPUS: [Vcpu; limit::VCPUS as usize] = [const { Vcpu::new() }; limit::VCPUS as usize];

impl Vcpu {
    const fn new() -> Vcpu {
        Vcpu {
            this: AtomicPtr::new(core::ptr::null_mut()),
            page: AtomicPtr::new(core::ptr::null_mut()),
            number: AtomicU32::new(0),
            space: AtomicU32::new(0),
            user_gs: AtomicU64::new(0),
            user_fs: AtomicU64::new(0),
            traps_installed: AtomicBool::new(false),
        }
    }

    /// The vCPU that executes this.
    #[cfg(target_os = "none")]
    #[inline(always)]
    #[must_use]
    pub fn current() -> &'static Vcpu {
        let vcpu: *const Vcpu;
        // SAFETY: GS is this vCPU's entry, by V1.
        unsafe {
            core::arch::asm!(
                "mov {}, gs:[0]",
                out(reg) vcpu,
                options(nostack, preserves_flags, readonly),
            );
        }
        // SAFETY: the word is the address of a static, by V1.
        unsafe { &*vcpu }
    }

    /// As above, for tests on a host.
    #[cfg(not(target_os = "none"))]
    #[must_use]
    pub fn current() -> &'static Vcpu {
        let [first, ..] = &VCPUS;
        first
    }

    /// The page that this vCPU shares with the hypervisor.
    #[cfg(target_os = "none")]
    #[inline(always)]
    #[must_use]
    pub fn page(&self) -> &'static VcpuPage {
        let page = self.page.load(Ordering::Relaxed);
        // SAFETY: `attach` set it before the first `current`, to a page that stays mapped.
        unsafe { &*page }
    }

    /// As above, for tests on a host.
    #[cfg(not(target_os = "none"))]
    #[must_use]
    pub fn page(&self) -> &'static VcpuPage {
        static PAGE: VcpuPage = VcpuPage {
            pending: [const { AtomicU64::new(0) }; 4],
            masked: [const { AtomicU64::new(0) }; 4],
            events_masked: AtomicU32::new(1),
            events_pending: AtomicU32::new(0),
            kernel_stack: AtomicU64::new(0),
            vcpu: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            run_time_ns: AtomicU64::new(0),
            steal_time_ns: AtomicU64::new(0),
            switches: AtomicU64::new(0),
        };
        &PAGE
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> VcpuId {
        VcpuId(self.number.load(Ordering::Relaxed))
    }

    /// The space that it is in.
    #[must_use]
    pub fn space(&self) -> SpaceId {
        SpaceId(self.space.load(Ordering::Relaxed))
    }
}

/// The shared page of any vCPU of the VM, for its accounts.
///
/// Nothing for a number that the VM does not have.
#[must_use]
pub fn page_of(vcpu: VcpuId) -> Option<&'static VcpuPage> {
    if vcpu.0 >= super::page::start_info().vcpus {
        return None;
    }
    let pointer = core::ptr::with_exposed_provenance(layout::vcpu_page(vcpu.0).0 as usize);
    // SAFETY: the hypervisor maps a page for each vCPU of the VM, for its whole life.
    Some(unsafe { &*pointer })
}

/// Ties the vCPU that executes this to its entry: V1 holds from here on.
///
/// # Errors
/// [`Status::NotFound`] for a number over the limit; what `segment_base_set` says otherwise.
///
/// # Safety
/// `number` is the number of the executing vCPU, `in_space` the space that it is in, and nothing
/// else uses GS of kernel mode.
pub unsafe fn attach(number: VcpuId, in_space: SpaceId) -> Result<(), Status> {
    let vcpu = VCPUS.get(number.0 as usize).ok_or(Status::NotFound)?;
    let page = core::ptr::with_exposed_provenance_mut(layout::vcpu_page(number.0).0 as usize);
    vcpu.number.store(number.0, Ordering::Relaxed);
    vcpu.space.store(in_space.0, Ordering::Relaxed);
    vcpu.page.store(page, Ordering::Relaxed);
    vcpu.user_gs.store(0, Ordering::Relaxed);
    vcpu.user_fs.store(0, Ordering::Relaxed);
    vcpu.traps_installed.store(false, Ordering::Relaxed);
    vcpu.this.store((&raw const *vcpu).cast_mut(), Ordering::Release);
    let address = (&raw const *vcpu).addr() as u64;
    // SAFETY: nothing else uses GS, by the caller's word; the entry is filled in.
    unsafe { call::segment_base_set(SegmentBase::KernelGs, address) }
}

/// Makes a space the current one of this vCPU, unless it is already.
///
/// # Errors
/// [`Status::NotFound`] for a space that does not exist.
pub(crate) fn switch_space(vcpu: &Vcpu, space: SpaceId) -> Result<(), Status> {
    if vcpu.space() != space {
        call::space_switch(space)?;
        vcpu.space.store(space.0, Ordering::Relaxed);
    }
    Ok(())
}
