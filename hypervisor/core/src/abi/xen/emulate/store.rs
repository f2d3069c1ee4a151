//! Stores of a guest's kernel to its page tables, which are mapped read-only.

use super::reader::Reader;
use super::{Operands, Width};

/// Flags by their bit.
const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;
/// Those that arithmetic sets.
const STATUS: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

/// A part of a register, and the whole as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    number: u8,
    shift: u32,
    whole: u64,
}

/// What becomes of the old value, together with the operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// The operand takes its place.
    Move,
    /// The operand takes its place, and the register gets it.
    Exchange(Part),
    /// The operand takes its place if it is the accumulator, which gets it otherwise.
    CompareExchange(Part),
    Add,
    Or,
    And,
    Xor,
    /// The operand is one bit, and so are those of the next two.
    Set,
    Reset,
    Flip,
}

/// A store that was decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store {
    /// Where the first byte goes: aligned to the store's size, so that the store lies in one word.
    pub address: u64,
    /// Bytes of the instruction.
    pub length: u64,
    /// Bytes that are stored: 1, 2, 4 or 8.
    pub bytes: u8,
    operation: Operation,
    operand: u64,
}

/// What a store leaves in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The flags.
    pub rflags: u64,
    /// A general register and what it holds.
    pub register: Option<(u8, u64)>,
}

/// The store to memory that 64-bit code asked for: `mov`, `xchg`, `add`, `or`, `and`, `xor`, `cmpxchg`, and
/// `bts`, `btr`, `btc` with a bit in the instruction. With a bit in a register these reach memory far from
/// their operand; they are not decoded.
#[must_use]
pub fn store(code: &[u8], operands: &impl Operands) -> Option<Store> {
    let mut reader = Reader::new(code, Width::Long);
    let first = reader.opcode()?;
    // A repeat prefix is a hint here that no kernel gives for page tables.
    if reader.prefixes.repeat || (reader.prefixes.lock && matches!(first, 0x88 | 0x89 | 0xc6 | 0xc7)) {
        return None;
    }
    let opcode = if first == 0x0f { 0x0f00 | u16::from(reader.byte()?) } else { u16::from(first) };
    let modrm = reader.byte()?;
    let memory = reader.memory(modrm, operands)?;
    let bytes = if opcode & 1 == 0 && opcode != 0x0fba { 1 } else { reader.bytes() };
    let source = reader.part(reader.reg(modrm), bytes, operands);
    let field = modrm >> 3 & 7;
    let (operation, operand) = match opcode {
        0x00 | 0x01 => (Operation::Add, source.value(bytes)),
        0x08 | 0x09 => (Operation::Or, source.value(bytes)),
        0x20 | 0x21 => (Operation::And, source.value(bytes)),
        0x30 | 0x31 => (Operation::Xor, source.value(bytes)),
        0x80 | 0x81 => (arithmetic(field)?, reader.signed(bytes.min(4))?),
        0x83 => (arithmetic(field)?, reader.signed(1)?),
        0x86 | 0x87 => (Operation::Exchange(source), source.value(bytes)),
        0x88 | 0x89 => (Operation::Move, source.value(bytes)),
        0xc6 | 0xc7 if field == 0 => (Operation::Move, reader.signed(bytes.min(4))?),
        0x0fb0 | 0x0fb1 => {
            let accumulator = Part { number: 0, shift: 0, whole: operands.register(0) };
            (Operation::CompareExchange(accumulator), source.value(bytes))
        }
        0x0fba => (bit(field)?, 1_u64.unbounded_shl(u32::from(reader.byte()?) & (bits(bytes).wrapping_sub(1)))),
        _ => return None,
    };
    let address = reader.linear(&memory, operands);
    let is_aligned = address & u64::from(bytes.wrapping_sub(1)) == 0;
    is_aligned.then_some(Store { address, length: reader.length(), bytes, operation, operand: operand & mask(bytes) })
}

/// What an opcode of a group for arithmetic does.
fn arithmetic(field: u8) -> Option<Operation> {
    Some(match field {
        0 => Operation::Add,
        1 => Operation::Or,
        4 => Operation::And,
        6 => Operation::Xor,
        _ => return None,
    })
}

/// What an opcode of the group for bits does.
fn bit(field: u8) -> Option<Operation> {
    Some(match field {
        5 => Operation::Set,
        6 => Operation::Reset,
        7 => Operation::Flip,
        _ => return None,
    })
}

/// Bits of so many bytes.
fn bits(bytes: u8) -> u32 {
    u32::from(bytes).wrapping_mul(8)
}

/// The low bits that so many bytes have.
fn mask(bytes: u8) -> u64 {
    u64::MAX >> 64_u32.wrapping_sub(bits(bytes))
}

impl Reader<'_> {
    /// The register that an operand of so many bytes names. Without REX, bytes 4 to 7 are the second ones
    /// of the first four registers.
    fn part(&self, number: u8, bytes: u8, operands: &impl Operands) -> Part {
        let is_second = bytes == 1 && self.prefixes.rex.is_none() && number & 4 != 0;
        let (number, shift) = if is_second { (number & 3, 8) } else { (number, 0) };
        Part { number, shift, whole: operands.register(number) }
    }
}

impl Part {
    fn value(&self, bytes: u8) -> u64 {
        self.whole >> self.shift & mask(bytes)
    }

    /// The register after a store to the part. One of 32 bits clears the others.
    fn replaced(&self, bytes: u8, value: u64) -> (u8, u64) {
        let kept = if bytes >= 4 { 0 } else { self.whole & !(mask(bytes) << self.shift) };
        (self.number, kept | value << self.shift)
    }
}

impl Store {
    /// How far into its word the store's lowest bit lies.
    fn shift(&self) -> u64 {
        (self.address & 7).wrapping_mul(8)
    }

    /// The part of its word that the store replaces.
    fn old(&self, word: u64) -> u64 {
        word >> self.shift() & mask(self.bytes)
    }

    /// The word that holds the bytes, after the store.
    #[must_use]
    pub fn update(&self, word: u64) -> u64 {
        let old = self.old(word);
        let new = match self.operation {
            Operation::Move | Operation::Exchange(_) => self.operand,
            Operation::CompareExchange(accumulator) if accumulator.value(self.bytes) == old => self.operand,
            Operation::CompareExchange(_) => old,
            Operation::Add => old.wrapping_add(self.operand) & mask(self.bytes),
            Operation::Or | Operation::Set => old | self.operand,
            Operation::And => old & self.operand,
            Operation::Reset => old & !self.operand,
            Operation::Xor | Operation::Flip => old ^ self.operand,
        };
        (word & !(mask(self.bytes) << self.shift())) | new << self.shift()
    }

    /// What the store leaves in registers, where its word was `word`.
    #[must_use]
    pub fn outcome(&self, word: u64, rflags: u64) -> Outcome {
        let (old, new) = (self.old(word), self.old(self.update(word)));
        let sign = 1_u64.unbounded_shl(bits(self.bytes).wrapping_sub(1));
        let (changed, flags, register) = match self.operation {
            Operation::Move => (0, 0, None),
            Operation::Exchange(part) => (0, 0, Some(part.replaced(self.bytes, old))),
            Operation::CompareExchange(part) => {
                let value = part.value(self.bytes);
                let difference = value.wrapping_sub(old) & mask(self.bytes);
                let flags = union([
                    (CARRY, value < old),
                    (ADJUST, (value ^ old ^ difference) & ADJUST != 0),
                    (OVERFLOW, (value ^ old) & (value ^ difference) & sign != 0),
                ]);
                (STATUS, flags | of_result(difference, sign), (value != old).then(|| part.replaced(self.bytes, old)))
            }
            Operation::Add => {
                let flags = union([
                    (CARRY, new < old),
                    (ADJUST, (old ^ self.operand ^ new) & ADJUST != 0),
                    (OVERFLOW, (old ^ new) & (self.operand ^ new) & sign != 0),
                ]);
                (STATUS, flags | of_result(new, sign), None)
            }
            Operation::Or | Operation::And | Operation::Xor => (STATUS, of_result(new, sign), None),
            Operation::Set | Operation::Reset | Operation::Flip => {
                (CARRY, union([(CARRY, old & self.operand != 0)]), None)
            }
        };
        Outcome { rflags: (rflags & !changed) | flags, register }
    }
}

/// The flags that are set.
fn union<const N: usize>(flags: [(u64, bool); N]) -> u64 {
    flags.into_iter().filter(|(_, is_set)| *is_set).fold(0, |all, (flag, _)| all | flag)
}

/// The flags that follow from a result alone.
fn of_result(result: u64, sign: u64) -> u64 {
    let ones = (result & 0xff).count_ones();
    union([(ZERO, result == 0), (SIGN, result & sign != 0), (PARITY, ones & 1 == 0)])
}
