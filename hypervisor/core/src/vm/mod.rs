//! System images and the VMs that are built from them.
//!
//! [`image`] believes nothing of the bytes it gets; what it returns keeps every rule of
//! `protocol::layout` and `protocol::manifest`. [`build`] turns one VM of it into frames and tables,
//! in bounded steps, at start-up and again after a crash.

pub mod build;
mod check;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod image;
pub mod plan;

pub use build::{Build, Builder, Built, ChannelEnd, Origin, VmSource, claim_channel};
pub use error::{BuildError, ImageError, Problem};
pub use image::SystemImage;
pub use plan::Plan;
