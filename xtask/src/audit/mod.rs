//! Which sensitive instructions a program has: x86 instructions that do not trap in ring 3 as a
//! monitor needs them to, or that only trap. `rules` says which and why, `scan` finds them, `allow`
//! knows the sites that are right, and `text`, `json` and `sarif` tell.

pub mod allow;
pub mod json;
pub mod rules;
pub mod sarif;
pub mod scan;
#[cfg(test)]
mod tests;
pub mod text;

use object::elf::{EM_X86_64, ET_REL, PF_X, SHF_EXECINSTR};
use object::{Object, ObjectSection, ObjectSegment, SectionFlags, SegmentFlags};

use crate::decode::{Place, Symbols};
use allow::Allowance;
use scan::{Hit, Region, Scan};

/// One sensitive instruction of a program, with what lies around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The instruction.
    pub hit: Hit,
    /// Its symbol, function and line, if the file tells.
    pub place: Option<Place>,
    /// Why it is right there, if the crate's manifest says so.
    pub allowed: Option<String>,
}

impl Finding {
    /// Whether an audit fails because of it. An instruction that is hidden in another one is only
    /// executed by code that jumps there: no slip of an honest kernel, and a hostile one gains
    /// nothing.
    pub fn fails(&self, strict: bool) -> bool {
        self.allowed.is_none() && (strict || (self.hit.rule.class.fails() && !self.hit.hidden))
    }

    /// File and line of its innermost function of our own.
    pub fn line(&self) -> Option<(&str, u64)> {
        let (file, line) = self.place.as_ref()?.own()?.line.rsplit_once(':')?;
        Some((file, line.parse().ok()?))
    }
}

/// What the audit of one program came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// The program's name.
    pub name: String,
    /// Its file, as a person wants to read it.
    pub file: String,
    /// Bytes of code.
    pub bytes: u64,
    /// Instructions.
    pub instructions: u64,
    /// What was found, allowed sites included.
    pub findings: Vec<Finding>,
    /// Allowances that match nothing.
    pub stale: Vec<String>,
}

impl Report {
    /// How many findings fail the audit.
    pub fn failures(&self, strict: bool) -> usize {
        self.findings.iter().filter(|finding| finding.fails(strict)).count()
    }
}

/// Why a file cannot be audited.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

/// Audits the bytes of an ELF file.
pub fn audit(
    name: &str,
    shown: &str,
    data: &[u8],
    allowances: &[Allowance],
    every_offset: bool,
) -> Result<Report, Unreadable> {
    let file = parse(data)?;
    let relocatable = is_relocatable(data);
    let code = code(&file);
    if code.is_empty() {
        return Err(Unreadable("it has neither a section nor a segment of code".to_owned()));
    }
    // In an object file every section begins at 0: addresses of symbols tell nothing there.
    let symbols = (!relocatable).then(|| Symbols::of(&file));
    let starts = symbols.as_ref().map(Symbols::starts).unwrap_or_default();
    let everything = if relocatable { code.clone() } else { executable_segments(&file) };
    let Scan { hits, instructions, bytes } = scan::scan(&code, &starts, every_offset.then_some(everything.as_slice()));
    let mut findings: Vec<Finding> = hits
        .into_iter()
        .map(|hit| {
            let place = symbols.as_ref().and_then(|symbols| symbols.place(hit.address));
            Finding { hit, place, allowed: None }
        })
        .collect();
    let stale = allow::apply(allowances, &mut findings);
    Ok(Report { name: name.to_owned(), file: shown.to_owned(), bytes, instructions, findings, stale })
}

/// Reads the file's tables and checks what it is.
fn parse(data: &[u8]) -> Result<object::File<'_>, Unreadable> {
    if data.get(..4) != Some(&object::elf::ELFMAG[..]) {
        return Err(Unreadable("it is not an ELF file".to_owned()));
    }
    let machine = data.get(18..20).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes);
    let is_64 = data.get(4) == Some(&object::elf::ELFCLASS64) && data.get(5) == Some(&object::elf::ELFDATA2LSB);
    if machine != EM_X86_64 || !is_64 {
        return Err(Unreadable("it is not a 64-bit ELF file for x86-64".to_owned()));
    }
    object::File::parse(data).map_err(|error| Unreadable(format!("the ELF file is damaged: {error}")))
}

/// Whether it is an object file, not yet linked.
fn is_relocatable(data: &[u8]) -> bool {
    data.get(16..18) == Some(&ET_REL.to_le_bytes())
}

/// The sections of code, or the executable segments of a file without sections.
fn code<'data>(file: &object::File<'data>) -> Vec<Region<'data>> {
    let executable = |flags: SectionFlags| matches!(flags, SectionFlags::Elf { sh_flags } if sh_flags & u64::from(SHF_EXECINSTR) != 0);
    let sections: Vec<Region<'_>> = file
        .sections()
        .filter(|section| executable(section.flags()))
        .filter_map(|section| {
            let name = section.name().unwrap_or("?").to_owned();
            Some(Region { name, address: section.address(), bytes: section.data().ok()? })
        })
        .filter(|region| !region.bytes.is_empty())
        .collect();
    if sections.is_empty() { executable_segments(file) } else { sections }
}

/// Everything that the CPU could execute.
fn executable_segments<'data>(file: &object::File<'data>) -> Vec<Region<'data>> {
    let executable = |flags: SegmentFlags| matches!(flags, SegmentFlags::Elf { p_flags } if p_flags & PF_X != 0);
    file.segments()
        .filter(|segment| executable(segment.flags()))
        .filter_map(|segment| {
            Some(Region { name: "segment".to_owned(), address: segment.address(), bytes: segment.data().ok()? })
        })
        .filter(|region| !region.bytes.is_empty())
        .collect()
}
