use protocol::flags::MapFlags;
use protocol::manifest::XenKernel;
use protocol::xen::note;

use super::{Kernel, read};
use crate::elf::{Fault, Segment};
use crate::error::codes::{self, Code};

/// Where Linux has guest frame 0.
const BASE: u64 = 0xffff_ffff_8000_0000;

/// Where the notes stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum In {
    Segment,
    Section,
}

/// Builds small kernels, right or wrong in one thing.
#[derive(Clone)]
pub struct XenElf {
    pub class: u8,
    pub machine: u16,
    pub kind: u16,
    pub entry: u64,
    /// Physical address, flags, bytes, bytes in memory.
    pub loads: Vec<(u64, u32, Vec<u8>, u64)>,
    pub notes: Vec<(u32, Vec<u8>)>,
    pub place: In,
    pub legacy: Option<&'static str>,
}

impl Default for XenElf {
    fn default() -> Self {
        XenElf {
            class: 2,
            machine: 62,
            kind: 2,
            entry: 0x100_0000,
            loads: vec![(0x100_0000, 5, vec![0xf4; 16], 16), (0x100_1000, 6, vec![1, 2, 3], 0x3000)],
            notes: vec![
                (note::GUEST_OS, b"linux\0".to_vec()),
                (note::XEN_VERSION, b"xen-3.0\0".to_vec()),
                (note::VIRT_BASE, BASE.to_le_bytes().to_vec()),
                (note::INIT_P2M, 0x80_0000_0000_u64.to_le_bytes().to_vec()),
                (note::ENTRY, (BASE + 0x100_0008).to_le_bytes().to_vec()),
                (note::LOADER, b"generic\0".to_vec()),
                (note::MOD_START_PFN, 1_u32.to_le_bytes().to_vec()),
                (note::PHYS32_ENTRY, 0x100_0850_u64.to_le_bytes().to_vec()),
            ],
            place: In::Segment,
            legacy: None,
        }
    }
}

/// A note with its padding.
fn bytes_of_note(owner: &[u8], kind: u32, descriptor: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [owner.len() as u32, descriptor.len() as u32, kind] {
        bytes.extend(word.to_le_bytes());
    }
    for part in [owner, descriptor] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

impl XenElf {
    /// Without notes, with the text of the older section.
    fn legacy(text: &'static str) -> XenElf {
        XenElf { notes: Vec::new(), legacy: Some(text), ..XenElf::default() }
    }

    /// With this note instead of those of its type.
    fn note(mut self, kind: u32, descriptor: &[u8]) -> XenElf {
        self = self.without(kind);
        self.notes.push((kind, descriptor.to_vec()));
        self
    }

    /// Without notes of a type.
    fn without(mut self, kind: u32) -> XenElf {
        self.notes.retain(|(other, _)| *other != kind);
        self
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        // A note of another owner, whose type would mean something of Xen's.
        let mut notes = bytes_of_note(b"GNU\0", note::ENTRY, &[0xff; 20]);
        notes.extend(self.notes.iter().flat_map(|(kind, bytes)| bytes_of_note(b"Xen\0", *kind, bytes)));
        let legacy = [self.legacy.unwrap_or_default().as_bytes(), b"\0"].concat();
        let names = b"\0.note.Xen\0__xen_guest\0.shstrtab\0".to_vec();
        let mut loads: Vec<(u32, u32, u64, &[u8], u64)> =
            self.loads.iter().map(|(at, flags, bytes, memory)| (1, *flags, *at, &bytes[..], *memory)).collect();
        if self.place == In::Segment {
            loads.push((4, 4, 0, &notes, notes.len() as u64));
        }
        let start = 64 + 56 * loads.len() as u64;
        let content: Vec<u8> = loads.iter().flat_map(|load| load.3.to_vec()).collect();
        let mut file = vec![0x7f, b'E', b'L', b'F', self.class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        let tail = start + content.len() as u64;
        let tables = tail + (notes.len() + legacy.len() + names.len()) as u64;
        for word in [self.entry, 64, tables] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64, 56, loads.len() as u16, 64, 4, 3] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = start;
        for (kind, flags, address, bytes, memory) in &loads {
            file.extend(kind.to_le_bytes());
            file.extend(flags.to_le_bytes());
            // The virtual address says nothing, as that of Linux's per-CPU segment.
            for word in [offset, 0, *address, bytes.len() as u64, *memory, 4] {
                file.extend(word.to_le_bytes());
            }
            offset += bytes.len() as u64;
        }
        file.extend(content);
        file.extend([&notes[..], &legacy, &names].concat());
        let note_kind = if self.place == In::Section { 7 } else { 1 };
        let legacy_name = if self.legacy.is_some() { 11 } else { 23 };
        let mut at = tail;
        for (name, kind, length) in
            [(0, 0, 0), (1, note_kind, notes.len()), (legacy_name, 1, legacy.len()), (23, 3, names.len())]
        {
            file.extend([name, kind].map(u32::to_le_bytes).concat());
            for word in [0, 0, if kind == 0 { 0 } else { at }, length as u64, 0, 4, 0] {
                file.extend(word.to_le_bytes());
            }
            at += length as u64;
        }
        file
    }

    fn read(&self) -> Result<Kernel, Fault> {
        read(self.build())
    }

    fn refused(&self, code: &'static Code, word: &str) {
        let fault = self.read().unwrap_err();
        assert_eq!(fault.code, code, "{}", fault.what);
        assert!(fault.what.contains(word), "{}", fault.what);
    }
}

#[test]
fn a_kernel_gives_its_entry_its_wishes_and_its_segments() {
    let kernel = XenElf::default().read().unwrap();
    assert_eq!(kernel.entry, BASE + 0x100_0008);
    let wishes =
        XenKernel { virt_base: BASE, p2m_address: Some(0x80_0000_0000), hypercall_page: None, module_by_frame: true };
    assert_eq!(kernel.wishes, wishes);
    let segment = |address, bytes, memory_bytes, flags| Segment { address, bytes, memory_bytes, flags };
    let expected = [
        segment(BASE + 0x100_0000, vec![0xf4; 16], 16, MapFlags::EXECUTE),
        segment(BASE + 0x100_1000, vec![1, 2, 3], 0x3000, MapFlags::WRITE),
    ];
    assert_eq!(kernel.segments, expected);
    assert_eq!(kernel.range(), BASE + 0x100_0000..BASE + 0x100_4000);
}

#[test]
fn notes_are_found_in_sections_when_no_segment_has_them() {
    let elf = XenElf { place: In::Section, ..XenElf::default() };
    assert_eq!(elf.read(), XenElf::default().read());
}

#[test]
fn a_kernel_like_a_test_kernel_of_xen_is_read() {
    let elf = XenElf {
        entry: 0x10_0000,
        loads: vec![(0x10_0000, 7, vec![0x90; 0x1800], 0x4000)],
        notes: vec![
            (note::XEN_VERSION, b"xen-3.0\0".to_vec()),
            (note::LOADER, b"generic\0".to_vec()),
            (note::HYPERCALL_PAGE, 0x10_1000_u32.to_le_bytes().to_vec()),
        ],
        ..XenElf::default()
    };
    let kernel = elf.read().unwrap();
    assert_eq!(kernel.entry, 0x10_0000, "the ELF file's, as no note says otherwise");
    let wishes = XenKernel { virt_base: 0, p2m_address: None, hypercall_page: Some(0x10_1000), module_by_frame: false };
    assert_eq!(kernel.wishes, wishes);
    assert_eq!(kernel.segments[0].address, 0x10_0000);
}

#[test]
fn the_older_section_is_read_when_there_are_no_notes() {
    let text =
        "GUEST_OS=Mini-OS,XEN_VER=xen-3.0,VIRT_BASE=0x400000,HYPERCALL_PAGE=0x2,LOADER=generic,VIRT_ENTRY=4194312";
    let elf = XenElf { loads: vec![(0x40_0000, 7, vec![1; 16], 0x3000)], ..XenElf::legacy(text) };
    let kernel = elf.read().unwrap();
    assert_eq!((kernel.wishes.virt_base, kernel.wishes.hypercall_page), (0x40_0000, Some(0x40_2000)));
    assert_eq!(kernel.entry, 0x40_0008);
    assert_eq!(kernel.segments[0].address, 0x40_0000, "addresses of the file are virtual ones: the offset is the base");
    let elf = XenElf::legacy("GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE=0x0,ELF_PADDR_OFFSET=0x0");
    assert_eq!(elf.read().unwrap().entry, 0x100_0000);
    XenElf::legacy("GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE=high").refused(codes::XEN_NOTES, "VIRT_BASE=high");
    XenElf::legacy("GUEST_OS=linux").refused(codes::XEN_OTHER, "not stated");
}

#[test]
fn numbers_are_read_by_their_size() {
    for bytes in [&[1][..], &[1, 0], &[1, 0, 0, 0], &[1, 0, 0, 0, 0, 0, 0, 0]] {
        assert!(XenElf::default().note(note::MOD_START_PFN, bytes).read().unwrap().wishes.module_by_frame, "{bytes:?}");
    }
    assert!(!XenElf::default().note(note::MOD_START_PFN, &[0]).read().unwrap().wishes.module_by_frame);
    for bytes in [&[][..], &[1, 0, 0], &[0; 9]] {
        XenElf::default().note(note::MOD_START_PFN, bytes).refused(codes::XEN_NOTES, "no number");
    }
    let elf = XenElf::default().note(note::ENTRY, &0x8100_0004_u32.to_le_bytes());
    elf.refused(codes::XEN_PLACE, "the entry 0x81000004");
}

#[test]
fn a_kernel_without_a_pv_entry_is_refused_and_pvh_is_named() {
    XenElf::default().without(note::ENTRY).refused(codes::XEN_NO_ENTRY, "offers PVH but no PV entry");
    XenElf { notes: Vec::new(), ..XenElf::default() }.refused(codes::XEN_NO_ENTRY, "no Xen notes");
    let elf = XenElf::default().without(note::ENTRY).without(note::PHYS32_ENTRY).note(note::VIRT_BASE, &[0]);
    assert_eq!(elf.read().unwrap().entry, 0x100_0000);
}

#[test]
fn other_machines_other_files_and_other_versions_are_refused() {
    XenElf { class: 1, ..XenElf::default() }.refused(codes::XEN_NOT_64, "64-bit");
    XenElf { machine: 3, ..XenElf::default() }.refused(codes::XEN_NOT_64, "machine number 3");
    XenElf { kind: 3, ..XenElf::default() }.refused(codes::XEN_IMAGE, "type 3");
    assert_eq!(read(b"#!/bin/sh".to_vec()).unwrap_err().code, codes::XEN_IMAGE);
    assert_eq!(read(vec![0x1f, 0x8b, 8]).unwrap_err().code, codes::XEN_IMAGE);
    XenElf::default().note(note::XEN_VERSION, b"xen-2.0").refused(codes::XEN_OTHER, "xen-2.0");
    XenElf::default().without(note::XEN_VERSION).refused(codes::XEN_OTHER, "not stated");
    assert!(XenElf::default().note(note::XEN_VERSION, b"xen-3.0-x86_64").read().is_ok());
    let elf = XenElf::default().note(note::LOADER, b"special\0");
    assert!(elf.read().is_ok(), "Linux needs no loader of its own");
    elf.note(note::GUEST_OS, b"other").refused(codes::XEN_OTHER, "special");
    assert!(XenElf::default().note(note::GUEST_OS, b"other").read().is_ok());
}

#[test]
fn offsets_that_contradict_each_other_are_refused() {
    XenElf::default().without(note::VIRT_BASE).note(note::PADDR_OFFSET, &[0]).refused(codes::XEN_NOTES, "VIRT_BASE");
    let elf = XenElf::default().note(note::PADDR_OFFSET, &0x40_0000_u32.to_le_bytes());
    elf.refused(codes::XEN_PLACE, "the entry");
    let elf = elf.note(note::ENTRY, &(BASE + 0xc0_0008).to_le_bytes());
    assert_eq!(elf.read().unwrap().segments[0].address, BASE + 0xc0_0000);
    let elf = XenElf::default().note(note::PADDR_OFFSET, &0x100_1000_u32.to_le_bytes());
    elf.refused(codes::XEN_PLACE, "below VIRT_BASE");
    XenElf::default().note(note::VIRT_BASE, &0x1000_u32.to_le_bytes()).refused(codes::XEN_PLACE, "4 MiB");
}

#[test]
fn a_kernel_where_none_can_lie_is_refused() {
    let at = |base: u64| {
        let elf = XenElf::default().note(note::VIRT_BASE, &base.to_le_bytes());
        elf.note(note::ENTRY, &base.wrapping_add(0x100_0000).to_le_bytes()).without(note::INIT_P2M)
    };
    for base in [0, 0x7ffe_0000_0000, 0xffff_8800_0000_0000, BASE] {
        assert!(at(base).read().is_ok(), "{base:#x}");
    }
    for base in [0x7fff_ff00_0000, 0x8000_0000_0000, 0xffff_8000_0000_0000, 0xffff_87ff_ff00_0000] {
        at(base).refused(codes::XEN_PLACE, "of the hypervisor");
    }
    at(0xffff_ffff_ff00_0000).refused(codes::XEN_PLACE, "below VIRT_BASE");
    XenElf { loads: Vec::new(), ..XenElf::default() }.refused(codes::XEN_PLACE, "nothing to load");
}

#[test]
fn the_p2m_list_lies_outside_the_kernel_or_is_not_asked_for() {
    let with = |address: u64| XenElf::default().note(note::INIT_P2M, &address.to_le_bytes());
    let p2m = |address| with(address).read().unwrap().wishes.p2m_address;
    assert_eq!(p2m(0x1000), Some(0x1000));
    assert_eq!(p2m(0x1008), None, "not a page");
    assert_eq!(p2m(BASE), None, "not below the first mapping");
    assert_eq!(p2m(BASE + 0x100_0000), None);
    assert_eq!(p2m(0xffff_8800_0000_0000), Some(0xffff_8800_0000_0000));
    for address in [0x7fff_ffff_f000, 0x8000_0000_0000, 0xffff_8000_0000_0000, 0xffff_87ff_ffff_f000] {
        with(address).refused(codes::XEN_PLACE, "INIT_P2M");
    }
}

#[test]
fn the_hypercall_page_is_a_page_of_the_kernel() {
    let with = |address: u64| XenElf::default().note(note::HYPERCALL_PAGE, &address.to_le_bytes());
    let page = BASE + 0x100_3000;
    assert_eq!(with(page).read().unwrap().wishes.hypercall_page, Some(page));
    for address in [page + 8, page + 0x1000, BASE, 0] {
        with(address).refused(codes::XEN_PLACE, "hypercall page");
    }
}

#[test]
fn pieces_that_share_a_page_become_one_segment_and_zeros_need_no_bytes() {
    let loads = vec![
        (0x100_2010, 6, vec![7, 0, 0], 0x10),
        (0x100_0000, 5, vec![1; 8], 0x1800),
        (0x100_1800, 6, vec![2, 2, 0, 0], 0x808),
        (0x100_5000, 4, vec![0; 64], 64),
    ];
    let elf = XenElf { loads, ..XenElf::default() };
    let segments = elf.read().unwrap().segments;
    let mut bytes = vec![0; 0x2011];
    bytes[..8].fill(1);
    bytes[0x1800..0x1802].fill(2);
    bytes[0x2010] = 7;
    assert_eq!(segments.len(), 2);
    assert_eq!((segments[0].address, segments[0].memory_bytes), (BASE + 0x100_0000, 0x2020));
    assert_eq!(segments[0].flags, MapFlags::WRITE | MapFlags::EXECUTE);
    assert!(segments[0].bytes == bytes, "{:x?}", segments[0].bytes);
    assert_eq!((segments[1].bytes.len(), segments[1].memory_bytes), (0, 64));
}

#[test]
fn segments_that_overlap_or_are_too_large_are_refused() {
    let with = |load| {
        let mut elf = XenElf::default();
        elf.loads.push(load);
        elf
    };
    with((0x100_3fff, 6, vec![1], 1)).refused(codes::XEN_PLACE, "overlap");
    with((0x100_000f, 6, vec![1], 1)).refused(codes::XEN_PLACE, "overlap");
    assert!(with((0x100_0010, 6, vec![1], 1)).read().is_ok());
    with((0x200_0000, 6, vec![1], 1 << 30)).refused(codes::XEN_PLACE, "1 GiB");
    with((0x200_0000, 6, vec![1], u64::MAX)).refused(codes::XEN_PLACE, "last address");
    with((0x200_0000, 6, vec![1, 2], 1)).refused(codes::XEN_IMAGE, "more bytes");
    assert!(with((0x100_0000, 0, vec![1], 0x1000)).read().is_ok(), "nobody may use it, so it is not loaded");
}

#[test]
fn no_shortened_or_changed_kernel_does_harm() {
    let whole = XenElf { place: In::Section, ..XenElf::default() }.build();
    for length in 0..whole.len() {
        assert!(read(whole[..length].to_vec()).is_err(), "cut at {length}");
    }
    for (at, value) in (0..whole.len()).flat_map(|at| [0, 1, 0x7f, 0x80, 0xff].map(|value| (at, value))) {
        let mut changed = whole.clone();
        changed[at] = value;
        // It may be refused or not; what is taken holds what a manifest must.
        if let Ok(kernel) = read(changed) {
            let apart = kernel.segments.windows(2).all(|pair| pair[0].range().end <= pair[1].address);
            assert!(apart && kernel.segments.iter().all(|segment| segment.address % 4096 == 0), "{at}: {value:#x}");
            let fits = |segment: &Segment| segment.bytes.len() as u64 <= segment.memory_bytes;
            assert!(kernel.segments.iter().all(fits) && kernel.range().contains(&kernel.entry), "{at}: {value:#x}");
        }
    }
}
