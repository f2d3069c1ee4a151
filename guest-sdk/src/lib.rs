//! What a guest kernel of Cloister links.
//!
//! ```no_run
//! #![cfg_attr(target_os = "none", no_std, no_main)]
//! use guest_sdk::{StartInfo, println};
//!
//! guest_sdk::entry!(kernel);
//!
//! fn kernel(start: &'static StartInfo) {
//!     println!("{} has {} frames", start.name(), start.memory_frames);
//! }
//! ```
//!
//! Each layer can be used alone:
//! * [`raw`] holds the hypercalls and everything unsafe; [`raw::call`] has one function per call.
//! * [`entry!`] gives `_start`, the ABI note, the panic handler and the heap; `entry!(bare main)`
//!   only the first two, for kernels that bring their own.
//! * [`console`], [`time`], [`event`], [`timer`], [`trap`], [`user`], [`smp`], [`channel`] and
//!   [`grant`] are safe code over it and need no heap; so are [`control`], [`cpuid`], [`debug`] and
//!   [`segment`], which stand for instructions that do not tell a guest the truth (`docs/porting.md`).
//! * With the feature `alloc` (default): the heap, [`space::Space`], [`smp::spawn`] and the
//!   [`executor`]. With `log` (default): the defmt logger.
#![cfg_attr(not(test), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(feature = "log")]
pub use defmt;
pub use protocol;
pub use zerocopy;

pub mod channel;
pub mod console;
pub mod control;
pub mod cpuid;
pub mod debug;
pub mod event;
#[cfg(feature = "alloc")]
pub mod executor;
pub mod exit_code;
pub mod grant;
pub mod io_port;
mod macros;
#[expect(unsafe_code, reason = "the layer that talks to the hypervisor and the CPU")]
pub mod raw;
pub mod smp;
#[cfg(feature = "alloc")]
pub mod space;
pub mod start;
pub mod sync;
pub mod time;
pub mod timer;
pub mod trap;
pub mod user;
pub mod verdict;

pub use protocol::{Gfn, GrantRef, GuestVirt, Nanos, Port, SpaceId, Status, VcpuId, VmId};
pub use raw::trap::TrapContext;
pub use raw::{call, frame, segment};
pub use start::StartInfo;
