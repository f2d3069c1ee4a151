//! Tests of the firmware parsers: well-formed structures, each kind of damage, and random bytes.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::missing_errors_doc,
    reason = "offsets of test structures are small constants, and helpers pass results on"
)]

use proptest::prelude::*;

use super::{
    BootData, Fields, FirmwareError, IoApic, MAX_REGIONS, Physical, Region, RegionKind, acpi, multiboot2, pvh,
};
use crate::addr::convert::index;
use crate::addr::{MAX_CPUS, Phys};

/// Memory from address 0 on. Nothing else can be read.
struct Memory(Vec<u8>);

impl Physical for Memory {
    fn bytes(&self, start: Phys, length: u64) -> Option<&[u8]> {
        self.0.get(index(start.0)..index(start.0.checked_add(length)?))
    }
}

impl Memory {
    fn new() -> Memory {
        Memory(vec![0; 0x4000])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    /// Corrects the sum of a structure by the byte at `at`.
    fn seal(&mut self, structure: std::ops::Range<usize>, at: usize) {
        self.0[at] = 0;
        let sum = self.0[structure].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        self.0[at] = sum.wrapping_neg();
    }
}

/// At odd addresses, since nothing promises alignment.
const PVH_AT: usize = 0x1001;

fn pvh_memory() -> Memory {
    let mut memory = Memory::new();
    memory.put_u32(PVH_AT, 0x336e_c578);
    memory.put_u32(PVH_AT + 4, 1);
    memory.put_u32(PVH_AT + 12, 1);
    memory.put_u64(PVH_AT + 16, 0x1103);
    memory.put_u64(PVH_AT + 32, 0xf59e0);
    memory.put_u64(PVH_AT + 40, 0x1307);
    memory.put_u32(PVH_AT + 48, 3);
    memory.put_u64(0x1103, 0x80_0000);
    memory.put_u64(0x1103 + 8, 12_345);
    for (number, (start, length, kind)) in
        [(0, 0x9_fc00, 1), (0x9_fc00, 0x400, 2), (0x10_0000, 0x700_0000, 1)].into_iter().enumerate()
    {
        let at = 0x1307 + 24 * number;
        memory.put_u64(at, start);
        memory.put_u64(at + 8, length);
        memory.put_u32(at + 16, kind);
    }
    memory
}

fn region(start: u64, length: u64, kind: RegionKind) -> Region {
    Region { start: Phys(start), length, kind }
}

fn parse_pvh(memory: &Memory) -> Result<BootData, FirmwareError> {
    pvh::parse(memory, Phys(PVH_AT as u64))
}

#[test]
fn pvh_start_information_is_read_wherever_it_lies() {
    let data = parse_pvh(&pvh_memory()).unwrap();
    assert_eq!(data.protocol, "PVH");
    assert_eq!(data.rsdp, Some(Phys(0xf59e0)));
    assert_eq!(data.module, Some(region(0x80_0000, 12_345, RegionKind::Reserved)));
    assert_eq!(
        data.regions().collect::<Vec<_>>(),
        [
            region(0, 0x9_fc00, RegionKind::Usable),
            region(0x9_fc00, 0x400, RegionKind::Reserved),
            region(0x10_0000, 0x700_0000, RegionKind::Usable),
        ]
    );
}

#[test]
fn damaged_pvh_start_information_is_refused() {
    let mut memory = pvh_memory();
    memory.put_u32(PVH_AT, 0);
    assert_eq!(parse_pvh(&memory), Err(FirmwareError::BadMagic));

    let mut memory = pvh_memory();
    memory.put_u64(PVH_AT + 16, u64::MAX - 3);
    assert_eq!(parse_pvh(&memory), Err(FirmwareError::Truncated("PVH module list")));

    let mut memory = pvh_memory();
    memory.put_u32(PVH_AT + 48, u32::MAX);
    assert_eq!(parse_pvh(&memory), Err(FirmwareError::Truncated("PVH memory map")));

    let mut memory = pvh_memory();
    memory.put_u32(PVH_AT + 4, 0);
    assert_eq!(parse_pvh(&memory), Err(FirmwareError::NoMemoryMap));
    assert!(pvh::parse(&pvh_memory(), Phys(0x3ff0)).is_err());
}

#[test]
fn a_region_is_cut_where_addresses_end() {
    let mut memory = pvh_memory();
    memory.put_u64(0x1307, u64::MAX - 10);
    memory.put_u64(0x1307 + 8, 4096);
    let data = parse_pvh(&memory).unwrap();
    assert_eq!(data.regions().next().unwrap().length, 10);
    assert_eq!(data.regions().next().unwrap().end(), Phys(u64::MAX));
}

/// Adds a region as an entry of a memory map tells it.
fn add_region(data: &mut BootData, start: u64, length: u64, kind: u32) -> Result<(), FirmwareError> {
    let mut bytes = start.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    data.add_region(Fields { bytes: &bytes, name: "map" })
}

#[test]
fn a_memory_map_with_too_many_regions_is_refused() {
    let mut data = BootData::new("test");
    for number in 0..MAX_REGIONS as u64 {
        add_region(&mut data, number * 4096, 4096, 1).unwrap();
    }
    assert_eq!(add_region(&mut data, 0, 0, 1), Ok(()), "an empty region says nothing");
    assert_eq!(add_region(&mut data, 1 << 40, 4096, 2), Err(FirmwareError::TooManyRegions));
    assert_eq!(data.regions().count(), MAX_REGIONS);
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn the_free_low_page_avoids_reserved_memory_and_the_module() {
    let mut data = BootData::new("test");
    assert_eq!(data.free_low_page(), None);
    add_region(&mut data, 0, 0x9_fc00, 1).unwrap();
    assert_eq!(data.free_low_page(), Some(Phys(0x1000)));
    add_region(&mut data, 0x1800, 0x1000, 2).unwrap();
    assert_eq!(data.free_low_page(), Some(Phys(0x3000)));
    data.module = Some(region(0x3fff, 0x9_a001, RegionKind::Reserved));
    assert_eq!(data.free_low_page(), Some(Phys(0x9_e000)));
    data.module = Some(region(0x3000, 0x9_c001, RegionKind::Reserved));
    assert_eq!(data.free_low_page(), None);
}

const MULTIBOOT_AT: usize = 0x800;

fn multiboot_memory(tags: &[(u32, Vec<u8>)]) -> Memory {
    let mut memory = Memory::new();
    let mut at = MULTIBOOT_AT + 8;
    for (kind, content) in tags {
        memory.put_u32(at, *kind);
        memory.put_u32(at + 4, u32::try_from(content.len() + 8).unwrap());
        memory.put(at + 8, content);
        at += (content.len() + 8).next_multiple_of(8);
    }
    memory.put_u32(at + 4, 8);
    memory.put_u32(MULTIBOOT_AT, u32::try_from(at + 8 - MULTIBOOT_AT).unwrap());
    memory
}

fn module_tag(start: u32, end: u32) -> (u32, Vec<u8>) {
    let mut content = start.to_le_bytes().to_vec();
    content.extend(end.to_le_bytes());
    content.extend(b"name\0");
    (3, content)
}

fn map_tag(stride: u32, entries: &[(u64, u64, u32)]) -> (u32, Vec<u8>) {
    let mut content = stride.to_le_bytes().to_vec();
    content.extend(0_u32.to_le_bytes());
    for (start, length, kind) in entries {
        let begin = content.len();
        content.extend(start.to_le_bytes());
        content.extend(length.to_le_bytes());
        content.extend(kind.to_le_bytes());
        content.resize(begin + stride as usize, 0);
    }
    (6, content)
}

fn parse_multiboot(tags: &[(u32, Vec<u8>)]) -> Result<BootData, FirmwareError> {
    multiboot2::parse(&multiboot_memory(tags), Phys(MULTIBOOT_AT as u64))
}

#[test]
fn multiboot2_tags_are_read_and_unknown_ones_skipped() {
    let data = parse_multiboot(&[
        (1, b"one two\0".to_vec()),
        (99, vec![1, 2, 3]),
        (2, b"GRUB\0".to_vec()),
        module_tag(0x20_0000, 0x20_1234),
        module_tag(0x30_0000, 0x30_0001),
        map_tag(32, &[(0x10_0000, 0x1000, 1), (0, 0x1000, 3)]),
        (14, vec![0; 20]),
        (15, vec![0; 36]),
    ])
    .unwrap();
    assert_eq!(data.protocol, "multiboot2");
    assert_eq!(data.module, Some(region(0x20_0000, 0x1234, RegionKind::Reserved)));
    let kinds: Vec<RegionKind> = data.regions().map(|region| region.kind).collect();
    assert_eq!(kinds, [RegionKind::Usable, RegionKind::Reserved]);
    // 8 of the header, tags of 16, 16, 16, 24, 24, 80 and 32 bytes, and the header of the last.
    assert_eq!(data.rsdp, Some(Phys(MULTIBOOT_AT as u64 + 8 + 16 + 16 + 16 + 24 + 24 + 80 + 32 + 8)));
}

#[test]
fn the_old_root_pointer_does_not_replace_the_new_one() {
    let map = map_tag(24, &[(0, 0x1000, 1)]);
    let both = [(15, vec![0; 36]), (14, vec![0; 20]), map.clone()];
    assert_eq!(parse_multiboot(&both).unwrap().rsdp, Some(Phys(MULTIBOOT_AT as u64 + 16)));
    let old = [(14, vec![0; 20]), map];
    assert_eq!(parse_multiboot(&old).unwrap().rsdp, Some(Phys(MULTIBOOT_AT as u64 + 16)));
}

#[test]
fn damaged_multiboot2_information_is_refused() {
    let truncated = Err(FirmwareError::Truncated("multiboot2 information"));
    assert_eq!(parse_multiboot(&[]), Err(FirmwareError::NoMemoryMap));
    assert_eq!(parse_multiboot(&[(3, vec![1, 2])]), truncated);
    assert_eq!(parse_multiboot(&[map_tag(0, &[])]), truncated);
    // A tag shorter than its own header, and one longer than everything.
    for length in [0, 7, u32::MAX] {
        let mut memory = multiboot_memory(&[(1, b"x\0".to_vec())]);
        memory.put_u32(MULTIBOOT_AT + 12, length);
        assert_eq!(multiboot2::parse(&memory, Phys(MULTIBOOT_AT as u64)), truncated);
    }
    let mut memory = multiboot_memory(&[map_tag(24, &[(0, 4096, 1)])]);
    memory.put_u32(MULTIBOOT_AT, 40);
    assert_eq!(multiboot2::parse(&memory, Phys(MULTIBOOT_AT as u64)), truncated);
}

const RSDP_AT: usize = 0x101;
const XSDT_AT: usize = 0x203;
const MADT_AT: usize = 0x305;

fn cpu_entry(apic_id: u8, flags: u8) -> Vec<u8> {
    vec![0, 8, 0, apic_id, flags, 0, 0, 0]
}

fn x2apic_entry(apic_id: u32, flags: u8) -> Vec<u8> {
    let mut entry = vec![9, 16, 0, 0];
    entry.extend(apic_id.to_le_bytes());
    entry.extend([flags, 0, 0, 0, 0, 0, 0, 0]);
    entry
}

fn io_apic_entry(address: u32, first: u32) -> Vec<u8> {
    let mut entry = vec![1, 12, 0, 0];
    entry.extend(address.to_le_bytes());
    entry.extend(first.to_le_bytes());
    entry
}

fn override_entry(line: u8, interrupt: u8, flags: u8) -> Vec<u8> {
    vec![2, 10, 0, line, interrupt, 0, 0, 0, flags, 0]
}

/// A new root pointer, its table of tables with one stranger, and a MADT.
fn acpi_memory(entries: &[Vec<u8>]) -> Memory {
    let mut memory = Memory::new();
    memory.put(RSDP_AT, b"RSD PTR ");
    memory.0[RSDP_AT + 15] = 2;
    memory.put_u64(RSDP_AT + 24, XSDT_AT as u64);
    memory.seal(RSDP_AT..RSDP_AT + 20, RSDP_AT + 8);
    memory.seal(RSDP_AT..RSDP_AT + 36, RSDP_AT + 32);

    memory.put(XSDT_AT, b"XSDT");
    memory.put_u32(XSDT_AT + 4, 36 + 16);
    memory.put_u64(XSDT_AT + 36, 0xffff_ffff_ffff);
    memory.put_u64(XSDT_AT + 44, MADT_AT as u64);
    memory.seal(XSDT_AT..XSDT_AT + 52, XSDT_AT + 9);

    let content: Vec<u8> = entries.concat();
    memory.put(MADT_AT, b"APIC");
    memory.put_u32(MADT_AT + 4, u32::try_from(44 + content.len()).unwrap());
    memory.put(MADT_AT + 44, &content);
    memory.seal(MADT_AT..MADT_AT + 44 + content.len(), MADT_AT + 9);
    memory
}

fn parse_acpi(memory: &Memory) -> Result<acpi::Topology, FirmwareError> {
    acpi::parse(memory, Phys(RSDP_AT as u64))
}

#[test]
fn enabled_processors_are_listed_once() {
    let memory = acpi_memory(&[
        cpu_entry(0, 1),
        cpu_entry(1, 0),
        cpu_entry(2, 2),
        cpu_entry(255, 1),
        cpu_entry(7, 1),
        x2apic_entry(7, 1),
        x2apic_entry(300, 1),
        x2apic_entry(301, 0),
        x2apic_entry(u32::MAX, 1),
        vec![200, 4, 0, 0],
    ]);
    let topology = parse_acpi(&memory).unwrap();
    assert_eq!(topology.cpus().collect::<Vec<_>>(), [0, 7, 300]);
}

#[test]
fn processors_that_find_no_place_are_left_out() {
    let entries: Vec<Vec<u8>> = (0..MAX_CPUS as u8 + 3).map(|id| cpu_entry(id, 1)).collect();
    let topology = parse_acpi(&acpi_memory(&entries)).unwrap();
    assert_eq!(topology.cpus().count(), MAX_CPUS);
}

#[test]
fn isa_lines_follow_their_overrides_to_the_nearest_controller() {
    let memory = acpi_memory(&[
        io_apic_entry(0xfec0_1000, 24),
        io_apic_entry(0xfec0_0000, 0),
        override_entry(0, 2, 0),
        override_entry(9, 9, 0b1111),
        override_entry(200, 1, 0),
    ]);
    let topology = parse_acpi(&memory).unwrap();
    assert_eq!(topology.isa_line(4).interrupt, 4);
    assert_eq!(topology.isa_line(0).interrupt, 2);
    let nine = topology.isa_line(9);
    assert!(nine.is_level && nine.is_active_low);
    assert!(!topology.isa_line(4).is_level && !topology.isa_line(4).is_active_low);
    let first = IoApic { address: Phys(0xfec0_0000), first_interrupt: 0 };
    let second = IoApic { address: Phys(0xfec0_1000), first_interrupt: 24 };
    assert_eq!(topology.controller_of(4), Some((first, 4)));
    assert_eq!(topology.controller_of(23), Some((first, 23)));
    assert_eq!(topology.controller_of(25), Some((second, 1)));
    assert_eq!(acpi::Topology::default().controller_of(4), None);
}

#[test]
fn old_root_pointers_with_short_addresses_work() {
    let mut memory = acpi_memory(&[cpu_entry(5, 1)]);
    memory.0[RSDP_AT + 15] = 0;
    memory.put_u32(RSDP_AT + 16, 0x3003);
    memory.seal(RSDP_AT..RSDP_AT + 20, RSDP_AT + 8);
    memory.put(0x3003, b"RSDT");
    memory.put_u32(0x3003 + 4, 40);
    memory.put_u32(0x3003 + 36, MADT_AT as u32);
    memory.seal(0x3003..0x3003 + 40, 0x3003 + 9);
    assert_eq!(parse_acpi(&memory).unwrap().cpus().collect::<Vec<_>>(), [5]);
}

#[test]
fn damaged_acpi_tables_are_refused_by_name() {
    let good = || acpi_memory(&[cpu_entry(0, 1)]);
    let mut memory = good();
    memory.0[RSDP_AT] = b'X';
    assert_eq!(parse_acpi(&memory), Err(FirmwareError::NoTable("ACPI root pointer (RSDP)")));
    let mut memory = good();
    memory.0[RSDP_AT + 9] ^= 1;
    assert_eq!(parse_acpi(&memory), Err(FirmwareError::BadChecksum("ACPI root pointer (RSDP)")));
    let mut memory = good();
    memory.0[RSDP_AT + 33] ^= 1;
    assert_eq!(parse_acpi(&memory), Err(FirmwareError::BadChecksum("ACPI root pointer (RSDP)")));
    let mut memory = good();
    memory.0[XSDT_AT + 10] ^= 1;
    assert_eq!(parse_acpi(&memory), Err(FirmwareError::BadChecksum("XSDT")));
    let mut memory = good();
    memory.0[MADT_AT + 10] ^= 1;
    assert_eq!(parse_acpi(&memory), Err(FirmwareError::BadChecksum("MADT")));
    let mut memory = good();
    memory.put_u32(MADT_AT + 4, u32::MAX);
    assert_eq!(parse_acpi(&memory), Err(FirmwareError::Truncated("MADT")));
    let mut memory = good();
    memory.0[MADT_AT] = b'X';
    assert!(matches!(parse_acpi(&memory), Err(FirmwareError::NoTable(_))));
    for bad in [vec![0, 0], vec![0, 1], vec![0, 9, 0, 0], vec![0, 3, 0], vec![1, 4, 0, 0], vec![2, 5, 0, 0, 0]] {
        assert_eq!(parse_acpi(&acpi_memory(&[bad])), Err(FirmwareError::Truncated("MADT")));
    }
}

/// Overwrites some bytes.
fn damage(mut memory: Memory, changes: &[(usize, u8)]) -> Memory {
    for (at, value) in changes {
        let at = at % memory.0.len();
        memory.0[at] = *value;
    }
    memory
}

/// Corrects the sums, so that damage gets past them.
fn seal_acpi(mut memory: Memory) -> Memory {
    memory.seal(RSDP_AT..RSDP_AT + 20, RSDP_AT + 8);
    memory.seal(RSDP_AT..RSDP_AT + 36, RSDP_AT + 32);
    memory.seal(XSDT_AT..XSDT_AT + 52, XSDT_AT + 9);
    memory.seal(MADT_AT..MADT_AT + 76, MADT_AT + 9);
    memory
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), at in 0_u64..600) {
        let memory = Memory(bytes);
        let _ = pvh::parse(&memory, Phys(at));
        let _ = multiboot2::parse(&memory, Phys(at));
        let _ = acpi::parse(&memory, Phys(at));
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn damaged_structures_are_survived(
        changes in proptest::collection::vec((0x800_usize..0x1400, any::<u8>()), 1..12),
    ) {
        let data = parse_pvh(&damage(pvh_memory(), &changes));
        prop_assert!(data.is_err() || data.is_ok_and(|data| data.free_low_page().is_none_or(|page| page.0 < 0xa_0000)));
        let tags = [module_tag(1, 2), map_tag(24, &[(0, 4096, 1)]), (1, b"text\0".to_vec())];
        let memory = damage(multiboot_memory(&tags), &changes);
        let _ = multiboot2::parse(&memory, Phys(MULTIBOOT_AT as u64));
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn damaged_tables_with_right_sums_are_survived(
        changes in proptest::collection::vec((0x100_usize..0x360, any::<u8>()), 1..12),
    ) {
        let entries = [cpu_entry(0, 1), io_apic_entry(0xfec0_0000, 0), override_entry(0, 2, 0), vec![200, 2]];
        if let Ok(topology) = parse_acpi(&seal_acpi(damage(acpi_memory(&entries), &changes))) {
            prop_assert!(topology.cpus().count() <= MAX_CPUS);
        }
    }
}
