//! ACPI tables, as far as interrupts need them: root pointer, root table, and the table of
//! processors and interrupt controllers (MADT).

use super::{Fields, FirmwareError, Physical, read};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    cpus: [u32; MAX_CPUS],
    cpu_count: usize,
    /// Enabled processors that found no place.
    pub cpus_lost: usize,
    io_apics: [Option<IoApic>; MAX_IO_APICS],
    isa: [Line; ISA_LINES],
}

impl Topology {
    /// A machine of which nothing is known: no processor but the one that asks, no controller.
    #[must_use]
    pub fn unknown() -> Topology {
        Topology {
            cpus: [0; MAX_CPUS],
            cpu_count: 0,
            cpus_lost: 0,
            io_apics: [None; MAX_IO_APICS],
            isa: core::array::from_fn(|line| Line {
                interrupt: u32::try_from(line).unwrap_or(0),
                is_level: false,
                is_active_low: false,
            }),
        }
    }

    /// The APIC ids of the enabled processors, each once, in firmware's order: usually the processor
    /// that booted comes first, but nothing promises it.
    #[must_use]
    pub fn cpus(&self) -> &[u32] {
        self.cpus.get(..self.cpu_count).unwrap_or_default()
    }

    /// The interrupt controllers.
    pub fn io_apics(&self) -> impl Iterator<Item = IoApic> + '_ {
        self.io_apics.iter().flatten().copied()
    }

    /// How a line of the ISA bus reaches the controllers.
    #[must_use]
    pub fn isa_line(&self, line: u8) -> Line {
        let plain = Line { interrupt: u32::from(line), is_level: false, is_active_low: false };
        self.isa.get(usize::from(line)).copied().unwrap_or(plain)
    }

    /// The controller that has a line, and which of its lines that is: the one that starts nearest
    /// below. Whether it has so many lines only the controller itself knows.
    #[must_use]
    pub fn controller_of(&self, interrupt: u32) -> Option<(IoApic, u32)> {
        let below = |controller: &IoApic| controller.first_interrupt <= interrupt;
        let nearest = self.io_apics().filter(below).max_by_key(|known| known.first_interrupt)?;
        Some((nearest, interrupt.saturating_sub(nearest.first_interrupt)))
    }

    fn add_cpu(&mut self, apic_id: u32) {
        if self.cpus().contains(&apic_id) {
            return;
        }
        match self.cpus.get_mut(self.cpu_count) {
            Some(slot) => {
                *slot = apic_id;
                self.cpu_count = self.cpu_count.saturating_add(1);
            }
            None => self.cpus_lost = self.cpus_lost.saturating_add(1),
        }
    }

    fn add_io_apic(&mut self, added: IoApic) {
        if let Some(slot) = self.io_apics.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(added);
        }
    }
}

/// Reads the tables that a root pointer leads to.
///
/// # Errors
/// When a structure is damaged or missing.
pub fn parse(memory: &dyn Physical, rsdp: Phys) -> Result<Topology, FirmwareError> {
    let root = root_table(memory, rsdp)?;
    let mut offset = TABLE_HEADER;
    // Each step reads an entry within the table, so the loop ends.
    while let Some(address) = root.entry(offset) {
        offset = offset.saturating_add(root.entry_size);
        let is_madt = memory.bytes(address, 4).is_some_and(|name| name.starts_with(b"APIC"));
        if is_madt {
            return read_madt(table(memory, address, "MADT")?);
        }
    }
    Err(FirmwareError::NoTable("ACPI table of processors (MADT)"))
}

/// The table of tables, with 4- or 8-byte entries.
struct Root<'a> {
    fields: Fields<'a>,
    entry_size: usize,
}

impl Root<'_> {
    fn entry(&self, offset: usize) -> Option<Phys> {
        match self.entry_size {
            8 => self.fields.u64(offset).map(Phys),
            _ => self.fields.u32(offset).map(|address| Phys(u64::from(address))),
        }
    }
}

/// The table of tables that a root pointer names.
///
/// # Errors
/// When it or the root pointer is damaged.
fn root_table(memory: &dyn Physical, rsdp: Phys) -> Result<Root<'_>, FirmwareError> {
    const NAME: &str = "ACPI root pointer (RSDP)";
    const TRUNCATED: FirmwareError = FirmwareError::Truncated(NAME);
    let old = read(memory, rsdp, 20, NAME)?;
    if !old.starts_with(b"RSD PTR ") {
        return Err(FirmwareError::NoTable(NAME));
    }
    check_sum(old, NAME)?;
    let short_root = u64::from(Fields(old).u32(16).ok_or(TRUNCATED)?);
    let is_new = Fields(old).u8(15).is_some_and(|revision| revision >= 2);
    if is_new {
        let new = read(memory, rsdp, 36, NAME)?;
        check_sum(new, NAME)?;
        let long_root = Fields(new).u64(24).ok_or(TRUNCATED)?;
        if long_root != 0 {
            let fields = Fields(table(memory, Phys(long_root), "XSDT")?);
            return Ok(Root { fields, entry_size: 8 });
        }
    }
    let fields = Fields(table(memory, Phys(short_root), "RSDT")?);
    Ok(Root { fields, entry_size: 4 })
}

/// A whole table.
///
/// # Errors
/// When it is cut short or its checksum is wrong.
fn table<'a>(memory: &'a dyn Physical, start: Phys, name: &'static str) -> Result<&'a [u8], FirmwareError> {
    let header = Fields(read(memory, start, 8, name)?);
    let length = header.u32(4).ok_or(FirmwareError::Truncated(name))?;
    if length > MAX_TABLE {
        return Err(FirmwareError::Truncated(name));
    }
    let bytes = read(memory, start, u64::from(length), name)?;
    if bytes.len() < TABLE_HEADER {
        return Err(FirmwareError::Truncated(name));
    }
    check_sum(bytes, name)?;
    Ok(bytes)
}

/// All bytes of a structure add up to 0.
///
/// # Errors
/// When they do not; `name` is the structure's.
fn check_sum(bytes: &[u8], name: &'static str) -> Result<(), FirmwareError> {
    match bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) {
        0 => Ok(()),
        _ => Err(FirmwareError::BadChecksum(name)),
    }
}

/// Kinds of entries (ACPI specification 6.5, table 5.21).
mod entry {
    pub(super) const LOCAL_APIC: u8 = 0;
    pub(super) const IO_APIC: u8 = 1;
    pub(super) const OVERRIDE: u8 = 2;
    pub(super) const LOCAL_X2APIC: u8 = 9;
}

/// Offset of the first entry.
const FIRST_ENTRY: usize = 44;
/// A processor is enabled. That it could be enabled later (bit 1) does not count.
const ENABLED: u32 = 1;
/// Ids that mean "none" or "all".
const NO_APIC: u8 = 0xff;
const ALL_APICS: u32 = u32::MAX;

/// The entries of the table of processors and interrupt controllers.
///
/// # Errors
/// When an entry is cut short.
fn read_madt(bytes: &[u8]) -> Result<Topology, FirmwareError> {
    const TRUNCATED: FirmwareError = FirmwareError::Truncated("MADT");
    let mut topology = Topology::unknown();
    let mut rest = bytes.get(FIRST_ENTRY..).ok_or(TRUNCATED)?;
    // Each entry takes at least its two bytes of header, so the loop ends.
    while let [kind, length, ..] = *rest {
        let length = usize::from(length);
        if length < 2 {
            return Err(TRUNCATED);
        }
        let content = Fields(rest.get(..length).ok_or(TRUNCATED)?);
        read_entry(kind, content, &mut topology).ok_or(TRUNCATED)?;
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(topology)
}

fn read_entry(kind: u8, entry: Fields<'_>, topology: &mut Topology) -> Option<()> {
    match kind {
        entry::LOCAL_APIC => {
            let apic_id = entry.u8(3)?;
            if entry.u32(4)? & ENABLED != 0 && apic_id != NO_APIC {
                topology.add_cpu(u32::from(apic_id));
            }
        }
        entry::LOCAL_X2APIC => {
            let apic_id = entry.u32(4)?;
            if entry.u32(8)? & ENABLED != 0 && apic_id != ALL_APICS {
                topology.add_cpu(apic_id);
            }
        }
        entry::IO_APIC => {
            let address = Phys(u64::from(entry.u32(4)?));
            topology.add_io_apic(IoApic { address, first_interrupt: entry.u32(8)? });
        }
        entry::OVERRIDE => {
            let line = line_of(entry.u32(4)?, entry.u16(8)?);
            if let Some(slot) = topology.isa.get_mut(usize::from(entry.u8(3)?)) {
                *slot = line;
            }
        }
        _ => {}
    }
    Some(())
}

/// The bus's default is edge-triggered and active high.
fn line_of(interrupt: u32, flags: u16) -> Line {
    Line { interrupt, is_level: (flags >> 2) & 3 == 3, is_active_low: flags & 3 == 3 }
}
