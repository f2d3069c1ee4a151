//! Reads a guest kernel's ELF file: segments, entry and ABI note, checked against the layout that
//! `protocol` fixes. Knows nothing of system files: [`Fault`] says what is wrong, others say where.

#[cfg(test)]
pub mod tests;

use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use protocol::flags::MapFlags;
use protocol::handle::GuestVirt;
use protocol::layout::{self, PAGE_SIZE};
use protocol::note;
use protocol::version::WireVersion;

use crate::error::codes::{self, Code};

/// What a kernel file holds.
#[derive(Debug)]
pub struct Kernel {
    /// Where vCPU 0 starts.
    pub entry: u64,
    /// What is loaded, by ascending address.
    pub segments: Vec<Segment>,
    /// The wire version that its note states.
    pub abi: WireVersion,
}

/// One piece to load, from a page boundary on.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    /// Virtual address, page-aligned.
    pub address: u64,
    /// Bytes that the file gives.
    pub bytes: Vec<u8>,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// How its pages are mapped.
    pub flags: MapFlags,
}

impl Segment {
    /// The pages that it covers.
    pub fn pages(&self) -> u64 {
        self.memory_bytes.div_ceil(PAGE_SIZE)
    }

    /// The addresses of its pages.
    pub fn range(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.pages().saturating_mul(PAGE_SIZE))
    }
}

/// Why a file is no kernel.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The stable code.
    pub code: &'static Code,
    /// The details.
    pub what: String,
}

impl Fault {
    /// A fault with its details.
    pub fn new(code: &'static Code, what: impl Into<String>) -> Fault {
        Fault { code, what: what.into() }
    }
}

/// Reads and checks a kernel.
pub fn read(data: &[u8]) -> Result<Kernel, Fault> {
    let header = header(data)?;
    let malformed =
        |error: object::read::Error| Fault::new(codes::NOT_A_KERNEL, format!("the ELF file is damaged: {error}"));
    let programs = header.program_headers(LittleEndian, data).map_err(malformed)?;
    let abi = find_note(header, data)?;
    if !protocol::version::CURRENT.serves(abi) {
        let own = protocol::version::CURRENT;
        return Err(Fault::new(
            codes::ABI_VERSION,
            format!(
                "the kernel was built for ABI {}.{}, this hypervisor serves {}.0 to {}.{}",
                abi.major, abi.minor, own.major, own.major, own.minor
            ),
        ));
    }
    let mut segments = Vec::new();
    for program in programs {
        if program.p_type(LittleEndian) == elf::PT_LOAD && program.p_memsz(LittleEndian) > 0 {
            segments.push(segment(program, data)?);
        }
    }
    segments.sort_by_key(|segment| segment.address);
    check_apart(&segments)?;
    let entry = header.e_entry(LittleEndian);
    let executable = segments.iter().any(|s| s.flags.contains(MapFlags::EXECUTE) && s.range().contains(&entry));
    if !executable {
        return Err(Fault::new(codes::OUTSIDE, format!("the entry {entry:#x} lies in no executable segment")));
    }
    Ok(Kernel { entry, segments, abi })
}

/// Checks what kind of file it is.
fn header(data: &[u8]) -> Result<&FileHeader64<LittleEndian>, Fault> {
    if data.get(..4) != Some(&elf::ELFMAG[..]) {
        return Err(Fault::new(codes::NOT_A_KERNEL, "it is not an ELF file"));
    }
    let header = FileHeader64::<LittleEndian>::parse(data)
        .map_err(|_| Fault::new(codes::NOT_A_KERNEL, "the ELF file is not a 64-bit little-endian one"))?;
    let machine = header.e_machine(LittleEndian);
    if machine != elf::EM_X86_64 {
        return Err(Fault::new(
            codes::NOT_A_KERNEL,
            format!("the ELF file is for machine number {machine}, not for x86-64 (62)"),
        ));
    }
    match header.e_type(LittleEndian) {
        elf::ET_EXEC => Ok(header),
        elf::ET_DYN => Err(Fault::new(codes::NOT_FIXED, "the kernel is position-independent (ET_DYN)")),
        elf::ET_REL => Err(Fault::new(codes::NOT_FIXED, "the file is an object file (ET_REL), not a linked kernel")),
        other => Err(Fault::new(codes::NOT_FIXED, format!("the ELF file has type {other}, not ET_EXEC (2)"))),
    }
}

/// Finds the note that states the wire version.
fn find_note(header: &FileHeader64<LittleEndian>, data: &[u8]) -> Result<WireVersion, Fault> {
    let damaged = |error: object::read::Error| Fault::new(codes::NO_NOTE, format!("the notes cannot be read: {error}"));
    let owner = note::NAME.strip_suffix(b"\0").unwrap_or(&note::NAME);
    for program in header.program_headers(LittleEndian, data).map_err(damaged)? {
        let Some(mut notes) = program.notes(LittleEndian, data).map_err(damaged)? else {
            continue;
        };
        while let Some(found) = notes.next().map_err(damaged)? {
            if found.name() == owner && found.n_type(LittleEndian) == note::TYPE_ABI {
                return version(found.desc());
            }
        }
    }
    Err(Fault::new(codes::NO_NOTE, "the kernel does not say which ABI version it was built for"))
}

/// The version that a note's bytes state.
fn version(descriptor: &[u8]) -> Result<WireVersion, Fault> {
    match descriptor {
        [a, b, c, d] => Ok(WireVersion { major: u16::from_le_bytes([*a, *b]), minor: u16::from_le_bytes([*c, *d]) }),
        other => Err(Fault::new(codes::NO_NOTE, format!("the ABI note has {} bytes, not 4", other.len()))),
    }
}

/// Takes one `PT_LOAD`, extended down to a page boundary.
fn segment(program: &elf::ProgramHeader64<LittleEndian>, data: &[u8]) -> Result<Segment, Fault> {
    let address = program.p_vaddr(LittleEndian);
    let memory = program.p_memsz(LittleEndian);
    let content = program.data(LittleEndian, data).map_err(|()| {
        Fault::new(codes::NOT_A_KERNEL, format!("the segment at {address:#x} reaches beyond the end of the file"))
    })?;
    let in_file = u64::try_from(content.len()).unwrap_or(u64::MAX);
    if in_file > memory {
        return Err(Fault::new(
            codes::NOT_A_KERNEL,
            format!("the segment at {address:#x} has more bytes in the file than in memory"),
        ));
    }
    if address < layout::KERNEL_START || !GuestVirt(address).is_guest_range(memory) {
        return Err(outside(address, memory, "the guest kernel's half"));
    }
    let lead = address % PAGE_SIZE;
    let mut bytes = vec![0; usize::try_from(lead).unwrap_or(0)];
    bytes.extend_from_slice(content);
    let segment = Segment {
        address: address - lead,
        bytes,
        memory_bytes: memory + lead,
        flags: flags(program.p_flags(LittleEndian)),
    };
    let range = segment.range();
    if range.start < reserved_end() {
        return Err(outside(
            address,
            memory,
            "what the hypervisor leaves of it (start info, stacks, channels, physmap)",
        ));
    }
    Ok(segment)
}

/// End of what the hypervisor maps into the kernel half by itself: the physmap's slot is last.
fn reserved_end() -> u64 {
    layout::PHYSMAP.0 + layout::SLOT_SIZE
}

/// The fault of a segment at a wrong place.
fn outside(address: u64, memory: u64, place: &str) -> Fault {
    let end = address.saturating_add(memory);
    Fault::new(codes::OUTSIDE, format!("the segment {address:#x}..{end:#x} lies outside {place}"))
}

/// Mapping flags of segment flags.
pub fn flags(raw: u32) -> MapFlags {
    let mut flags = MapFlags::empty();
    flags.set(MapFlags::WRITE, raw & elf::PF_W != 0);
    flags.set(MapFlags::EXECUTE, raw & elf::PF_X != 0);
    flags
}

/// Refuses two segments in one page. They are sorted.
fn check_apart(segments: &[Segment]) -> Result<(), Fault> {
    for pair in segments.windows(2) {
        if let [low, high] = pair
            && low.range().end > high.address
        {
            return Err(Fault::new(
                codes::OVERLAP,
                format!(
                    "the segments at {:#x} and {:#x} share the page {:#x}",
                    low.address, high.address, high.address
                ),
            ));
        }
    }
    Ok(())
}
