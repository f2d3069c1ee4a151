//! Every decision of the hypervisor, over plain data: what a call may do, which entry a page table
//! gets, who runs next, what is injected.
//!
//! Nothing here has an effect on a machine. Functions return what is to be done (entries to store
//! through [`space::TableMemory`], flushes owed, CPUs to wake), and `hv-arch` does it. So all of it
//! runs and is tested on the host. The crate takes no lock, reads no clock, keeps no global, and
//! allocates only while the system is built.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod abi;
pub mod addr;
pub mod audit;
pub mod console;
pub mod event;
pub mod fakes;
pub mod firmware;
pub mod frame;
pub mod grant;
pub mod io;
#[cfg(feature = "xen")]
pub mod paging;
pub mod policy;
pub mod sched;
pub mod space;
pub mod time;
pub mod vm;
