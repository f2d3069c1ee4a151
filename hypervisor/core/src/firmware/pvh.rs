//! The PVH start information (Xen's `hvm_start_info`), which QEMU's `-kernel` hands over.

use super::{BootData, Fields, FirmwareError, Physical, Region, RegionKind};
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

/// Reads the start information.
///
/// # Errors
/// When it is not PVH start information, is cut short, or names no memory.
pub fn parse(memory: &dyn Physical, start: Phys) -> Result<BootData, FirmwareError> {
    let header = Fields::at(memory, start, SIZE, NAME)?;
    if header.u32(0)? != MAGIC {
        return Err(FirmwareError::BadMagic);
    }
    let mut data = BootData::new("PVH");
    data.rsdp = Some(Phys(header.u64(32)?)).filter(|rsdp| rsdp.0 != 0);
    if header.u32(12)? > 0 {
        let entry = Fields::at(memory, Phys(header.u64(16)?), MODULE_SIZE, "PVH module list")?;
        data.module = Some(Region { start: Phys(entry.u64(0)?), length: entry.u64(8)?, kind: RegionKind::Reserved });
    }
    if header.u32(4)? >= 1 {
        let header = Fields::at(memory, start, SIZE_1, NAME)?;
        let mut next = header.u64(40)?;
        for _ in 0..header.u32(48)?.min(MAX_ENTRIES) {
            data.add_region(Fields::at(memory, Phys(next), MAP_ENTRY_SIZE, "PVH memory map")?)?;
            next = next.saturating_add(MAP_ENTRY_SIZE);
        }
    }
    data.checked()
}
