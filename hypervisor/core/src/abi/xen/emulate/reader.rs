//! An instruction's bytes: prefixes, numbers, and what a `ModRM` byte names.

use super::{Operands, Segment, StringMove, Width};
use crate::addr::convert::wide;

/// Bytes of the longest instruction.
const LONGEST: usize = 15;

/// What stands before an opcode.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    /// The other operand size.
    pub(super) operand: bool,
    /// The other address size.
    pub(super) address: bool,
    /// `lock`.
    pub(super) lock: bool,
    /// Either of the two that repeat.
    pub(super) repeat: bool,
    /// A segment that has a base.
    pub(super) segment: Option<Segment>,
    /// REX, in 64-bit code and only directly before the opcode.
    pub(super) rex: Option<u8>,
}

/// The bytes that are not read yet.
#[derive(Debug)]
pub(super) struct Reader<'c> {
    code: &'c [u8],
    rest: &'c [u8],
    /// What the code segment makes of them.
    pub(super) width: Width,
    /// What was read before the opcode.
    pub(super) prefixes: Prefixes,
}

/// Where an operand lies: an address, or a distance from the end of the instruction.
#[derive(Debug)]
pub(super) struct Memory {
    offset: u64,
    is_relative: bool,
}

impl<'c> Reader<'c> {
    pub(super) fn new(code: &'c [u8], width: Width) -> Reader<'c> {
        let code = code.get(..LONGEST).unwrap_or(code);
        Reader { code, rest: code, width, prefixes: Prefixes::default() }
    }

    /// Bytes that were read.
    pub(super) fn length(&self) -> u64 {
        wide(self.code.len().wrapping_sub(self.rest.len()))
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// A signed number of 1, 2 or 4 bytes, extended.
    pub(super) fn signed(&mut self, bytes: u8) -> Option<u64> {
        let (number, rest) = match bytes {
            1 => self.rest.split_first_chunk().map(|(number, rest)| (i64::from(i8::from_le_bytes(*number)), rest))?,
            2 => self.rest.split_first_chunk().map(|(number, rest)| (i64::from(i16::from_le_bytes(*number)), rest))?,
            _ => self.rest.split_first_chunk().map(|(number, rest)| (i64::from(i32::from_le_bytes(*number)), rest))?,
        };
        self.rest = rest;
        Some(number.cast_unsigned())
    }

    /// Reads the prefixes and the first byte of the opcode.
    pub(super) fn opcode(&mut self) -> Option<u8> {
        loop {
            let byte = self.byte()?;
            let all = &mut self.prefixes;
            match byte {
                0x26 | 0x2e | 0x36 | 0x3e if self.width == Width::Compatibility32 => all.segment = None,
                0x26 | 0x2e | 0x36 | 0x3e => {}
                0x64 => all.segment = Some(Segment::Fs),
                0x65 => all.segment = Some(Segment::Gs),
                0x66 => all.operand = true,
                0x67 => all.address = true,
                0xf0 => all.lock = true,
                0xf2 | 0xf3 => all.repeat = true,
                0x40..=0x4f if self.width == Width::Long => {
                    all.rex = Some(byte);
                    continue;
                }
                _ => return Some(byte),
            }
            all.rex = None;
        }
    }

    /// Whether a bit of REX is set: 3 is W, 2 is R, 1 is X, 0 is B.
    fn rex(&self, bit: u8) -> bool {
        self.prefixes.rex.is_some_and(|rex| rex >> bit & 1 != 0)
    }

    /// The number of a register: three bits, and one of REX.
    fn number(&self, bits: u8, bit: u8) -> u8 {
        (bits & 7) | if self.rex(bit) { 8 } else { 0 }
    }

    /// The register of the field `reg`.
    pub(super) fn reg(&self, modrm: u8) -> u8 {
        self.number(modrm >> 3, 2)
    }

    /// The register of the field `rm`.
    pub(super) fn rm(&self, modrm: u8) -> u8 {
        self.number(modrm, 0)
    }

    /// The operand size of opcodes that are not for bytes.
    pub(super) fn bytes(&self) -> u8 {
        match (self.rex(3), self.prefixes.operand) {
            (true, _) => 8,
            (false, true) => 2,
            (false, false) => 4,
        }
    }

    /// The part of a register that is used as an address.
    fn address_mask(&self) -> u64 {
        match (self.width, self.prefixes.address) {
            (Width::Long, false) => u64::MAX,
            (Width::Long, true) | (Width::Compatibility32, false) => 0xffff_ffff,
            (Width::Compatibility32, true) => 0xffff,
        }
    }

    /// A move between a port and memory, with these prefixes.
    pub(super) fn string(&self, bytes: u8) -> StringMove {
        let Prefixes { repeat, segment, .. } = self.prefixes;
        StringMove { bytes, repeats: repeat, mask: self.address_mask(), segment }
    }

    /// The operand of 64-bit code that lies in memory; none if it is a register.
    pub(super) fn memory(&mut self, modrm: u8, operands: &impl Operands) -> Option<Memory> {
        let displacement = match modrm >> 6 {
            0 => 0,
            1 => 1,
            2 => 4,
            _ => return None,
        };
        let (base, index) = if modrm & 7 == 4 {
            let sib = self.byte()?;
            let index = self.number(sib >> 3, 1);
            // The number of rsp stands for none.
            let index = if index == 4 { 0 } else { operands.register(index) << (sib >> 6) };
            (sib, index)
        } else {
            (modrm, 0)
        };
        // In place of rbp without a displacement: none, and a long displacement.
        let has_none = displacement == 0 && base & 7 == 5;
        let start = if has_none { 0 } else { operands.register(self.number(base, 0)) };
        let offset = match if has_none { 4 } else { displacement } {
            0 => 0,
            bytes => self.signed(bytes)?,
        };
        Some(Memory { offset: start.wrapping_add(index).wrapping_add(offset), is_relative: has_none && modrm & 7 == 5 })
    }

    /// The address of an operand, when the whole instruction is read.
    pub(super) fn linear(&self, memory: &Memory, operands: &impl Operands) -> u64 {
        let from = if memory.is_relative { operands.rip().wrapping_add(self.length()) } else { 0 };
        let base = self.prefixes.segment.map_or(0, |segment| operands.segment_base(segment));
        (from.wrapping_add(memory.offset) & self.address_mask()).wrapping_add(base)
    }
}
