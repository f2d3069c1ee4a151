//! The segments of an ELF file where the first mapping shows them: apart, page-aligned, ascending.

use object::LittleEndian;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use protocol::layout::PAGE_SIZE;

use crate::elf::{Fault, Segment, flags};
use crate::error::codes;

/// More than any kernel has; a damaged file must not ask for all memory.
const MOST_BYTES: u64 = 1 << 30;

/// One `PT_LOAD` with its address in the first mapping.
struct Piece<'data> {
    address: u64,
    end: u64,
    content: &'data [u8],
    flags: u32,
}

/// The segments of a file. `offset` is added to physical addresses.
pub fn segments(header: &FileHeader64<LittleEndian>, data: &[u8], offset: u64) -> Result<Vec<Segment>, Fault> {
    let programs = header
        .program_headers(LittleEndian, data)
        .map_err(|error| Fault::new(codes::XEN_IMAGE, format!("the ELF file is damaged: {error}")))?;
    let any = elf::PF_R | elf::PF_W | elf::PF_X;
    let is_loaded = |program: &&ProgramHeader64<LittleEndian>| {
        program.p_type(LittleEndian) == elf::PT_LOAD
            && program.p_memsz(LittleEndian) > 0
            && program.p_flags(LittleEndian) & any != 0
    };
    let pieces: Result<Vec<Piece<'_>>, Fault> =
        programs.iter().filter(is_loaded).map(|program| piece(program, data, offset)).collect();
    let mut pieces = pieces?;
    pieces.sort_by_key(|piece| piece.address);
    check(&pieces)?;
    Ok(merge(&pieces))
}

/// One `PT_LOAD`.
fn piece<'data>(
    program: &ProgramHeader64<LittleEndian>,
    data: &'data [u8],
    offset: u64,
) -> Result<Piece<'data>, Fault> {
    let physical = program.p_paddr(LittleEndian);
    let memory = program.p_memsz(LittleEndian);
    let content = program.data(LittleEndian, data).map_err(|()| {
        Fault::new(codes::XEN_IMAGE, format!("the segment at {physical:#x} reaches beyond the end of the file"))
    })?;
    if content.len() as u64 > memory {
        let what = format!("the segment at {physical:#x} has more bytes in the file than in memory");
        return Err(Fault::new(codes::XEN_IMAGE, what));
    }
    let address = physical.wrapping_add(offset);
    let end = address.checked_add(memory).filter(|end| *end <= u64::MAX - PAGE_SIZE).ok_or_else(|| {
        Fault::new(codes::XEN_PLACE, format!("the segment at {physical:#x} reaches beyond the last address"))
    })?;
    Ok(Piece { address, end, content, flags: program.p_flags(LittleEndian) })
}

/// Refuses two pieces in one place, and a kernel that would take all memory. They are sorted.
fn check(pieces: &[Piece<'_>]) -> Result<(), Fault> {
    for pair in pieces.windows(2) {
        if let [low, high] = pair
            && low.end > high.address
        {
            let what = format!("the segments at {:#x} and {:#x} overlap", low.address, high.address);
            return Err(Fault::new(codes::XEN_PLACE, what));
        }
    }
    if let (Some(first), Some(last)) = (pieces.first(), pieces.last())
        && last.end - first.address > MOST_BYTES
    {
        let what = format!("the kernel reaches from {:#x} to {:#x}, over more than 1 GiB", first.address, last.end);
        return Err(Fault::new(codes::XEN_PLACE, what));
    }
    Ok(())
}

/// Makes segments of pieces: pieces that share a page become one.
fn merge(pieces: &[Piece<'_>]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for piece in pieces {
        let start = piece.address - piece.address % PAGE_SIZE;
        match segments.last_mut() {
            Some(segment) if segment.range().end > start => append(segment, piece),
            _ => {
                let mut segment =
                    Segment { address: start, bytes: Vec::new(), memory_bytes: 0, flags: flags(piece.flags) };
                append(&mut segment, piece);
                segments.push(segment);
            }
        }
    }
    for segment in &mut segments {
        // The memory is zero anyway, and a Linux kernel's file holds megabytes of it.
        let zeros = segment.bytes.iter().rev().take_while(|byte| **byte == 0).count();
        segment.bytes.truncate(segment.bytes.len() - zeros);
    }
    segments
}

/// Puts a piece behind what a segment has, with zeros between.
fn append(segment: &mut Segment, piece: &Piece<'_>) {
    // Below MOST_BYTES, which `check` made sure of.
    let before = usize::try_from(piece.address - segment.address).unwrap_or(usize::MAX);
    segment.bytes.resize(before, 0);
    segment.bytes.extend_from_slice(piece.content);
    segment.memory_bytes = piece.end - segment.address;
    segment.flags |= flags(piece.flags);
}
