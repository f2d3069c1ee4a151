//! From the loader's jump to Rust: one entry for each boot protocol, first page tables, and a copy
//! of all that loader and firmware said ([`BootInfo`]); later, the other processors ([`ap`]).
//!
//! The assembly in [`entry`] does the least that lets Rust run. Until the hypervisor builds its own
//! tables, the first 4 GiB of memory are mapped twice (at their own addresses and in the direct
//! map), readable, writable and executable, uncached from 3 GiB; the image is mapped where it is
//! linked.

#[cfg(target_os = "none")]
pub mod ap;
#[cfg(target_os = "none")]
mod entry;

use core::fmt;
use core::fmt::Write as _;
use core::ops::Range;

use hv_core::addr::Phys;
use hv_core::firmware::{BootData, FirmwareError, Region, Topology};
use protocol::record::exit;

/// The image is linked at this address plus its physical address.
pub const IMAGE_BASE: u64 = 0xffff_82d0_8000_0000;
/// Memory below is left to firmware, to the trampoline of [`ap`], and perhaps to the boot module:
/// nothing there should be given to anybody.
pub const LOW_MEMORY_END: Phys = Phys(0x10_0000);

/// Where the parts of the hypervisor's image are. All bounds lie on pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The 32-bit entry, not needed any more.
    pub boot: Range<Phys>,
    /// Code.
    pub text: Range<Phys>,
    /// Constants.
    pub rodata: Range<Phys>,
    /// Variables, the first stack and the boot page tables.
    pub data: Range<Phys>,
    /// The lowest page of the first stack, to be left unmapped. It lies within `data`.
    pub stack_guard: Phys,
}

impl Image {
    /// All of it, which nobody else may use.
    #[must_use]
    pub fn whole(&self) -> Range<Phys> {
        self.boot.start..self.data.end
    }
}

/// What loader and firmware said.
#[derive(Debug)]
pub struct BootInfo {
    data: BootData,
    topology: Result<Topology, FirmwareError>,
    module: &'static [u8],
    image: Image,
    started_tsc: u64,
}

impl BootInfo {
    /// The memory map. Regions may overlap; reserved ones win. It does not know of the module, nor
    /// of the image.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        self.data.regions()
    }

    /// The boot module through the direct map; empty if there is none.
    #[must_use]
    pub fn module(&self) -> &'static [u8] {
        self.module
    }

    /// Where the boot module is.
    #[must_use]
    pub fn module_region(&self) -> Option<Region> {
        self.data.module
    }

    /// The command line.
    #[must_use]
    pub fn command_line(&self) -> &str {
        self.data.command_line.as_str()
    }

    /// The loader's name.
    #[must_use]
    pub fn loader(&self) -> &str {
        self.data.loader.as_str()
    }

    /// Where the ACPI root pointer is.
    #[must_use]
    pub fn rsdp(&self) -> Option<Phys> {
        self.data.rsdp
    }

    /// A page from which other processors can start: below 640 KiB, usable, and not the module's.
    #[must_use]
    pub fn trampoline(&self) -> Option<Phys> {
        self.data.free_low_page()
    }

    /// Processors and interrupt controllers.
    ///
    /// # Errors
    /// Why firmware's tables cannot be used. Then only this CPU is known, and no device interrupt.
    pub fn topology(&self) -> Result<&Topology, FirmwareError> {
        self.topology.as_ref().map_err(|error| *error)
    }

    /// Where the hypervisor is.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The time-stamp counter at the first instruction that could read it.
    #[must_use]
    pub fn started_tsc(&self) -> u64 {
        self.started_tsc
    }
}

/// Says why this machine cannot run the hypervisor, and ends it.
pub fn refuse(reason: impl fmt::Display) -> ! {
    let mut line = crate::io::EmergencyWriter::start();
    // Writing to the line cannot fail.
    let _ = writeln!(line, "cloister: cannot start: {reason}");
    crate::io::machine_exit(exit::UNFIT)
}

/// Names the function with which the hypervisor begins:
/// `fn main(boot: &'static BootInfo) -> !`. It runs on the first CPU, in ring 0, with interrupts
/// off, on the first stack and the first page tables.
#[macro_export]
macro_rules! entry_point {
    ($main:path) => {
        #[unsafe(export_name = "cloister_main")]
        fn cloister_main(boot: &'static $crate::boot::BootInfo) -> ! {
            let main: fn(&'static $crate::boot::BootInfo) -> ! = $main;
            main(boot)
        }
    };
}
