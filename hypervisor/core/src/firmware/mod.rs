//! What firmware and boot loaders tell: memory, the boot module, processors, interrupt routing.
//!
//! Pure parsers over bytes that nobody vouches for: every read is bounded, nothing need be aligned,
//! every loop ends, and no input makes them panic. What they return is a copy: the originals lie in
//! memory that will be given away.

pub mod acpi;
pub mod multiboot2;
pub mod pvh;

use core::fmt;
use core::ops::Range;

pub use acpi::{IoApic, Line, Topology};

use protocol::layout::PAGE_SIZE;

use crate::addr::Phys;
use crate::addr::convert::index;

/// Memory as firmware tables name it, by physical address.
pub trait Physical {
    /// The bytes there, or nothing when the range is not reachable.
    fn bytes(&self, start: Phys, length: u64) -> Option<&[u8]>;
}

/// Regions that a memory map can have. A longer map is refused: what it says about reserved memory
/// must not be lost.
pub const MAX_REGIONS: usize = 256;

/// Whether a region can be used as memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionKind {
    /// Free memory.
    Usable,
    /// Anything else.
    Reserved,
}

/// A range of physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: Phys,
    /// Bytes. `start + length` does not overflow.
    pub length: u64,
    /// What it is.
    pub kind: RegionKind,
}

impl Region {
    /// The address after the last byte.
    #[must_use]
    pub const fn end(&self) -> Phys {
        Phys(self.start.0.saturating_add(self.length))
    }
}

/// All that a boot loader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootData {
    regions: [Option<Region>; MAX_REGIONS],
    /// The first module.
    pub module: Option<Region>,
    /// The boot protocol.
    pub protocol: &'static str,
    /// Where the ACPI root pointer is, or may be.
    pub rsdp: Option<Phys>,
}

impl BootData {
    fn new(protocol: &'static str) -> BootData {
        BootData { regions: [None; MAX_REGIONS], module: None, protocol, rsdp: None }
    }

    /// The memory map, in the loader's order. Regions may overlap; reserved ones win.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        self.regions.iter().flatten().copied()
    }

    /// A page that can be used between the first page and 640 KiB: wholly in a usable region, in no
    /// reserved one, and not the module's.
    #[must_use]
    pub fn free_low_page(&self) -> Option<Phys> {
        let of_kind = |kind| self.regions().filter(move |region| region.kind == kind);
        (1..160).map(|number| Phys(number << 12)..Phys((number << 12).wrapping_add(PAGE_SIZE))).find_map(|page| {
            let usable =
                of_kind(RegionKind::Usable).any(|region| region.start <= page.start && page.end <= region.end());
            let mut others = of_kind(RegionKind::Reserved).chain(self.module);
            let is_taken = others.any(|region| region.start < page.end && page.start < region.end());
            (usable && !is_taken).then_some(page.start)
        })
    }

    /// Adds an entry of the memory map, whose fields lie alike in both protocols: start, length, kind.
    /// A region is cut where addresses end. An empty one says nothing.
    ///
    /// # Errors
    /// When the entry is cut short, or there are too many.
    fn add_region(&mut self, entry: Fields<'_>) -> Result<(), FirmwareError> {
        let start = entry.u64(0)?;
        let length = entry.u64(8)?.min(u64::MAX.wrapping_sub(start));
        let kind = if entry.u32(16)? == 1 { RegionKind::Usable } else { RegionKind::Reserved };
        let region = Region { start: Phys(start), length, kind };
        if length == 0 || push(&mut self.regions, region) { Ok(()) } else { Err(FirmwareError::TooManyRegions) }
    }

    /// Checks what every boot must have told.
    ///
    /// # Errors
    /// When there is no usable memory.
    fn checked(self) -> Result<BootData, FirmwareError> {
        let has_memory = self.regions().any(|region| region.kind == RegionKind::Usable);
        if has_memory { Ok(self) } else { Err(FirmwareError::NoMemoryMap) }
    }
}

/// Puts something in the first free place of a list; false when there is none.
fn push<T>(list: &mut [Option<T>], item: T) -> bool {
    let free = list.iter_mut().find(|slot| slot.is_none());
    free.map(|slot| *slot = Some(item)).is_some()
}

/// Why what firmware told cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirmwareError {
    /// The number that starts a structure is another one.
    BadMagic,
    /// A structure reaches beyond its own end, or beyond memory that can be read.
    Truncated(&'static str),
    /// A checksum is wrong.
    BadChecksum(&'static str),
    /// There is no memory map, or no usable memory in it.
    NoMemoryMap,
    /// The memory map has more than [`MAX_REGIONS`] regions.
    TooManyRegions,
    /// There is no ACPI table of this name.
    NoTable(&'static str),
}

impl fmt::Display for FirmwareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FirmwareError::BadMagic => {
                f.write_str("the boot loader follows neither the PVH nor the multiboot2 protocol")
            }
            FirmwareError::Truncated(what) => write!(f, "the {what} is cut short"),
            FirmwareError::BadChecksum(what) => write!(f, "the {what} has a wrong checksum"),
            FirmwareError::NoMemoryMap => f.write_str("the boot loader named no usable memory"),
            FirmwareError::TooManyRegions => write!(f, "the memory map has more than {MAX_REGIONS} regions"),
            FirmwareError::NoTable(name) => write!(f, "firmware has no {name}"),
        }
    }
}

/// The bytes of a structure, as little-endian numbers at byte offsets. What lies beyond the end is an
/// error that bears the structure's name.
#[derive(Debug, Clone, Copy)]
struct Fields<'a> {
    bytes: &'a [u8],
    name: &'static str,
}

#[expect(clippy::missing_errors_doc, reason = "each fails when the bytes are not there, as the type says")]
impl<'a> Fields<'a> {
    /// The structure at an address.
    fn at(memory: &'a dyn Physical, start: Phys, length: u64, name: &'static str) -> Result<Self, FirmwareError> {
        let bytes = memory.bytes(start, length).unwrap_or_default();
        Fields { bytes, name }.part(0..index(length))
    }

    fn part(self, range: Range<usize>) -> Result<Self, FirmwareError> {
        let bytes = self.bytes.get(range).ok_or(FirmwareError::Truncated(self.name))?;
        Ok(Fields { bytes, name: self.name })
    }

    fn array<const N: usize>(self, offset: usize) -> Result<[u8; N], FirmwareError> {
        let bytes = self.bytes.get(offset..).and_then(|rest| rest.first_chunk());
        bytes.copied().ok_or(FirmwareError::Truncated(self.name))
    }

    fn u8(self, offset: usize) -> Result<u8, FirmwareError> {
        self.array(offset).map(u8::from_le_bytes)
    }

    fn u16(self, offset: usize) -> Result<u16, FirmwareError> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(self, offset: usize) -> Result<u32, FirmwareError> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(self, offset: usize) -> Result<u64, FirmwareError> {
        self.array(offset).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests;
