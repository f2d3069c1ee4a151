use protocol::flags::MapFlags;
use protocol::layout::{KERNEL_IMAGE, KERNEL_START, PHYSMAP};

use super::{Fault, Kernel, codes};

/// Builds small ELF files, right or wrong in one thing.
pub struct ElfBuilder {
    pub kind: u16,
    pub machine: u16,
    pub class: u8,
    pub entry: u64,
    pub loads: Vec<(u64, u32, Vec<u8>, u64)>,
    pub note: Option<Vec<u8>>,
}

impl Default for ElfBuilder {
    fn default() -> Self {
        let base = KERNEL_IMAGE.0;
        ElfBuilder {
            kind: 2,
            machine: 62,
            class: 2,
            entry: base,
            loads: vec![(base, 5, vec![0xf4; 16], 16), (base + 0x1000, 6, vec![1, 2, 3], 0x3000)],
            note: Some(note(protocol::version::CURRENT.major, protocol::version::CURRENT.minor)),
        }
    }
}

pub fn note(major: u16, minor: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [9u32, 4, 1] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(b"Cloister\0\0\0\0");
    bytes.extend(major.to_le_bytes());
    bytes.extend(minor.to_le_bytes());
    bytes
}

impl ElfBuilder {
    pub fn build(&self) -> Vec<u8> {
        let mut programs: Vec<(u32, u32, u64, Vec<u8>, u64)> = self
            .loads
            .iter()
            .map(|(address, flags, bytes, memory)| (1, *flags, *address, bytes.clone(), *memory))
            .collect();
        if let Some(note) = &self.note {
            programs.push((4, 4, 0, note.clone(), note.len() as u64));
        }
        let mut file = vec![0x7f, b'E', b'L', b'F', self.class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(self.entry.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, programs.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * programs.len() as u64;
        for (kind, flags, address, bytes, memory) in &programs {
            file.extend(kind.to_le_bytes());
            file.extend(flags.to_le_bytes());
            for word in [offset, *address, *address, bytes.len() as u64, *memory, 4] {
                file.extend(word.to_le_bytes());
            }
            offset += bytes.len() as u64;
        }
        for (.., bytes, _) in programs {
            file.extend(bytes);
        }
        file
    }

    fn read(&self) -> Result<Kernel, Fault> {
        super::read(&self.build())
    }
}

fn code_of(result: Result<Kernel, Fault>) -> &'static str {
    result.unwrap_err().code.id
}

#[test]
fn a_kernel_gives_its_segments_entry_and_version() {
    let kernel = ElfBuilder::default().read().unwrap();
    assert_eq!(kernel.entry, KERNEL_IMAGE.0);
    assert_eq!(kernel.abi, protocol::version::CURRENT);
    assert_eq!(kernel.segments.len(), 2);
    assert_eq!(kernel.segments[0].flags, MapFlags::EXECUTE);
    assert_eq!(kernel.segments[1].flags, MapFlags::WRITE);
    assert_eq!(kernel.segments[1].pages(), 3);
}

#[test]
fn a_segment_is_extended_down_to_its_page() {
    let mut elf = ElfBuilder::default();
    elf.loads[1].0 += 0x10;
    let kernel = elf.read().unwrap();
    assert_eq!(kernel.segments[1].address, KERNEL_IMAGE.0 + 0x1000);
    assert_eq!(&kernel.segments[1].bytes[0x10..], [1, 2, 3]);
    assert_eq!(kernel.segments[1].memory_bytes, 0x3010);
}

#[test]
fn a_text_file_a_32_bit_file_and_another_machine_are_refused() {
    assert_eq!(super::read(b"#!/bin/sh").unwrap_err().code, codes::NOT_A_KERNEL);
    let elf = ElfBuilder { class: 1, ..ElfBuilder::default() };
    assert_eq!(code_of(elf.read()), codes::NOT_A_KERNEL.id);
    let elf = ElfBuilder { machine: 183, ..ElfBuilder::default() };
    assert_eq!(code_of(elf.read()), codes::NOT_A_KERNEL.id);
}

#[test]
fn every_shortened_file_is_refused_or_whole() {
    let whole = ElfBuilder::default().build();
    for length in 0..whole.len() {
        assert!(super::read(&whole[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn a_position_independent_kernel_is_refused() {
    let elf = ElfBuilder { kind: 3, ..ElfBuilder::default() };
    assert_eq!(code_of(elf.read()), codes::NOT_FIXED.id);
}

#[test]
fn a_kernel_without_note_is_refused() {
    let elf = ElfBuilder { note: None, ..ElfBuilder::default() };
    assert_eq!(code_of(elf.read()), codes::NO_NOTE.id);
}

#[test]
fn a_version_that_is_not_served_is_named_beside_ours() {
    let elf = ElfBuilder { note: Some(note(9, 3)), ..ElfBuilder::default() };
    let fault = elf.read().unwrap_err();
    assert_eq!(fault.code, codes::ABI_VERSION);
    assert!(fault.what.contains("9.3") && fault.what.contains("1.0"), "{}", fault.what);
}

#[test]
fn two_segments_in_one_page_are_refused() {
    let mut elf = ElfBuilder::default();
    elf.loads[1].0 = KERNEL_IMAGE.0 + 0x100;
    assert_eq!(code_of(elf.read()), codes::OVERLAP.id);
}

#[test]
fn segments_below_the_kernel_half_or_in_the_hypervisors_places_are_refused() {
    for address in [0x40_0000, 0xffff_8000_0000_0000, KERNEL_START, PHYSMAP.0] {
        let mut elf = ElfBuilder::default();
        elf.loads[1].0 = address;
        assert_eq!(code_of(elf.read()), codes::OUTSIDE.id, "{address:#x}");
    }
}

#[test]
fn an_entry_that_cannot_be_executed_is_refused() {
    let elf = ElfBuilder { entry: KERNEL_IMAGE.0 + 0x1000, ..ElfBuilder::default() };
    assert_eq!(code_of(elf.read()), codes::OUTSIDE.id);
}
