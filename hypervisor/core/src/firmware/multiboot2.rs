//! The multiboot2 information, which GRUB hands over: a list of tags.

use super::{BootData, Fields, FirmwareError, Physical, Region, RegionKind};
use crate::addr::Phys;
use crate::addr::convert::{index, wide};

/// Bytes before the first tag, and of a tag without its content.
const HEADER: usize = 8;
/// Bytes of the whole structure that are looked at: far more than GRUB writes.
const MAX_SIZE: u32 = 1 << 20;
/// Bytes of a memory-map entry that have a meaning.
const MAP_ENTRY: usize = 20;

const NAME: &str = "multiboot2 information";

/// Tag types (Multiboot2 specification 2.0, 3.6).
const END: u32 = 0;
const MODULE: u32 = 3;
const MEMORY_MAP: u32 = 6;
const ACPI_OLD: u32 = 14;
const ACPI_NEW: u32 = 15;

/// Reads the information.
///
/// # Errors
/// When it is cut short or names no memory.
pub fn parse(memory: &dyn Physical, start: Phys) -> Result<BootData, FirmwareError> {
    let size = Fields::at(memory, start, wide(HEADER), NAME)?.u32(0)?.min(MAX_SIZE);
    let all = Fields::at(memory, start, u64::from(size), NAME)?;
    let mut data = BootData::new("multiboot2");
    let mut offset = HEADER;
    // Each tag takes at least its header, so the loop ends.
    loop {
        let tag = all.part(offset..all.bytes.len())?;
        let (kind, length) = (tag.u32(0)?, index(u64::from(tag.u32(4)?)));
        if kind == END {
            return data.checked();
        }
        let content = tag.part(HEADER..length)?;
        let position = Phys(start.0.saturating_add(wide(offset.saturating_add(HEADER))));
        read_tag(kind, content, position, &mut data)?;
        offset = offset.saturating_add(length.saturating_add(7) & !7);
    }
}

/// Takes over what a tag says.
///
/// # Errors
/// When the tag is cut short.
fn read_tag(kind: u32, content: Fields<'_>, position: Phys, data: &mut BootData) -> Result<(), FirmwareError> {
    match kind {
        MODULE if data.module.is_none() => {
            let (start, end) = (u64::from(content.u32(0)?), u64::from(content.u32(4)?));
            let length = end.saturating_sub(start);
            data.module = Some(Region { start: Phys(start), length, kind: RegionKind::Reserved });
        }
        MEMORY_MAP => {
            let stride = index(u64::from(content.u32(0)?));
            if stride < MAP_ENTRY {
                return Err(FirmwareError::Truncated(NAME));
            }
            for bytes in content.bytes.get(HEADER..).unwrap_or_default().chunks_exact(stride) {
                data.add_region(Fields { bytes, name: NAME })?;
            }
        }
        // The tag holds a copy of the root pointer. The newer one is preferred.
        ACPI_OLD if data.rsdp.is_none() => data.rsdp = Some(position),
        ACPI_NEW => data.rsdp = Some(position),
        _ => {}
    }
    Ok(())
}
