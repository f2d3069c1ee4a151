//! The multiboot2 information, which GRUB hands over: a list of tags.

use super::{BootData, Fields, FirmwareError, Physical, Region, RegionKind, Text, read};
use crate::addr::Phys;
use crate::addr::convert::wide;

/// Bytes before the first tag, and of a tag without its content.
const HEADER: usize = 8;
/// Bytes of the whole structure that are looked at: far more than GRUB writes.
const MAX_SIZE: u32 = 1 << 20;
/// Bytes of a memory-map entry that have a meaning.
const MAP_ENTRY: usize = 20;

const NAME: &str = "multiboot2 information";
const TRUNCATED: FirmwareError = FirmwareError::Truncated(NAME);

/// Tag types (Multiboot2 specification 2.0, 3.6).
mod tag {
    pub(super) const END: u32 = 0;
    pub(super) const COMMAND_LINE: u32 = 1;
    pub(super) const LOADER: u32 = 2;
    pub(super) const MODULE: u32 = 3;
    pub(super) const MEMORY_MAP: u32 = 6;
    pub(super) const ACPI_OLD: u32 = 14;
    pub(super) const ACPI_NEW: u32 = 15;
}

/// Reads the information.
///
/// # Errors
/// When it is cut short or names no memory.
pub fn parse(memory: &dyn Physical, start: Phys) -> Result<BootData, FirmwareError> {
    let header = Fields(read(memory, start, wide(HEADER), NAME)?);
    let size = header.u32(0).ok_or(TRUNCATED)?.min(MAX_SIZE);
    let bytes = read(memory, start, u64::from(size), NAME)?;
    let mut data = BootData::new();
    let mut offset = HEADER;
    // Each tag takes at least its header, so the loop ends.
    while let Some(rest) = bytes.get(offset..) {
        let kind = Fields(rest).u32(0).ok_or(TRUNCATED)?;
        let length = Fields(rest).u32(4).ok_or(TRUNCATED)?;
        let length = usize::try_from(length).map_err(|_| TRUNCATED)?;
        if kind == tag::END {
            return data.checked();
        }
        let content = rest.get(HEADER..length).ok_or(TRUNCATED)?;
        let position = start.0.saturating_add(wide(offset.saturating_add(HEADER)));
        read_tag(kind, Fields(content), Phys(position), &mut data)?;
        offset = offset.saturating_add(length.saturating_add(7) & !7);
    }
    Err(TRUNCATED)
}

/// Takes over what a tag says.
///
/// # Errors
/// When the tag is cut short.
fn read_tag(kind: u32, content: Fields<'_>, position: Phys, data: &mut BootData) -> Result<(), FirmwareError> {
    match kind {
        tag::COMMAND_LINE => data.command_line = Text::new(content.0),
        tag::LOADER => data.loader = Text::new(content.0),
        tag::MODULE if data.module.is_none() => {
            let start = u64::from(content.u32(0).ok_or(TRUNCATED)?);
            let end = u64::from(content.u32(4).ok_or(TRUNCATED)?);
            let length = end.saturating_sub(start);
            data.module = Some(Region { start: Phys(start), length, kind: RegionKind::Reserved });
        }
        tag::MEMORY_MAP => read_map(content, data)?,
        // The tag holds a copy of the root pointer. The newer one is preferred.
        tag::ACPI_OLD if data.rsdp.is_none() => data.rsdp = Some(position),
        tag::ACPI_NEW => data.rsdp = Some(position),
        _ => {}
    }
    Ok(())
}

/// Takes over the memory map.
///
/// # Errors
/// When the map is cut short.
fn read_map(content: Fields<'_>, data: &mut BootData) -> Result<(), FirmwareError> {
    let stride = usize::try_from(content.u32(0).ok_or(TRUNCATED)?).map_err(|_| TRUNCATED)?;
    if stride < MAP_ENTRY {
        return Err(TRUNCATED);
    }
    for entry in content.0.get(HEADER..).unwrap_or_default().chunks_exact(stride) {
        let entry = Fields(entry);
        let start = entry.u64(0).ok_or(TRUNCATED)?;
        let length = entry.u64(8).ok_or(TRUNCATED)?;
        data.add_region(start, length, BootData::kind(entry.u32(16).ok_or(TRUNCATED)?));
    }
    Ok(())
}
