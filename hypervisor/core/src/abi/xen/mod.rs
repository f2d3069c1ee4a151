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
