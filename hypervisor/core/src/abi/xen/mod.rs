//! Xen's ABI for 64-bit paravirtual guests: what its calls, traps and instructions decide. The facts are
//! in `protocol::xen`; page tables that such guests write are checked in [`crate::paging`].

pub mod clock;
pub mod console;
pub mod context;
pub mod cpuid;
pub mod descriptor;
pub mod emulate;
pub mod event;
pub mod grant;
pub mod register;

use protocol::VmId;
use protocol::xen::DOMID_SELF;

/// A VM as guests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Domain(u16);

impl Domain {
    /// The services of the hypervisor.
    pub const SERVICES: Domain = Domain(0);

    /// The domain that a VM is.
    #[must_use]
    pub fn of(vm: VmId) -> Domain {
        Domain(u16::try_from(vm.0.saturating_add(1)).unwrap_or(DOMID_SELF))
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Whether it means itself by this number.
    #[must_use]
    pub const fn is(self, named: u16) -> bool {
        named == DOMID_SELF || named == self.0
    }
}
