//! What is decoded is what another decoder says, and does what a naive model does.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, MemorySize, Mnemonic, OpKind, Register};
use proptest::prelude::*;

use super::{
    Decoded, Element, Operands, PortNumber, Privileged, Segment, Store, StringMove, Width, forced, privileged, store,
};

const RIP: u64 = 0xffff_ffff_8123_4567;
const FS: u64 = 0x7f00_1234_5000;
const GS: u64 = 0xffff_8880_0abc_d000;

/// Registers by number.
#[derive(Debug, Clone, Copy)]
struct Registers([u64; 16]);

impl Operands for Registers {
    fn register(&self, number: u8) -> u64 {
        self.0[usize::from(number)]
    }
    fn rip(&self) -> u64 {
        RIP
    }
    fn segment_base(&self, which: Segment) -> u64 {
        match which {
            Segment::Fs => FS,
            Segment::Gs => GS,
        }
    }
}

fn oracle(code: &[u8], width: Width) -> Instruction {
    let (bits, rip) = match width {
        Width::Long => (64, RIP),
        Width::Compatibility32 => (32, RIP & 0xffff_ffff),
    };
    Decoder::with_ip(bits, code, rip, DecoderOptions::NONE).decode()
}

/// How far a register lies from the first of its kind.
fn from(register: Register, first: Register) -> u8 {
    (register as usize).wrapping_sub(first as usize) as u8
}

/// What the other decoder says an instruction asks for, if it is one of those that ring 3 cannot execute.
fn expected(instruction: &Instruction, code: &[u8], width: Width) -> Option<Privileged> {
    let port = |operand| match instruction.op_kind(operand) {
        OpKind::Immediate8 => PortNumber::Immediate(instruction.immediate8()),
        _ => PortNumber::Dx,
    };
    let bytes = |register| match register {
        Register::AL => 1,
        Register::AX => 2,
        _ => 4,
    };
    let string = |bytes, memory: u32| {
        let mask = match instruction.op_kind(memory) {
            OpKind::MemoryESDI | OpKind::MemorySegSI => 0xffff,
            OpKind::MemoryESEDI | OpKind::MemorySegESI => 0xffff_ffff,
            _ => u64::MAX,
        };
        let mut segment = code[..instruction.len()].iter().filter_map(|byte| match (byte, width) {
            (0x64, _) => Some(Some(Segment::Fs)),
            (0x65, _) => Some(Some(Segment::Gs)),
            (0x26 | 0x2e | 0x36 | 0x3e, Width::Compatibility32) => Some(None),
            _ => None,
        });
        let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        StringMove { bytes, repeats, mask, segment: segment.next_back().flatten() }
    };
    Some(match instruction.mnemonic() {
        Mnemonic::Cli => Privileged::DisableInterrupts,
        Mnemonic::Sti => Privileged::EnableInterrupts,
        Mnemonic::In => Privileged::In(port(1), bytes(instruction.op0_register())),
        Mnemonic::Out => Privileged::Out(port(0), bytes(instruction.op1_register())),
        Mnemonic::Insb => Privileged::InString(string(1, 0)),
        Mnemonic::Insw => Privileged::InString(string(2, 0)),
        Mnemonic::Insd => Privileged::InString(string(4, 0)),
        Mnemonic::Outsb => Privileged::OutString(string(1, 1)),
        Mnemonic::Outsw => Privileged::OutString(string(2, 1)),
        Mnemonic::Outsd => Privileged::OutString(string(4, 1)),
        Mnemonic::Clts => Privileged::ClearTaskSwitched,
        Mnemonic::Wbinvd | Mnemonic::Wbnoinvd => Privileged::WriteBack,
        Mnemonic::Rdmsr => Privileged::ReadMsr,
        Mnemonic::Wrmsr => Privileged::WriteMsr,
        Mnemonic::Rdtsc => Privileged::ReadTime,
        Mnemonic::Rdtscp => Privileged::ReadTimeAndNumber,
        Mnemonic::Xsetbv => Privileged::SetExtendedControl,
        Mnemonic::Cpuid => Privileged::Cpuid,
        Mnemonic::Int => Privileged::Interrupt(instruction.immediate8()),
        Mnemonic::Mov if width == Width::Long => return moved(instruction),
        _ => return None,
    })
}

/// The same for moves from and to control and debug registers.
fn moved(instruction: &Instruction) -> Option<Privileged> {
    let (target, source) = (instruction.op0_register(), instruction.op1_register());
    let (to, general) = (from(source, Register::RAX), from(target, Register::RAX));
    Some(match instruction.code() {
        Code::Mov_r64_cr => Privileged::ReadControl { control: from(source, Register::CR0), register: general },
        Code::Mov_cr_r64 => Privileged::WriteControl { control: from(target, Register::CR0), register: to },
        Code::Mov_r64_dr => Privileged::ReadDebug { debug: from(source, Register::DR0), register: general },
        Code::Mov_dr_r64 => Privileged::WriteDebug { debug: from(target, Register::DR0), register: to },
        _ => return None,
    })
}

/// Whether an instruction names a register that no processor has: it raises #UD, and never gets here.
fn names_nothing(what: Privileged) -> bool {
    match what {
        Privileged::ReadControl { control, .. } | Privileged::WriteControl { control, .. } => {
            ![0, 2, 3, 4, 8].contains(&control)
        }
        Privileged::ReadDebug { debug, .. } | Privileged::WriteDebug { debug, .. } => debug > 7,
        _ => false,
    }
}

/// Prefixes, an opcode that is often one of those that matter, and what follows.
fn code(opcodes: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3][..]);
    let rex = prop_oneof![Just(vec![]), (0x40_u8..0x50).prop_map(|rex| vec![rex])];
    let any_opcode = prop::collection::vec(any::<u8>(), 1..3);
    let opcode = prop_oneof![8 => prop::sample::select(opcodes).prop_map(<[u8]>::to_vec), 1 => any_opcode];
    let prefixes = prop::collection::vec(prop_oneof![6 => prefix, 1 => 0x40_u8..0x50], 0..4);
    (prefixes, rex, opcode, prop::collection::vec(any::<u8>(), 0..14))
        .prop_map(|(prefixes, rex, opcode, rest)| [prefixes, rex, opcode, rest].concat())
}

const PRIVILEGED: &[&[u8]] = &[
    &[0x0f, 0x01],
    &[0x0f, 0x01, 0xd1],
    &[0x0f, 0x01, 0xf9],
    &[0x0f, 0x06],
    &[0x0f, 0x08],
    &[0x0f, 0x09],
    &[0x0f, 0x20],
    &[0x0f, 0x21],
    &[0x0f, 0x22],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x31],
    &[0x0f, 0x32],
    &[0x0f, 0xa2],
    &[0x6c],
    &[0x6d],
    &[0x6e],
    &[0x6f],
    &[0xcc],
    &[0xcd],
    &[0xce],
    &[0xe4],
    &[0xe5],
    &[0xe6],
    &[0xe7],
    &[0xec],
    &[0xed],
    &[0xee],
    &[0xef],
    &[0xf4],
    &[0xfa],
    &[0xfb],
];

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::Long), Just(Width::Compatibility32)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16_000))]
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn what_ring_3_cannot_execute_is_what_the_other_decoder_says(code in code(PRIVILEGED), width in width()) {
        let found = privileged(&code, width);
        let other = oracle(&code, width);
        if let Some(decoded) = found && names_nothing(decoded.what) {
            prop_assert!(other.is_invalid());
            return Ok(());
        }
        let has_meaning = code.iter().any(|byte| [0x66, 0xf2, 0xf3].contains(byte));
        let wanted = expected(&other, &code, width)
            .filter(|what| !has_meaning || !matches!(what, Privileged::SetExtendedControl | Privileged::ReadTimeAndNumber))
            .map(|what| Decoded { length: other.len() as u64, what });
        if wanted.is_some() || !has_meaning {
            prop_assert_eq!(found, wanted, "{:02x?} {:?} {:?}", code, width, other.code());
        }
        // Not all of its bytes are not it.
        if let Some(Decoded { length, .. }) = found {
            prop_assert_eq!(privileged(&code[..length as usize], width), found);
            prop_assert_eq!(privileged(&code[..length as usize - 1], width), None);
        }
    }
}

#[test]
fn each_privileged_instruction_is_known_by_its_bytes() {
    let string = StringMove { bytes: 1, repeats: false, mask: u64::MAX, segment: None };
    let long: &[(&[u8], Privileged)] = &[
        (&[0xfa], Privileged::DisableInterrupts),
        (&[0xfb], Privileged::EnableInterrupts),
        (&[0xe4, 0x42], Privileged::In(PortNumber::Immediate(0x42), 1)),
        (&[0xe5, 0x42], Privileged::In(PortNumber::Immediate(0x42), 4)),
        (&[0x66, 0xed], Privileged::In(PortNumber::Dx, 2)),
        (&[0x48, 0xed], Privileged::In(PortNumber::Dx, 4)),
        (&[0xe6, 0x43], Privileged::Out(PortNumber::Immediate(0x43), 1)),
        (&[0x66, 0xef], Privileged::Out(PortNumber::Dx, 2)),
        (&[0xef], Privileged::Out(PortNumber::Dx, 4)),
        (&[0x6c], Privileged::InString(string)),
        (&[0xf3, 0x66, 0x6d], Privileged::InString(StringMove { bytes: 2, repeats: true, ..string })),
        (&[0x65, 0x6e], Privileged::OutString(StringMove { segment: Some(Segment::Gs), ..string })),
        (&[0x67, 0x6f], Privileged::OutString(StringMove { bytes: 4, mask: 0xffff_ffff, ..string })),
        (&[0x0f, 0x06], Privileged::ClearTaskSwitched),
        (&[0x0f, 0x09], Privileged::WriteBack),
        (&[0x0f, 0x20, 0xe0], Privileged::ReadControl { control: 4, register: 0 }),
        (&[0x44, 0x0f, 0x20, 0xc7], Privileged::ReadControl { control: 8, register: 7 }),
        (&[0x41, 0x0f, 0x22, 0xdf], Privileged::WriteControl { control: 3, register: 15 }),
        (&[0x0f, 0x21, 0xf8], Privileged::ReadDebug { debug: 7, register: 0 }),
        (&[0x0f, 0x23, 0xf1], Privileged::WriteDebug { debug: 6, register: 1 }),
        (&[0x0f, 0x30], Privileged::WriteMsr),
        (&[0x0f, 0x31], Privileged::ReadTime),
        (&[0x0f, 0x32], Privileged::ReadMsr),
        (&[0x0f, 0x01, 0xd1], Privileged::SetExtendedControl),
        (&[0x0f, 0x01, 0xf9], Privileged::ReadTimeAndNumber),
        (&[0x0f, 0xa2], Privileged::Cpuid),
        (&[0xcd, 0x80], Privileged::Interrupt(0x80)),
    ];
    for (code, what) in long {
        let found = privileged(code, Width::Long);
        assert_eq!(found, Some(Decoded { length: code.len() as u64, what: *what }), "{code:02x?}");
    }
    // hlt, int3, into, lgdt, lidt, ltr, lldt, lmsw, invlpg, swapgs, invd, rdpmc, sysret, monitor, mwait, ud2.
    let guests: &[&[u8]] = &[
        &[0xf4],
        &[0xcc],
        &[0xce],
        &[0x0f, 0x01, 0x10],
        &[0x0f, 0x01, 0x18],
        &[0x0f, 0x00, 0xd8],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x01, 0xf0],
        &[0x0f, 0x01, 0x38],
        &[0x0f, 0x01, 0xf8],
        &[0x0f, 0x08],
        &[0x0f, 0x33],
        &[0x48, 0x0f, 0x07],
        &[0x0f, 0x01, 0xc8],
        &[0x0f, 0x01, 0xc9],
        &[0x0f, 0x0b],
        &[],
    ];
    for code in guests {
        assert_eq!(privileged(code, Width::Long), None, "{code:02x?}");
    }
    assert_eq!(privileged(&[0x48, 0xfa], Width::Compatibility32), None, "`dec eax`, and something else");
    assert_eq!(privileged(&[[0x66; 15].as_slice(), &[0xfa]].concat(), Width::Long), None, "sixteen bytes");
}

#[test]
fn a_question_to_the_hypervisor_has_all_its_letters() {
    let code = b"\x0f\x0bxen\x0f\xa2\x90";
    assert_eq!(forced(code), Some(Decoded { length: 7, what: Privileged::Cpuid }));
    for length in 0..7 {
        assert_eq!(forced(&code[..length]), None);
        let mut wrong = *code;
        wrong[length] ^= 0x20;
        assert_eq!(forced(&wrong), None);
    }
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn a_repeated_move_goes_through_memory_element_by_element(
        bytes in prop::sample::select(&[1_u8, 2, 4][..]), repeats in any::<bool>(), pointer in any::<u64>(),
        wanted in 0_u64..20, high in any::<u64>(), is_backward in any::<bool>(),
        bits in prop::sample::select(&[16_u32, 32, 64][..]),
    ) {
        let mask = u64::MAX >> (64 - bits);
        let moves = StringMove { bytes, repeats, mask, segment: None };
        let keep = |old: u64, new: u64| if bits == 16 { old & !mask | new & mask } else { new & mask };
        let count = wanted | (high & !mask);
        let (mut now, mut left, mut seen) = (pointer, count, Vec::new());
        for _ in 0..=wanted {
            let Element { address, pointer, count, is_last } = moves.next(now, left, if is_backward { 1 << 10 | 2 } else { !(1 << 10) });
            seen.extend(address);
            (now, left) = (pointer, count);
            if is_last {
                break;
            }
        }
        let total = if repeats { wanted } else { 1 };
        prop_assert_eq!(seen.len() as u64, total);
        let step = if is_backward { u64::from(bytes).wrapping_neg() } else { u64::from(bytes) };
        for (at, address) in seen.iter().enumerate() {
            prop_assert_eq!(*address, pointer.wrapping_add(step.wrapping_mul(at as u64)) & mask);
        }
        if total > 0 {
            prop_assert_eq!(now, keep(pointer, pointer.wrapping_add(step.wrapping_mul(total))));
        }
        let wanted_left = if !repeats || wanted == 0 { count } else { keep(count, 0) };
        prop_assert_eq!(left, wanted_left);
    }
}

/// A register's value, by its name.
fn value(registers: &Registers, register: Register) -> u64 {
    let whole = |first, mask| registers.0[usize::from(from(register, first))] & mask;
    match register as usize {
        at if at >= Register::RAX as usize => whole(Register::RAX, u64::MAX),
        at if at >= Register::EAX as usize => whole(Register::EAX, 0xffff_ffff),
        at if at >= Register::AX as usize => whole(Register::AX, 0xffff),
        at if at >= Register::SPL as usize => registers.0[usize::from(from(register, Register::SPL)) + 4] & 0xff,
        at if at >= Register::AH as usize => registers.0[usize::from(from(register, Register::AH))] >> 8 & 0xff,
        _ => whole(Register::AL, 0xff),
    }
}

/// The registers after a store to one of them.
fn with(registers: &Registers, register: Register, value: u64) -> [u64; 16] {
    let mut all = registers.0;
    let mut put = |number: u8, kept: u64, shift: u32| {
        let slot = &mut all[usize::from(number)];
        *slot = *slot & kept | value << shift;
    };
    match register as usize {
        at if at >= Register::RAX as usize => put(from(register, Register::RAX), 0, 0),
        at if at >= Register::EAX as usize => put(from(register, Register::EAX), 0, 0),
        at if at >= Register::AX as usize => put(from(register, Register::AX), !0xffff, 0),
        at if at >= Register::SPL as usize => put(from(register, Register::SPL) + 4, !0xff, 0),
        at if at >= Register::AH as usize => put(from(register, Register::AH), !0xff00, 8),
        _ => put(from(register, Register::AL), !0xff, 0),
    }
    all
}

/// Where the other decoder says that an operand lies.
fn address(instruction: &Instruction, registers: &Registers) -> u64 {
    let is_short = instruction.memory_base() as usize >= Register::EAX as usize
        && (instruction.memory_base() as usize) < Register::RAX as usize
        || (instruction.memory_index() as usize) >= Register::EAX as usize
            && (instruction.memory_index() as usize) < Register::RAX as usize
        || instruction.memory_base() == Register::EIP
        || instruction.memory_displ_size() == 4;
    let base = match instruction.memory_base() {
        // The displacement has it already.
        Register::None | Register::RIP | Register::EIP => 0,
        register => value(registers, register),
    };
    let index = match instruction.memory_index() {
        Register::None => 0,
        register => value(registers, register).wrapping_mul(u64::from(instruction.memory_index_scale())),
    };
    let sum = base.wrapping_add(index).wrapping_add(instruction.memory_displacement64());
    let sum = if is_short { sum & 0xffff_ffff } else { sum };
    sum.wrapping_add(match instruction.memory_segment() {
        Register::FS => FS,
        Register::GS => GS,
        _ => 0,
    })
}

const STORES: &[&[u8]] = &[
    &[0x00],
    &[0x01],
    &[0x08],
    &[0x09],
    &[0x20],
    &[0x21],
    &[0x30],
    &[0x31],
    &[0x80],
    &[0x81],
    &[0x83],
    &[0x86],
    &[0x87],
    &[0x88],
    &[0x89],
    &[0xc6],
    &[0xc6, 0x00],
    &[0xc7],
    &[0xc7, 0x00],
    &[0x0f, 0xb0],
    &[0x0f, 0xb1],
    &[0x0f, 0xba],
    &[0x0f, 0xab],
    &[0x0f, 0xb3],
    &[0x0f, 0xbb],
];

/// Whether an instruction is a store of the kinds that are decoded.
fn is_store(instruction: &Instruction) -> bool {
    let by_register = instruction.op1_kind() == OpKind::Register;
    let known = match instruction.mnemonic() {
        Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => !by_register,
        Mnemonic::Mov => {
            let code = instruction.code();
            let offset = [Code::Mov_moffs8_AL, Code::Mov_moffs16_AX, Code::Mov_moffs32_EAX, Code::Mov_moffs64_RAX];
            let of_segment = by_register && (Register::ES..=Register::GS).contains(&instruction.op1_register());
            !offset.contains(&code) && !of_segment
        }
        mnemonic => [Mnemonic::Add, Mnemonic::Or, Mnemonic::And, Mnemonic::Xor, Mnemonic::Xchg, Mnemonic::Cmpxchg]
            .contains(&mnemonic),
    };
    known && instruction.op0_kind() == OpKind::Memory
}

/// Bytes of the operand in memory.
fn bytes(instruction: &Instruction) -> u64 {
    match instruction.memory_size() {
        MemorySize::UInt8 | MemorySize::Int8 => 1,
        MemorySize::UInt16 | MemorySize::Int16 => 2,
        MemorySize::UInt32 | MemorySize::Int32 => 4,
        MemorySize::UInt64 | MemorySize::Int64 => 8,
        other => unreachable!("{other:?}"),
    }
}

/// A number as a list of bits, the lowest first.
fn bits(value: u64, count: u32) -> Vec<bool> {
    (0..count).map(|bit| value >> bit & 1 != 0).collect()
}

fn number(bits: &[bool]) -> u64 {
    bits.iter().enumerate().map(|(bit, is_set)| u64::from(*is_set) << bit).sum()
}

/// Adds as by hand, or subtracts as `cmpxchg` does: the result, and carry, half carry and overflow.
fn sum(left: &[bool], right: &[bool], what: Mnemonic) -> (Vec<bool>, [bool; 3]) {
    let subtracts = what == Mnemonic::Cmpxchg;
    let mut carries = vec![subtracts];
    let mut result = Vec::new();
    for (one, other) in left.iter().zip(right) {
        let other = *other != subtracts;
        let carry = *carries.last().unwrap();
        result.push(*one ^ other ^ carry);
        carries.push([*one, other, carry].iter().filter(|bit| **bit).count() >= 2);
    }
    let last = carries.len() - 1;
    let overflow = carries[last] != carries[last - 1];
    (result, [carries[last] != subtracts, carries[4] != subtracts, overflow])
}

/// What the naive model makes of an instruction: value, registers and flags.
fn model(instruction: &Instruction, registers: &Registers, old: u64, rflags: u64) -> (u64, [u64; 16], u64) {
    let count = bytes(instruction) as u32 * 8;
    let operand = match instruction.op1_kind() {
        OpKind::Register => value(registers, instruction.op1_register()),
        _ => instruction.immediate(1) & (u64::MAX >> (64 - count)),
    };
    let (left, right) = (bits(old, count), bits(operand, count));
    let flag = |bit: u32, is_set: bool| u64::from(is_set) << bit;
    let of_result = |result: &[bool]| {
        let even = result[..8].iter().filter(|bit| **bit).count() % 2 == 0;
        flag(2, even) | flag(6, !result.contains(&true)) | flag(7, result[result.len() - 1])
    };
    let keep = rflags & !0x8d5;
    let logic = |result: Vec<bool>| (number(&result), registers.0, keep | of_result(&result));
    let pairs = || left.iter().zip(&right);
    let all = |result: &[bool], [carry, half, overflow]: [bool; 3]| {
        keep | of_result(result) | flag(0, carry) | flag(4, half) | flag(11, overflow)
    };
    let single = |change: fn(bool) -> bool| {
        let at = usize::from(instruction.immediate8()) % left.len();
        let mut result = left.clone();
        result[at] = change(left[at]);
        (number(&result), registers.0, rflags & !1 | flag(0, left[at]))
    };
    match instruction.mnemonic() {
        Mnemonic::Mov => (operand, registers.0, rflags),
        Mnemonic::Xchg => (operand, with(registers, instruction.op1_register(), old), rflags),
        Mnemonic::And => logic(pairs().map(|(left, right)| left & right).collect()),
        Mnemonic::Or => logic(pairs().map(|(left, right)| left | right).collect()),
        Mnemonic::Xor => logic(pairs().map(|(left, right)| left ^ right).collect()),
        Mnemonic::Add => {
            let (result, flags) = sum(&left, &right, Mnemonic::Add);
            (number(&result), registers.0, all(&result, flags))
        }
        Mnemonic::Cmpxchg => {
            let accumulator = match count {
                8 => Register::AL,
                16 => Register::AX,
                32 => Register::EAX,
                _ => Register::RAX,
            };
            let have = value(registers, accumulator);
            let (difference, flags) = sum(&bits(have, count), &left, Mnemonic::Cmpxchg);
            let flags = all(&difference, flags);
            if have == old { (operand, registers.0, flags) } else { (old, with(registers, accumulator, old), flags) }
        }
        Mnemonic::Bts => single(|_| true),
        Mnemonic::Btr => single(|_| false),
        Mnemonic::Btc => single(|bit| !bit),
        other => unreachable!("{other:?} is no store"),
    }
}

fn number_of_interest() -> impl Strategy<Value = u64> {
    let edges = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, u64::MAX >> 1, 1 << 63, u64::MAX];
    prop_oneof![any::<u64>(), prop::sample::select(edges.to_vec()), any::<u64>().prop_map(|word| word & !7)]
}

/// Registers and, sometimes, a word that the accumulator's lower part equals.
fn registers() -> impl Strategy<Value = Registers> {
    prop::array::uniform16(number_of_interest()).prop_map(Registers)
}

/// What a store leaves: the word, the registers, the flags.
fn after(store: &Store, registers: &Registers, word: u64, rflags: u64) -> (u64, [u64; 16], u64) {
    let outcome = store.outcome(word, rflags);
    let mut all = registers.0;
    if let Some((number, value)) = outcome.register {
        all[usize::from(number)] = value;
    }
    (store.update(word), all, outcome.rflags)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16_000))]
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn a_store_is_what_the_other_decoder_says_and_does_what_the_naive_model_does(
        code in code(STORES), registers in registers(), word in number_of_interest(), rflags in any::<u64>(),
        is_equal in any::<bool>(),
    ) {
        let found = store(&code, &registers);
        let other = oracle(&code, Width::Long);
        if !is_store(&other) || other.has_rep_prefix() || other.has_repne_prefix() {
            let is_hint = code.iter().any(|byte| [0xf2, 0xf3].contains(byte));
            prop_assert!(found.is_none() || is_hint, "{:02x?} {:?}", code, other.code());
            return Ok(());
        }
        let (address, bytes) = (address(&other, &registers), bytes(&other));
        if address % bytes != 0 {
            prop_assert_eq!(found, None);
            return Ok(());
        }
        let store = found.unwrap();
        prop_assert_eq!((store.address, store.length), (address, other.len() as u64), "{:02x?}", code);
        prop_assert_eq!(u64::from(store.bytes), bytes);
        prop_assert_eq!(super::store(&code[..other.len() - 1], &registers), None);
        // The old value equals the accumulator in half of the cases.
        let shift = 8 * (address % 8);
        let mask = u64::MAX >> (64 - 8 * bytes);
        let word = if is_equal { word & !(mask << shift) | (registers.0[0] & mask) << shift } else { word };
        let (value, all, flags) = model(&other, &registers, word >> shift & mask, rflags);
        let wanted = (word & !(mask << shift) | value << shift, all, flags);
        prop_assert_eq!(after(&store, &registers, word, rflags), wanted, "{:02x?} {:?}", code, other.code());
    }
}

/// A store's bytes, its address, the word after it, and a register after it.
type Known = (&'static [u8], u64, u64, Option<(u8, u64)>);

#[test]
fn the_stores_that_linux_makes_are_known_by_their_bytes() {
    let mut registers = Registers([0; 16]);
    for (number, register) in registers.0.iter_mut().enumerate() {
        *register = 0xffff_8880_0000_0000 + number as u64 * 0x1_0000;
    }
    let at = |number: usize| registers.0[number];
    let word = 0x8000_0001_2345_6067;
    let stores: &[Known] = &[
        // xchg [rdi], rax
        (&[0x48, 0x87, 0x07], at(7), at(0), Some((0, word))),
        // lock and byte [rsi], 0xfd
        (&[0xf0, 0x80, 0x26, 0xfd], at(6), word & !2, None),
        // lock and byte [r13 + 0], 0xfd
        (&[0xf0, 0x41, 0x80, 0x65, 0x00, 0xfd], at(13), word & !2, None),
        // mov [rbx + rcx*8 + 0x10], rdx
        (&[0x48, 0x89, 0x54, 0xcb, 0x10], at(3).wrapping_add(at(1) << 3).wrapping_add(16), at(2), None),
        // mov qword [r12], 0
        (&[0x49, 0xc7, 0x04, 0x24, 0, 0, 0, 0], at(12), 0, None),
        // mov qword [rax], -1
        (&[0x48, 0xc7, 0x00, 0xff, 0xff, 0xff, 0xff], at(0), u64::MAX, None),
        // lock btr qword [rdi], 5
        (&[0xf0, 0x48, 0x0f, 0xba, 0x37, 0x05], at(7), word & !0x20, None),
        // lock cmpxchg [rdi], rsi: another value
        (&[0xf0, 0x48, 0x0f, 0xb1, 0x37], at(7), word, Some((0, word))),
        // lock or qword [rdi], 0x40
        (&[0xf0, 0x48, 0x83, 0x0f, 0x40], at(7), word | 0x40, None),
        // mov gs:[0x1000], rax
        (&[0x65, 0x48, 0x89, 0x04, 0x25, 0x00, 0x10, 0, 0], GS + 0x1000, at(0), None),
        // mov [rip + 0x10a], rax
        (&[0x48, 0x89, 0x05, 0x0a, 1, 0, 0], RIP + 7 + 0x10a, at(0), None),
    ];
    for (code, address, new, register) in stores {
        let store = store(code, &registers).unwrap();
        assert_eq!((store.address, store.length), (*address, code.len() as u64), "{code:02x?}");
        assert_eq!(store.update(word), *new, "{code:02x?}");
        assert_eq!(store.outcome(word, 2).register, *register, "{code:02x?}");
    }
    // A bit in a register; a misaligned address; a load; a register; lock before mov; sixteen bytes.
    let others: &[&[u8]] = &[
        &[0xf0, 0x48, 0x0f, 0xb3, 0x07],
        &[0x48, 0x89, 0x47, 0x04],
        &[0x48, 0x8b, 0x07],
        &[0x48, 0x89, 0xc7],
        &[0xf0, 0x48, 0x89, 0x07],
        &[0xf0, 0x0f, 0xc7, 0x0f],
        &[0x66; 16],
        &[],
    ];
    for code in others {
        assert_eq!(store(code, &registers), None, "{code:02x?}");
    }
}
