//! ACPI tables, as far as interrupts need them: root pointer, root table, and the table of
//! processors and interrupt controllers (MADT).

use super::{Fields, FirmwareError, Physical, push};
use crate::addr::{MAX_CPUS, Phys};

/// Interrupt controllers that are kept.
const MAX_IO_APICS: usize = 8;
/// Lines of the ISA bus.
const ISA_LINES: usize = 16;
/// Bytes of a table's header.
const TABLE_HEADER: usize = 36;
/// Bytes of a table that are looked at.
const MAX_TABLE: u32 = 1 << 20;

/// A controller that routes device interrupts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoApic {
    /// Where its registers are.
    pub address: Phys,
    /// The system's number of its first line.
    pub first_interrupt: u32,
}

/// How a line of a device reaches the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The system's number of the line.
    pub interrupt: u32,
    /// Whether it stays active until the device is served; else edges count.
    pub is_level: bool,
    /// Whether low means active.
    pub is_active_low: bool,
}

/// Processors and interrupt controllers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    cpus: [Option<u32>; MAX_CPUS],
    io_apics: [Option<IoApic>; MAX_IO_APICS],
    overrides: [Option<Line>; ISA_LINES],
}

impl Topology {
    /// The APIC ids of the enabled processors, each once, in firmware's order: usually the processor
    /// that booted comes first, but nothing promises it. Those beyond [`MAX_CPUS`] are left out.
    pub fn cpus(&self) -> impl Iterator<Item = u32> + '_ {
        self.cpus.iter().flatten().copied()
    }

    /// The interrupt controllers.
    pub fn io_apics(&self) -> impl Iterator<Item = IoApic> + '_ {
        self.io_apics.iter().flatten().copied()
    }

    /// How a line of the ISA bus reaches the controllers: straight, by edges, active high, if firmware
    /// does not say otherwise.
    #[must_use]
    pub fn isa_line(&self, line: u8) -> Line {
        let plain = Line { interrupt: u32::from(line), is_level: false, is_active_low: false };
        self.overrides.get(usize::from(line)).copied().flatten().unwrap_or(plain)
    }

    /// The controller that has a line, and which of its lines that is: the one that starts nearest
    /// below. Whether it has so many lines only the controller itself knows.
    #[must_use]
    pub fn controller_of(&self, interrupt: u32) -> Option<(IoApic, u32)> {
        let below = self.io_apics().filter(|controller| controller.first_interrupt <= interrupt);
        let nearest = below.max_by_key(|known| known.first_interrupt)?;
        Some((nearest, interrupt.saturating_sub(nearest.first_interrupt)))
    }

    fn add_cpu(&mut self, apic_id: u32, flags: u32) {
        // A processor is enabled (bit 0). That it could be enabled later (bit 1) does not count.
        if flags & 1 != 0 && !self.cpus().any(|known| known == apic_id) {
            push(&mut self.cpus, apic_id);
        }
    }
}

/// Reads the tables that a root pointer leads to.
///
/// # Errors
/// When a structure is damaged or missing.
pub fn parse(memory: &dyn Physical, rsdp: Phys) -> Result<Topology, FirmwareError> {
    let (root, entry_size) = root_table(memory, rsdp)?;
    for offset in (TABLE_HEADER..root.bytes.len()).step_by(entry_size) {
        let address = Phys(if entry_size == 8 { root.u64(offset)? } else { u64::from(root.u32(offset)?) });
        if memory.bytes(address, 4).is_some_and(|name| name.starts_with(b"APIC")) {
            return read_madt(table(memory, address, "MADT")?);
        }
    }
    Err(FirmwareError::NoTable("ACPI table of processors (MADT)"))
}

/// The table of tables that a root pointer names, and the size of its entries: the new one with
/// 8-byte addresses, or the old one with 4-byte addresses.
///
/// # Errors
/// When it or the root pointer is damaged.
fn root_table(memory: &dyn Physical, rsdp: Phys) -> Result<(Fields<'_>, usize), FirmwareError> {
    const NAME: &str = "ACPI root pointer (RSDP)";
    let old = Fields::at(memory, rsdp, 20, NAME)?;
    if !old.bytes.starts_with(b"RSD PTR ") {
        return Err(FirmwareError::NoTable(NAME));
    }
    check_sum(old)?;
    if old.u8(15)? >= 2 {
        let new = Fields::at(memory, rsdp, 36, NAME)?;
        check_sum(new)?;
        let root = new.u64(24)?;
        if root != 0 {
            return Ok((table(memory, Phys(root), "XSDT")?, 8));
        }
    }
    Ok((table(memory, Phys(u64::from(old.u32(16)?)), "RSDT")?, 4))
}

/// A whole table.
///
/// # Errors
/// When it is cut short or its checksum is wrong.
fn table<'a>(memory: &'a dyn Physical, start: Phys, name: &'static str) -> Result<Fields<'a>, FirmwareError> {
    let length = Fields::at(memory, start, 8, name)?.u32(4)?;
    let table = Fields::at(memory, start, u64::from(length), name)?;
    if length > MAX_TABLE || table.bytes.len() < TABLE_HEADER {
        return Err(FirmwareError::Truncated(name));
    }
    check_sum(table)?;
    Ok(table)
}

/// All bytes of a structure add up to 0.
///
/// # Errors
/// When they do not.
fn check_sum(structure: Fields<'_>) -> Result<(), FirmwareError> {
    let sum = structure.bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if sum == 0 { Ok(()) } else { Err(FirmwareError::BadChecksum(structure.name)) }
}

/// Kinds of entries (ACPI specification 6.5, table 5.21).
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const OVERRIDE: u8 = 2;
const LOCAL_X2APIC: u8 = 9;

/// Offset of the first entry.
const FIRST_ENTRY: usize = 44;
/// Ids that mean "none" or "all".
const NO_APIC: u8 = 0xff;
const ALL_APICS: u32 = u32::MAX;

/// The entries of the table of processors and interrupt controllers.
///
/// # Errors
/// When an entry is cut short.
fn read_madt(table: Fields<'_>) -> Result<Topology, FirmwareError> {
    let mut topology = Topology::default();
    let mut offset = FIRST_ENTRY;
    // Each entry takes at least its two bytes of header, so the loop ends.
    while offset.saturating_add(1) < table.bytes.len() {
        let end = offset.saturating_add(usize::from(table.u8(offset.saturating_add(1))?).max(1));
        let entry = table.part(offset..end)?;
        match entry.u8(0)? {
            LOCAL_APIC if entry.u8(3)? != NO_APIC => topology.add_cpu(u32::from(entry.u8(3)?), entry.u32(4)?),
            LOCAL_X2APIC if entry.u32(4)? != ALL_APICS => topology.add_cpu(entry.u32(4)?, entry.u32(8)?),
            IO_APIC => {
                let address = Phys(u64::from(entry.u32(4)?));
                push(&mut topology.io_apics, IoApic { address, first_interrupt: entry.u32(8)? });
            }
            OVERRIDE => {
                let (interrupt, flags) = (entry.u32(4)?, entry.u16(8)?);
                let line = Line { interrupt, is_level: (flags >> 2) & 3 == 3, is_active_low: flags & 3 == 3 };
                if let Some(slot) = topology.overrides.get_mut(usize::from(entry.u8(3)?)) {
                    *slot = Some(line);
                }
            }
            // The header at least.
            _ => _ = entry.u8(1)?,
        }
        offset = end;
    }
    Ok(topology)
}
