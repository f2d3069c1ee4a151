//! Finds what a kernel's notes say: ELF notes of the owner Xen, or the text of the older section.

use object::LittleEndian;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader, SectionHeader};
use protocol::layout::PAGE_SIZE;
use protocol::xen::note;

use crate::elf::Fault;
use crate::error::codes;

/// What the notes say, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Where vCPU 0 starts.
    pub entry: Option<u64>,
    /// The page of call stubs.
    pub hypercall_page: Option<u64>,
    /// Where guest frame 0 appears.
    pub virt_base: Option<u64>,
    /// What is subtracted from physical addresses.
    pub paddr_offset: Option<u64>,
    /// The version.
    pub xen_version: Option<Vec<u8>>,
    /// The system.
    pub guest_os: Option<Vec<u8>>,
    /// The loader.
    pub loader: Option<Vec<u8>>,
    /// Where the list of machine frames goes.
    pub init_p2m: Option<u64>,
    /// The initial RAM disk may be left unmapped.
    pub module_by_frame: bool,
    /// It can start with page tables in hardware.
    pub has_pvh_entry: bool,
    /// They are text of the older section.
    pub is_legacy: bool,
}

/// What reads an ELF file.
type Header = FileHeader64<LittleEndian>;

/// The notes of a kernel: of its segments; if there are none, of its sections; if there are none, the text.
pub fn find(header: &Header, data: &[u8]) -> Result<Notes, Fault> {
    let damaged = |error: object::read::Error| cut(format!("the notes cannot be read: {error}"));
    let mut notes = Notes::default();
    let mut found = false;
    for program in header.program_headers(LittleEndian, data).map_err(damaged)? {
        if let Some(list) = program.notes(LittleEndian, data).map_err(damaged)? {
            found |= notes.take_all(list)?;
        }
    }
    if found {
        return Ok(notes);
    }
    let sections = header.sections(LittleEndian, data).map_err(damaged)?;
    for section in sections.iter() {
        if let Some(list) = section.notes(LittleEndian, data).map_err(damaged)? {
            found |= notes.take_all(list)?;
        }
    }
    if found {
        return Ok(notes);
    }
    let Some((_, section)) = sections.section_by_name(LittleEndian, note::LEGACY_SECTION) else {
        return Err(Fault::new(codes::XEN_NO_ENTRY, "the kernel has no Xen notes"));
    };
    legacy(section.data(LittleEndian, data).map_err(damaged)?)
}

/// The fault of notes that cannot be read.
fn cut(what: String) -> Fault {
    Fault::new(codes::XEN_NOTES, what)
}

impl Notes {
    /// Takes a list of notes; whether one of them is Xen's.
    fn take_all(&mut self, mut list: NoteIterator<'_, Header>) -> Result<bool, Fault> {
        let mut found = false;
        let damaged = |error| cut(format!("the notes cannot be read: {error}"));
        while let Some(item) = list.next().map_err(damaged)? {
            if item.name() == note::OWNER {
                found = true;
                self.take(item.n_type(LittleEndian), item.desc())?;
            }
        }
        Ok(found)
    }

    /// Takes one note of Xen's. The last of a type counts.
    fn take(&mut self, kind: u32, descriptor: &[u8]) -> Result<(), Fault> {
        let number = || number(kind, descriptor);
        let word = || Some(descriptor.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
        match kind {
            note::ENTRY => self.entry = Some(number()?),
            note::HYPERCALL_PAGE => self.hypercall_page = Some(number()?),
            note::VIRT_BASE => self.virt_base = Some(number()?),
            note::PADDR_OFFSET => self.paddr_offset = Some(number()?),
            note::XEN_VERSION => self.xen_version = word(),
            note::GUEST_OS => self.guest_os = word(),
            note::LOADER => self.loader = word(),
            note::INIT_P2M => self.init_p2m = Some(number()?),
            note::MOD_START_PFN => self.module_by_frame = number()? != 0,
            note::PHYS32_ENTRY => self.has_pvh_entry = true,
            _ => {}
        }
        Ok(())
    }
}

/// A number of 1, 2, 4 or 8 bytes.
fn number(kind: u32, descriptor: &[u8]) -> Result<u64, Fault> {
    if !matches!(descriptor.len(), 1 | 2 | 4 | 8) {
        return Err(cut(format!("note {kind} has {} bytes, which is no number", descriptor.len())));
    }
    Ok(descriptor.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
}

/// Reads the text of the older section: `KEY=VALUE,KEY=VALUE`, ended by a zero byte.
fn legacy(text: &[u8]) -> Result<Notes, Fault> {
    let mut notes = Notes { is_legacy: true, ..Notes::default() };
    let mut page = None;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    for item in text.split(|byte| *byte == b',') {
        let item = String::from_utf8_lossy(item);
        let (key, value) = item.split_once('=').unwrap_or((&item, ""));
        let word = || Some(value.as_bytes().to_vec());
        let number = || match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        let number = || number().map(Some).map_err(|_| cut(format!("`{key}={value}` is no number")));
        match key {
            "VIRT_ENTRY" => notes.entry = number()?,
            "VIRT_BASE" => notes.virt_base = number()?,
            "ELF_PADDR_OFFSET" => notes.paddr_offset = number()?,
            "HYPERCALL_PAGE" => page = number()?,
            "XEN_VER" => notes.xen_version = word(),
            "GUEST_OS" => notes.guest_os = word(),
            "LOADER" => notes.loader = word(),
            _ => {}
        }
    }
    // The page has a number from VIRT_BASE on.
    let base = notes.virt_base.unwrap_or(0);
    notes.hypercall_page = page.map(|page| base.wrapping_add(page.wrapping_mul(PAGE_SIZE)));
    Ok(notes)
}
