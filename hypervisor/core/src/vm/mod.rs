//! System images and the VMs that are built from them.
//!
//! [`image`] believes nothing of the bytes it gets; what it returns keeps every rule of
//! `protocol::layout` and `protocol::manifest`. [`build`] turns one VM of it into frames and tables,
//! in bounded steps, at start-up and again after a crash.

pub mod build;
mod check;
mod error;
pub mod image;
mod plan;
mod policy;
#[cfg(feature = "xen")]
pub mod xen;

pub use build::{Build, Builder, ChannelEnd, Origin, VmSource, claim_channel};
pub use error::{Problem, Subject};
pub use image::SystemImage;

#[cfg(test)]
mod tests;
