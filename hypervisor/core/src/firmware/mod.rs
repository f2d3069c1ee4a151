//! What firmware and boot loaders tell: memory, the boot module, processors, interrupt routing.
//!
//! Pure parsers over bytes that nobody vouches for: every read is bounded, nothing need be aligned,
//! every loop ends, and no input makes them panic. What they return is a copy: the originals lie in
//! memory that will be given away.

pub mod acpi;
pub mod multiboot2;
pub mod pvh;

use core::fmt;

pub use acpi::{IoApic, Line, Topology};

use protocol::layout::PAGE_SIZE;

use crate::addr::Phys;
use crate::addr::convert::index;

/// Memory as firmware tables name it, by physical address.
pub trait Physical {
    /// The bytes there, or nothing when the range is not reachable.
    fn bytes(&self, start: Phys, length: u64) -> Option<&[u8]>;
}

/// Memory regions that are kept; more are counted in [`BootData::regions_lost`].
pub const MAX_REGIONS: usize = 128;
/// Bytes of the command line that are kept.
pub const MAX_COMMAND_LINE: usize = 1024;
/// Bytes of the loader's name that are kept.
pub const MAX_LOADER_NAME: usize = 64;

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
    const EMPTY: Region = Region { start: Phys(0), length: 0, kind: RegionKind::Reserved };

    /// The address after the last byte.
    #[must_use]
    pub const fn end(&self) -> Phys {
        Phys(self.start.0.saturating_add(self.length))
    }
}

/// A text of bounded length, cut at what does not fit and at the first byte that is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const EMPTY: Text<N> = Text { bytes: [0; N], length: 0 };

    /// Copies a text up to its first zero byte.
    #[must_use]
    pub fn new(source: &[u8]) -> Text<N> {
        let mut text = Text::EMPTY;
        let content = source.iter().take_while(|byte| **byte != 0);
        for (slot, byte) in text.bytes.iter_mut().zip(content) {
            *slot = *byte;
            text.length = text.length.saturating_add(1);
        }
        text
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
                core::str::from_utf8(valid).unwrap_or_default()
            }
        }
    }
}

/// All that a boot loader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootData {
    regions: [Region; MAX_REGIONS],
    region_count: usize,
    /// Regions that found no place.
    pub regions_lost: usize,
    /// The first module.
    pub module: Option<Region>,
    /// The command line.
    pub command_line: Text<MAX_COMMAND_LINE>,
    /// The loader's name.
    pub loader: Text<MAX_LOADER_NAME>,
    /// Where the ACPI root pointer is, or may be.
    pub rsdp: Option<Phys>,
}

impl BootData {
    fn new() -> BootData {
        BootData {
            regions: [Region::EMPTY; MAX_REGIONS],
            region_count: 0,
            regions_lost: 0,
            module: None,
            command_line: Text::EMPTY,
            loader: Text::EMPTY,
            rsdp: None,
        }
    }

    /// The memory map, in the loader's order. Regions may overlap; reserved ones win.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        self.regions.get(..self.region_count).unwrap_or_default()
    }

    /// A page that can be used between the first page and 640 KiB: wholly in a usable region, in no
    /// reserved one, and not the module's.
    #[must_use]
    pub fn free_low_page(&self) -> Option<Phys> {
        const PAGES: core::ops::Range<u64> = 1..160;
        let is_usable = |page: &Region| {
            let mut usable = self.regions().iter().filter(|region| region.kind == RegionKind::Usable);
            usable.any(|region| region.start <= page.start && page.end() <= region.end())
        };
        let is_taken = |page: &Region| {
            let reserved = self.regions().iter().filter(|region| region.kind == RegionKind::Reserved);
            let mut others = reserved.chain(self.module.as_ref());
            others.any(|region| region.start < page.end() && page.start < region.end())
        };
        PAGES
            .map(|number| Region { start: Phys(number << 12), length: PAGE_SIZE, kind: RegionKind::Usable })
            .find(|page| is_usable(page) && !is_taken(page))
            .map(|page| page.start)
    }

    /// Adds a region of the memory map, cut where addresses end. An empty one says nothing.
    fn add_region(&mut self, start: u64, length: u64, kind: RegionKind) {
        let length = length.min(u64::MAX.wrapping_sub(start));
        if length == 0 {
            return;
        }
        match self.regions.get_mut(self.region_count) {
            Some(slot) => {
                *slot = Region { start: Phys(start), length, kind };
                self.region_count = self.region_count.saturating_add(1);
            }
            None => self.regions_lost = self.regions_lost.saturating_add(1),
        }
    }

    fn kind(code: u32) -> RegionKind {
        if code == 1 { RegionKind::Usable } else { RegionKind::Reserved }
    }

    /// Checks what every boot must have told.
    ///
    /// # Errors
    /// When there is no usable memory.
    fn checked(self) -> Result<BootData, FirmwareError> {
        if self.regions().iter().any(|region| region.kind == RegionKind::Usable) {
            Ok(self)
        } else {
            Err(FirmwareError::NoMemoryMap)
        }
    }
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
            FirmwareError::NoTable(name) => write!(f, "firmware has no {name}"),
        }
    }
}

/// Reads little-endian numbers at byte offsets.
#[derive(Debug, Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }

    fn u8(self, offset: usize) -> Option<u8> {
        self.0.get(offset).copied()
    }

    fn u16(self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(self, offset: usize) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }
}

/// The bytes there.
///
/// # Errors
/// When they cannot be reached; names what they should have been.
fn read<'a>(memory: &'a dyn Physical, start: Phys, length: u64, what: &'static str) -> Result<&'a [u8], FirmwareError> {
    let bytes = memory.bytes(start, length).ok_or(FirmwareError::Truncated(what))?;
    bytes.get(..index(length)).ok_or(FirmwareError::Truncated(what))
}

/// As many bytes of a text as can be read, at most `N`. Texts carry no length, and may lie near the
/// end of what is reachable, so shorter ranges are tried too.
fn read_text<const N: usize>(memory: &dyn Physical, start: Phys) -> Text<N> {
    let mut length = N;
    while length > 0 {
        if let Some(bytes) = memory.bytes(start, crate::addr::convert::wide(length)) {
            return Text::new(bytes);
        }
        length /= 2;
    }
    Text::EMPTY
}

#[cfg(test)]
mod tests;
