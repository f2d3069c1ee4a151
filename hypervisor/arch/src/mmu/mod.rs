//! Memory as the processor translates it: the direct map, the hypervisor's own tables, page-table
//! entries, CR3 and TLB flushes.

pub mod direct;
pub mod flush;
pub mod own;
#[cfg(feature = "xen")]
pub mod window;

pub use flush::{flush_page, flush_range, load_root, root};
