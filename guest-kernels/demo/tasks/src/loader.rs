//! From an ELF file to a process.

use core::fmt;

use elf::ElfBytes;
use elf::abi::{PF_W, PF_X, PT_LOAD};
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;

use guest_sdk::Status;
use guest_sdk::protocol::flags::MapFlags;
use guest_sdk::space::{Space, page_of};
use guest_sdk::user::UserContext;

use crate::memory::{Areas, STACK_TOP};
use crate::process::Process;

/// Why there is no process.
#[derive(Debug)]
pub enum LoadError {
    /// The file is damaged.
    NotElf,
    /// The hypervisor refused something.
    Refused(Status),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::NotElf => f.write_str("a module is no program"),
            LoadError::Refused(status) => write!(f, "a program cannot be loaded: {status}"),
        }
    }
}

impl From<Status> for LoadError {
    fn from(status: Status) -> Self {
        LoadError::Refused(status)
    }
}

impl From<elf::ParseError> for LoadError {
    fn from(_: elf::ParseError) -> Self {
        LoadError::NotElf
    }
}

/// Makes a process of a program.
pub fn load(number: u64, name: &'static str, file: &[u8]) -> Result<Process, LoadError> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file)?;
    let mut space = Space::new()?;
    let segments = elf.segments().ok_or(LoadError::NotElf)?;
    for segment in segments.iter().filter(|segment| segment.p_type == PT_LOAD) {
        load_segment(&mut space, &segment, elf.segment_data(&segment)?)?;
    }
    // As after a call: 8 bytes below a multiple of 16 would be wrong, since `_start` calls.
    let context = UserContext::new(elf.ehdr.e_entry, STACK_TOP);
    Ok(Process::new(number, name, context, space, Areas::new()))
}

fn load_segment(space: &mut Space, segment: &ProgramHeader, data: &[u8]) -> Result<(), LoadError> {
    let mut flags = MapFlags::empty();
    flags.set(MapFlags::WRITE, segment.p_flags & PF_W != 0);
    flags.set(MapFlags::EXECUTE, segment.p_flags & PF_X != 0);
    let end = segment.p_vaddr.checked_add(segment.p_memsz).ok_or(LoadError::NotElf)?;
    let first = page_of(segment.p_vaddr);
    let pages = end.saturating_sub(first).div_ceil(4096);
    space.map_zeroed(first, pages, flags)?;
    space.write(segment.p_vaddr, data)?;
    Ok(())
}
