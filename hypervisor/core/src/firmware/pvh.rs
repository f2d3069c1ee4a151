//! The PVH start information (Xen's `hvm_start_info`), which QEMU's `-kernel` hands over.

use super::{BootData, Fields, FirmwareError, Physical, Region, RegionKind, Text, read, read_text};
use crate::addr::Phys;

/// "xEn3" with the upper bit of the E set.
const MAGIC: u32 = 0x336e_c578;
/// Bytes of version 0, and of version 1, which added the memory map.
const SIZE: u64 = 40;
const SIZE_1: u64 = 56;
/// Bytes of an entry of the module list and of the memory map.
const MODULE_SIZE: u64 = 32;
const MAP_ENTRY_SIZE: u64 = 24;
/// Entries of the memory map that are looked at.
const MAX_ENTRIES: u32 = 1024;

const NAME: &str = "PVH start information";
const TRUNCATED: FirmwareError = FirmwareError::Truncated(NAME);

/// Reads the start information.
///
/// # Errors
/// When it is not PVH start information, is cut short, or names no memory.
pub fn parse(memory: &dyn Physical, start: Phys) -> Result<BootData, FirmwareError> {
    let header = Fields(read(memory, start, SIZE, NAME)?);
    if header.u32(0) != Some(MAGIC) {
        return Err(FirmwareError::BadMagic);
    }
    let version = header.u32(4).ok_or(TRUNCATED)?;
    let module_count = header.u32(12).ok_or(TRUNCATED)?;
    let modules = header.u64(16).ok_or(TRUNCATED)?;
    let command_line = header.u64(24).ok_or(TRUNCATED)?;
    let rsdp = header.u64(32).ok_or(TRUNCATED)?;

    let mut data = BootData::new();
    data.loader = Text::new(b"PVH");
    data.rsdp = (rsdp != 0).then_some(Phys(rsdp));
    if command_line != 0 {
        data.command_line = read_text(memory, Phys(command_line));
    }
    if module_count > 0 {
        let entry = Fields(read(memory, Phys(modules), MODULE_SIZE, "PVH module list")?);
        let start = Phys(entry.u64(0).ok_or(TRUNCATED)?);
        let length = entry.u64(8).ok_or(TRUNCATED)?;
        data.module = Some(Region { start, length, kind: RegionKind::Reserved });
    }
    if version >= 1 {
        read_map(memory, Fields(read(memory, start, SIZE_1, NAME)?), &mut data)?;
    }
    data.checked()
}

/// Takes over the memory map.
///
/// # Errors
/// When the map cannot be reached.
fn read_map(memory: &dyn Physical, header: Fields<'_>, data: &mut BootData) -> Result<(), FirmwareError> {
    let mut next = header.u64(40).ok_or(TRUNCATED)?;
    let count = header.u32(48).ok_or(TRUNCATED)?;
    for _ in 0..count.min(MAX_ENTRIES) {
        let entry = Fields(read(memory, Phys(next), MAP_ENTRY_SIZE, "PVH memory map")?);
        let start = entry.u64(0).ok_or(TRUNCATED)?;
        let length = entry.u64(8).ok_or(TRUNCATED)?;
        let kind = BootData::kind(entry.u32(16).ok_or(TRUNCATED)?);
        data.add_region(start, length, kind);
        next = next.saturating_add(MAP_ENTRY_SIZE);
    }
    Ok(())
}
