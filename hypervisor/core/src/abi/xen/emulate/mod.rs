//! Which instruction of a guest faulted, and what it asked for.
//!
//! Two kinds are done in a guest's place: [`privileged`] instructions, which ring 3 cannot execute, and
//! stores to page tables that are mapped read-only ([`store()`]). Nothing else is decoded: the fault of any
//! other instruction is the guest's. So is that of an instruction whose bytes are not all there.

mod reader;
mod store;

use self::reader::Reader;
pub use self::store::{Outcome, Store, store};

/// What the code segment makes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 64-bit code.
    Long,
    /// 32-bit code, with flat segments.
    Compatibility32,
}

/// A segment whose base is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// What an instruction finds in registers. They have the numbers that x86 encodes: rax, rcx, rdx, rbx,
/// rsp, rbp, rsi, rdi, r8 to r15.
pub trait Operands {
    /// A general register.
    fn register(&self, number: u8) -> u64;
    /// The address of the instruction.
    fn rip(&self) -> u64;
    /// The base of a segment.
    fn segment_base(&self, which: Segment) -> u64;
}

/// An instruction and how many bytes it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded<T> {
    /// Bytes.
    pub length: u64,
    /// The instruction.
    pub what: T,
}

/// Where a port's number stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortNumber {
    /// In the instruction.
    Immediate(u8),
    /// In dx.
    Dx,
}

/// A move between a port and memory: `ins` (memory at rdi) or `outs` (memory at rsi).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StringMove {
    /// Bytes of one element.
    pub bytes: u8,
    /// Whether rcx counts elements.
    pub repeats: bool,
    /// The part of rcx, rsi and rdi that counts.
    pub mask: u64,
    /// The segment of the memory that `outs` reads.
    pub segment: Option<Segment>,
}

/// One element of a [`StringMove`], and the registers behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// Where it lies, without the segment's base. None: there is nothing left to move.
    pub address: Option<u64>,
    /// rsi or rdi.
    pub pointer: u64,
    /// rcx.
    pub count: u64,
    /// Whether the instruction is done with it.
    pub is_last: bool,
}

/// What a privileged instruction asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privileged {
    /// `cli`.
    DisableInterrupts,
    /// `sti`.
    EnableInterrupts,
    /// `in` of so many bytes.
    In(PortNumber, u8),
    /// `out` of so many bytes.
    Out(PortNumber, u8),
    /// `ins`.
    InString(StringMove),
    /// `outs`.
    OutString(StringMove),
    /// `clts`.
    ClearTaskSwitched,
    /// `wbinvd`.
    WriteBack,
    /// `mov register, control`.
    ReadControl {
        /// Which control register.
        control: u8,
        /// Which general register.
        register: u8,
    },
    /// `mov control, register`.
    WriteControl {
        /// Which control register.
        control: u8,
        /// Which general register.
        register: u8,
    },
    /// `mov register, debug`.
    ReadDebug {
        /// Which debug register.
        debug: u8,
        /// Which general register.
        register: u8,
    },
    /// `mov debug, register`.
    WriteDebug {
        /// Which debug register.
        debug: u8,
        /// Which general register.
        register: u8,
    },
    /// `rdmsr`.
    ReadMsr,
    /// `wrmsr`.
    WriteMsr,
    /// `rdtsc`.
    ReadTime,
    /// `rdtscp`.
    ReadTimeAndNumber,
    /// `xsetbv`.
    SetExtendedControl,
    /// `cpuid`.
    Cpuid,
    /// `int` with a number. Not the one-byte forms: `int3` and `into` have gates that let ring 3 in.
    Interrupt(u8),
}

/// `cpuid` behind `ud2` and the letters by which a guest asks that its hypervisor answers.
const FORCED_CPUID: &[u8] = b"\x0f\x0bxen\x0f\xa2";

/// The flag that has string instructions go downwards.
const DIRECTION: u64 = 1 << 10;

/// What an instruction meant that is not one of the processor's.
#[must_use]
pub fn forced(code: &[u8]) -> Option<Decoded<Privileged>> {
    code.starts_with(FORCED_CPUID).then_some(Decoded { length: 7, what: Privileged::Cpuid })
}

/// What an instruction asked for that ring 3 cannot execute.
#[must_use]
pub fn privileged(code: &[u8], width: Width) -> Option<Decoded<Privileged>> {
    let mut reader = Reader::new(code, width);
    let opcode = reader.opcode()?;
    if reader.prefixes.lock {
        return None;
    }
    // `in` and `out` move at most 4 bytes.
    let bytes = if opcode & 1 == 0 { 1 } else { reader.bytes().min(4) };
    let what = match opcode {
        0x0f => extended(&mut reader)?,
        0x6c | 0x6d => Privileged::InString(reader.string(bytes)),
        0x6e | 0x6f => Privileged::OutString(reader.string(bytes)),
        0xcd => Privileged::Interrupt(reader.byte()?),
        0xe4 | 0xe5 => Privileged::In(PortNumber::Immediate(reader.byte()?), bytes),
        0xe6 | 0xe7 => Privileged::Out(PortNumber::Immediate(reader.byte()?), bytes),
        0xec | 0xed => Privileged::In(PortNumber::Dx, bytes),
        0xee | 0xef => Privileged::Out(PortNumber::Dx, bytes),
        0xfa => Privileged::DisableInterrupts,
        0xfb => Privileged::EnableInterrupts,
        _ => return None,
    };
    Some(Decoded { length: reader.length(), what })
}

/// The same for opcodes of two bytes.
fn extended(reader: &mut Reader<'_>) -> Option<Privileged> {
    Some(match reader.byte()? {
        0x01 => {
            let has_meaning = reader.prefixes.repeat || reader.prefixes.operand;
            match reader.byte()? {
                0xd1 if !has_meaning => Privileged::SetExtendedControl,
                0xf9 if !has_meaning => Privileged::ReadTimeAndNumber,
                _ => return None,
            }
        }
        0x06 => Privileged::ClearTaskSwitched,
        0x09 => Privileged::WriteBack,
        opcode @ 0x20..=0x23 => moved(reader, opcode)?,
        0x30 => Privileged::WriteMsr,
        0x31 => Privileged::ReadTime,
        0x32 => Privileged::ReadMsr,
        0xa2 => Privileged::Cpuid,
        _ => return None,
    })
}

/// A move from or to a control or debug register. Kernels are 64-bit code.
fn moved(reader: &mut Reader<'_>, opcode: u8) -> Option<Privileged> {
    // The two bits that elsewhere choose between register and memory have no meaning here.
    let modrm = reader.byte().filter(|_| reader.width == Width::Long)?;
    let (special, register) = (reader.reg(modrm), reader.rm(modrm));
    Some(match opcode {
        0x20 => Privileged::ReadControl { control: special, register },
        0x21 => Privileged::ReadDebug { debug: special, register },
        0x22 => Privileged::WriteControl { control: special, register },
        _ => Privileged::WriteDebug { debug: special, register },
    })
}

impl StringMove {
    /// The next element, where rsi or rdi is `pointer` and rcx is `count`.
    #[must_use]
    pub fn next(&self, pointer: u64, count: u64, rflags: u64) -> Element {
        if self.repeats && count & self.mask == 0 {
            return Element { address: None, pointer, count, is_last: true };
        }
        let bytes = u64::from(self.bytes);
        let moved = if rflags & DIRECTION != 0 { pointer.wrapping_sub(bytes) } else { pointer.wrapping_add(bytes) };
        let count = if self.repeats { self.merge(count, count.wrapping_sub(1)) } else { count };
        Element {
            address: Some(pointer & self.mask),
            pointer: self.merge(pointer, moved),
            count,
            is_last: !self.repeats || count & self.mask == 0,
        }
    }

    /// A register that held `old` after a store of its part that counts. A store of 32 bits clears the others.
    fn merge(&self, old: u64, new: u64) -> u64 {
        let kept = if self.mask == 0xffff { old & !self.mask } else { 0 };
        kept | (new & self.mask)
    }
}

#[cfg(test)]
#[expect(clippy::as_conversions, clippy::arithmetic_side_effects, reason = "naive models")]
#[expect(clippy::wildcard_enum_match_arm, reason = "the other decoder knows thousands of instructions")]
mod tests;
