//! What guests speak: each ABI's decisions in a folder of its own.

pub mod native;
#[cfg(feature = "xen")]
pub mod xen;
