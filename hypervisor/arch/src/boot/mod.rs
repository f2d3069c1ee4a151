//! From the loader's jump to Rust: one entry for each boot protocol, first page tables, and a copy
//! of all that loader and firmware said ([`BootInfo`]); later, the other processors (`ap`).
//!
//! The assembly in `entry` does the least that lets Rust run. Until the hypervisor builds its own
//! tables, the first 4 GiB of memory are mapped twice (at their own addresses and in the direct
//! map), readable, writable and executable, uncached from 3 GiB; the image is mapped where it is
//! linked.

#[cfg(target_os = "none")]
mod ap;
#[cfg(target_os = "none")]
mod entry;

#[cfg(target_os = "none")]
pub use ap::start_processor;

use core::fmt;
use core::fmt::Write as _;

use hv_core::addr::Phys;
use hv_core::firmware::{BootData, FirmwareError, Topology};
use protocol::record::exit;

/// The image is linked at this address plus its physical address.
pub const IMAGE_BASE: u64 = 0xffff_82d0_8000_0000;
/// Memory below is left to firmware, to the trampoline of `ap`, and perhaps to the boot module:
/// nothing there should be given to anybody.
pub const LOW_MEMORY_END: Phys = Phys(0x10_0000);

/// Where the parts of the hypervisor's image are, one behind the other. All bounds lie on pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The 32-bit entry, and that of other processors.
    pub start: Phys,
    /// Code.
    pub text: Phys,
    /// Constants.
    pub rodata: Phys,
    /// Variables, the first stack and the boot page tables.
    pub data: Phys,
    /// The address behind all.
    pub end: Phys,
    /// The lowest page of the first stack, to be left unmapped. It lies within `data`.
    pub stack_guard: Phys,
}

/// What loader and firmware said.
#[derive(Debug)]
pub struct BootInfo {
    /// What the loader said. Its memory map does not know of the module, nor of the image.
    pub data: BootData,
    /// Processors and interrupt controllers, or why firmware's tables cannot be used. Then only this
    /// CPU is known, and no device interrupt.
    pub topology: Result<Topology, FirmwareError>,
    /// The boot module through the direct map; empty if there is none.
    pub module: &'static [u8],
    /// Where the hypervisor is.
    pub image: Image,
    /// The time-stamp counter at the first instruction that could read it.
    pub started_tsc: u64,
}

/// Says why this machine cannot run the hypervisor, and ends it.
pub fn refuse(reason: impl fmt::Display) -> ! {
    let mut line = crate::io::EmergencyWriter::start();
    // Writing to the line cannot fail.
    let _ = writeln!(line, "cloister: cannot start: {reason}");
    crate::io::machine_exit(exit::UNFIT)
}

/// Names the functions with which the hypervisor begins, in ring 0, with interrupts off:
/// `fn main(boot: &'static BootInfo) -> !` on the first CPU, on the first stack and the first page
/// tables, and `fn processor(cpu: CpuId) -> !` on those that [`start_processor`] starts. Both must
/// call [`crate::local::bring_up`] before anything else of this crate.
#[macro_export]
macro_rules! entry_point {
    ($main:path, $processor:path) => {
        #[unsafe(export_name = "cloister_main")]
        fn __main(boot: &'static $crate::boot::BootInfo) -> ! {
            $main(boot)
        }
        #[unsafe(export_name = "cloister_processor")]
        fn __processor(cpu: ::hv_core::addr::CpuId) -> ! {
            $processor(cpu)
        }
    };
}
