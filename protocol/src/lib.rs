//! The Cloister ABI: the one place where a number that hypervisor, guests and tools share is
//! written.
//!
//! * [`call`] is the table of hypercalls; stubs, dispatch, reference pages, the C header and the
//!   conformance list all come from it.
//! * [`conformance`] says what a suite must show of that table.
//! * [`status`] names what a call can refuse, with the remedy of the caller.
//! * [`shared`] holds the structures that both sides read while running.
//! * [`audit`] says what the records of the audit log tell.
//! * [`layout`] says which addresses belong to whom.
//! * [`xen`] holds the numbers of Xen's ABI, which the Xen personality serves.
//! * `manifest`, `policy` and `record` (feature `manifest`) are the messages parsed once: a packed
//!   system, what its VMs may do, and what the hypervisor reports over its serial line.
//!
//! The crate holds types, codecs and constant assertions: no state, no I/O, no `unsafe`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "manifest")]
extern crate alloc;

pub mod audit;
pub mod call;
pub mod conformance;
pub mod flags;
pub mod handle;
pub mod image;
pub mod label;
pub mod layout;
#[cfg(feature = "manifest")]
pub mod manifest;
pub mod note;
#[cfg(feature = "manifest")]
pub mod policy;
#[cfg(feature = "manifest")]
pub mod processor;
#[cfg(feature = "manifest")]
pub mod record;
pub mod shared;
pub mod status;
pub mod version;
pub mod xen;

pub use call::Call;
pub use handle::{Gfn, GrantRef, GuestVirt, Nanos, Port, SpaceId, VcpuId, VmId};
pub use status::Status;
