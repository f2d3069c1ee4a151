//! VMs that speak Xen's ABI: what they must keep, and how they are laid out,
//! built and taken apart.

mod build;
pub(super) mod check;
mod memory;
mod plan;
#[cfg(feature = "recount")]
mod recount;

pub use build::XenBuilder;
pub use memory::XenMemory;

#[cfg(test)]
mod tests;
