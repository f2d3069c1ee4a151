//! Instructions of a Xen guest: any bytes, with any registers.

use hv_core::abi::xen::emulate::{Operands, Privileged, Segment, Width, forced, privileged, store};

use super::Choices;

/// Flags that arithmetic sets.
const STATUS: u64 = 0x8d5;

struct Registers {
    general: [u64; 16],
    rip: u64,
    bases: [u64; 2],
}

impl Operands for Registers {
    fn register(&self, number: u8) -> u64 {
        self.general[usize::from(number)]
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn segment_base(&self, which: Segment) -> u64 {
        match which {
            Segment::Fs => self.bases[0],
            Segment::Gs => self.bases[1],
        }
    }
}

/// Code of the kinds that are decoded, behind registers that are zero.
pub fn instructions() -> Vec<Vec<u8>> {
    let code: [&[u8]; 8] = [
        b"\xfa\xfb\xe4\x42\x66\xef\xf3\x6c\xf3\x66\x6f\xcd\x80",
        b"\x0f\x20\xe0\x44\x0f\x22\xd8\x0f\x21\xf8\x0f\x23\xf1\x0f\x30\x0f\x32\x0f\x01\xd1\x0f\xa2",
        b"\x0f\x0bxen\x0f\xa2\x0f\x06\x0f\x09\x0f\x31\x0f\x01\xf9",
        b"\x48\x87\x07\xf0\x41\x80\x65\x00\xfd",
        b"\x48\x89\x54\xcb\x10\x49\xc7\x04\x24\x00\x00\x00\x00",
        b"\xf0\x48\x0f\xba\x37\x05\xf0\x48\x0f\xb1\x37",
        b"\xf0\x48\x83\x0f\x40\x65\x48\x89\x04\x25\x00\x10\x00\x00",
        b"\x48\x89\x05\x0a\x01\x00\x00\x67\x66\x01\x42\x7e",
    ];
    code.iter().map(|code| [[0; 66].as_slice(), code].concat()).collect()
}

/// Numbers for the registers, and the rest is code.
pub fn decode(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let registers = Registers {
        general: [(); 16].map(|()| choices.word()),
        rip: choices.word(),
        bases: [(); 2].map(|()| choices.word()),
    };
    let (word, rflags, count) = (choices.word(), choices.word(), choices.word());
    let mut code = choices.0;
    while !code.is_empty() {
        for width in [Width::Long, Width::Compatibility32] {
            if let Some(decoded) = privileged(code, width) {
                whole(code, decoded.length, |code| privileged(code, width).is_some());
                check(decoded.what, width, &registers, count);
            }
        }
        if let Some(decoded) = forced(code) {
            whole(code, decoded.length, |code| forced(code).is_some());
        }
        check_store(code, &registers, word, rflags);
        code = &code[1..];
    }
}

/// An instruction has at most 15 bytes, all of which are there, and is not known by fewer.
fn whole(code: &[u8], length: u64, is_known: impl Fn(&[u8]) -> bool) {
    let length = usize::try_from(length).expect("a small number");
    assert!((1..=15).contains(&length) && length <= code.len());
    assert!(is_known(&code[..length]) && !is_known(&code[..length - 1]));
}

fn check(what: Privileged, width: Width, registers: &Registers, count: u64) {
    match what {
        Privileged::In(_, bytes) | Privileged::Out(_, bytes) => assert!([1, 2, 4].contains(&bytes)),
        Privileged::InString(moves) | Privileged::OutString(moves) => {
            assert!([1, 2, 4].contains(&moves.bytes));
            let element = moves.next(registers.general[7], count, registers.general[0]);
            assert!(element.address.is_none_or(|address| address & !moves.mask == 0));
            assert_eq!(element.address.is_none(), moves.repeats && count & moves.mask == 0);
            let left = if moves.repeats { count.wrapping_sub(u64::from(element.address.is_some())) } else { count };
            assert_eq!((element.count ^ left) & moves.mask, 0);
        }
        Privileged::ReadControl { control: special, register }
        | Privileged::WriteControl { control: special, register }
        | Privileged::ReadDebug { debug: special, register }
        | Privileged::WriteDebug { debug: special, register } => {
            assert!(width == Width::Long && special < 16 && register < 16);
        }
        _ => {}
    }
}

/// A store is aligned, leaves the bytes beside it alone, changes no flags but those of arithmetic, and names a
/// register that exists.
fn check_store(code: &[u8], registers: &Registers, word: u64, rflags: u64) {
    let Some(found) = store(code, registers) else { return };
    whole(code, found.length, |code| store(code, registers).is_some());
    assert!([1, 2, 4, 8].contains(&found.bytes));
    assert_eq!(found.address % u64::from(found.bytes), 0);
    let covered = (u64::MAX >> (64 - 8 * u32::from(found.bytes))) << (8 * (found.address % 8));
    assert_eq!((found.update(word) ^ word) & !covered, 0);
    let outcome = found.outcome(word, rflags);
    assert_eq!((outcome.rflags ^ rflags) & !STATUS, 0);
    assert!(outcome.register.is_none_or(|(number, _)| number < 16));
}
