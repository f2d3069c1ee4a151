//! Tests of images and of the VMs built from them, over one small system.

mod build;
mod fixture;
mod image;
mod policy;
