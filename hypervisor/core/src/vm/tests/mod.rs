//! Tests of images and of the VMs built from them, over one small system.

mod build;
pub(super) mod fixture;
mod image;
mod policy;
