//! The unsafe layer: everything that needs assembly or a raw pointer.
//!
//! The modules beside this one are safe code over it. A kernel that wants another shape (its own
//! trap path, its own allocator) builds on this layer and leaves the rest out.

pub mod call;
pub(crate) mod channel;
pub mod cpu;
pub mod entry;
pub mod fpu;
pub mod frame;
#[cfg(feature = "alloc")]
pub mod heap;
pub mod hypercall;
#[cfg(feature = "log")]
pub mod log;
#[cfg(feature = "alloc")]
pub(crate) mod mapping;
pub mod page;
pub mod region;
pub mod segment;
pub(crate) mod sharing;
pub mod slot;
#[cfg(feature = "alloc")]
pub(crate) mod spawn;
pub mod trap;
pub mod user;
pub mod vcpu;
