//! Finds sensitive instructions in bytes: one after the other from each symbol on, and with
//! `every_offset` at all other offsets too.

use iced_x86::{Code, Decoder, DecoderOptions, Formatter, Instruction, Mnemonic, NasmFormatter};

use super::rules::{RULES, Rule};

/// Consecutive bytes of a file that can be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region<'data> {
    /// The section's name, or `segment`.
    pub name: String,
    /// Virtual address of the first byte.
    pub address: u64,
    /// The bytes.
    pub bytes: &'data [u8],
}

/// One sensitive instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Its address.
    pub address: u64,
    /// What it breaks.
    pub rule: &'static Rule,
    /// The instruction as text.
    pub text: String,
    /// It is no instruction of the program's: its bytes lie in another one, or behind none.
    pub hidden: bool,
    /// The region's name.
    pub region: String,
}

/// What a scan came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// By ascending address within each region.
    pub hits: Vec<Hit>,
    /// Instructions that were decoded one after the other.
    pub instructions: u64,
    /// Bytes of code.
    pub bytes: u64,
}

/// The rules by mnemonic, so that the common instruction costs one look, and what writes the others.
struct Index {
    rules: Vec<Vec<&'static Rule>>,
    formatter: NasmFormatter,
}

impl Index {
    /// Sorts the rules.
    fn new() -> Index {
        let mut rules = vec![Vec::new(); Mnemonic::values().len()];
        for rule in RULES {
            let of_codes = rule.codes.iter().map(|code| code.mnemonic());
            for mnemonic in rule.mnemonics.iter().copied().chain(of_codes) {
                let place: &mut Vec<&'static Rule> = &mut rules[mnemonic as usize];
                if !place.contains(&rule) {
                    place.push(rule);
                }
            }
        }
        Index { rules, formatter: NasmFormatter::new() }
    }

    /// The rule of an instruction, if it is sensitive.
    fn rule(&self, instruction: &Instruction) -> Option<&'static Rule> {
        let mnemonic = instruction.mnemonic();
        let candidates = self.rules.get(mnemonic as usize)?;
        let code: Code = instruction.code();
        candidates.iter().find(|rule| rule.mnemonics.contains(&mnemonic) || rule.codes.contains(&code)).copied()
    }
}

/// Scans regions of code. `starts` are addresses where an instruction is known to begin, ascending.
/// With `hidden`, the regions to look through at every offset.
pub fn scan(code: &[Region<'_>], starts: &[u64], hidden: Option<&[Region<'_>]>) -> Scan {
    let mut index = Index::new();
    let mut result = Scan::default();
    let mut seen = Vec::new();
    for region in code {
        in_order(region, starts, &mut index, &mut result, &mut seen);
    }
    seen.sort_unstable();
    for region in hidden.unwrap_or_default() {
        everywhere(region, &seen, &mut index, &mut result.hits);
    }
    result
}

/// Decodes one instruction after the other, anew at each start, and notes where they begin.
fn in_order(region: &Region<'_>, starts: &[u64], index: &mut Index, result: &mut Scan, seen: &mut Vec<u64>) {
    let end = region.address.saturating_add(region.bytes.len() as u64);
    let first = starts.partition_point(|start| *start <= region.address);
    let inner = starts.iter().copied().skip(first).take_while(|start| *start < end);
    let mut decoder = Decoder::with_ip(64, region.bytes, region.address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    for stop in inner.chain([end]) {
        while decoder.ip() < stop && decoder.can_decode() {
            let address = decoder.ip();
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                seek(&mut decoder, region, address + 1);
                continue;
            }
            result.instructions += 1;
            seen.push(address);
            result.hits.extend(hit(index, &instruction, region, false));
        }
        seek(&mut decoder, region, stop);
    }
    result.bytes += region.bytes.len() as u64;
}

/// Decodes at every offset that is no start of an instruction. `seen` is ascending.
fn everywhere(region: &Region<'_>, seen: &[u64], index: &mut Index, hits: &mut Vec<Hit>) {
    let mut next = seen.partition_point(|start| *start < region.address);
    let mut decoder = Decoder::with_ip(64, region.bytes, region.address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    for address in region.address..region.address.saturating_add(region.bytes.len() as u64) {
        while seen.get(next).is_some_and(|start| *start < address) {
            next += 1;
        }
        if seen.get(next) == Some(&address) {
            continue;
        }
        seek(&mut decoder, region, address);
        decoder.decode_out(&mut instruction);
        hits.extend(hit(index, &instruction, region, true));
    }
}

/// Sets the decoder to an address of the region.
fn seek(decoder: &mut Decoder<'_>, region: &Region<'_>, address: u64) {
    let offset = usize::try_from(address - region.address).unwrap_or(usize::MAX);
    // An offset behind the end is refused, and then there is nothing left to decode.
    if decoder.set_position(offset.min(region.bytes.len())).is_ok() {
        decoder.set_ip(address);
    }
}

/// The hit that an instruction is, if it is one.
fn hit(index: &mut Index, instruction: &Instruction, region: &Region<'_>, hidden: bool) -> Option<Hit> {
    let rule = index.rule(instruction)?;
    let mut text = String::new();
    index.formatter.format(instruction, &mut text);
    Some(Hit { address: instruction.ip(), rule, text, hidden, region: region.name.clone() })
}
