//! Addresses of an ELF file as symbol, file and line.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use gimli::{EndianArcSlice, LittleEndian};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// The debug information, shared by the parts of the reader.
type Reader = EndianArcSlice<LittleEndian>;

/// What lies at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The symbol's name.
    pub symbol: String,
    /// Bytes from its start.
    pub offset: u64,
    /// The functions that were inlined there, the innermost first and the symbol's own last.
    pub frames: Vec<Frame>,
}

/// One function at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its name.
    pub function: String,
    /// File and line.
    pub line: String,
    /// It belongs to Rust's library or to a package from elsewhere.
    pub foreign: bool,
}

impl Place {
    /// The innermost function of our own, which is the one that a person looks for.
    pub fn own(&self) -> Option<&Frame> {
        let own = self.frames.iter().find(|frame| !frame.foreign);
        own.or_else(|| self.frames.first())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.own() {
            Some(frame) => write!(f, "{} ({})", frame.function, frame.line),
            None => write!(f, "{}+{:#x}", self.symbol, self.offset),
        }
    }
}

/// The symbols and lines of one file.
pub struct Symbols {
    functions: Vec<Function>,
    lines: Option<addr2line::Context<Reader>>,
}

impl fmt::Debug for Symbols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Symbols").field("functions", &self.functions.len()).finish_non_exhaustive()
    }
}

/// One symbol of code.
struct Function {
    start: u64,
    size: u64,
    name: String,
}

impl Symbols {
    /// Reads a file, if it is an ELF file.
    pub fn read(path: &Path) -> Option<Symbols> {
        let bytes = std::fs::read(path).ok()?;
        Some(Symbols::of(&object::File::parse(bytes.as_slice()).ok()?))
    }

    /// The symbols of a file that is parsed already.
    pub fn of(file: &object::File<'_>) -> Symbols {
        let mut functions: Vec<Function> = file
            .symbols()
            .filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown))
            .filter(|symbol| symbol.is_definition() && symbol.address() > 0)
            .filter_map(|symbol| {
                Some(Function {
                    start: symbol.address(),
                    size: symbol.size(),
                    name: format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?)),
                })
            })
            .collect();
        functions.sort_by_key(|function| function.start);
        Symbols { functions, lines: read_lines(file) }
    }

    /// Where functions and labels begin, ascending.
    pub fn starts(&self) -> Vec<u64> {
        self.functions.iter().map(|function| function.start).collect()
    }

    /// What lies at an address: nothing when no function reaches it.
    pub fn place(&self, address: u64) -> Option<Place> {
        let after = self.functions.partition_point(|function| function.start <= address);
        let function = self.functions.get(after.checked_sub(1)?)?;
        let offset = address - function.start;
        // Assembly labels have no size; take them as far as a small routine goes.
        let size = if function.size == 0 { 4096 } else { function.size };
        let frames = self.frames(address).unwrap_or_default();
        if offset >= size && frames.is_empty() {
            return None;
        }
        Some(Place { symbol: function.name.clone(), offset, frames })
    }

    /// The functions at an address.
    fn frames(&self, address: u64) -> Option<Vec<Frame>> {
        let context = self.lines.as_ref()?;
        let mut found = context.find_frames(address).skip_all_loads().ok()?;
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = found.next() {
            let function = frame.function.and_then(|name| Some(name.demangle().ok()?.into_owned()));
            let location = frame.location?;
            let file = location.file?;
            frames.push(Frame {
                function: function.unwrap_or_else(|| "?".to_owned()),
                line: format!("{}:{}", super::short(Path::new(file)), location.line?),
                foreign: file.starts_with("/rustc/") || file.contains("/registry/src/"),
            });
        }
        Some(frames)
    }
}

/// Reads the line tables, if there are any.
fn read_lines(file: &object::File<'_>) -> Option<addr2line::Context<Reader>> {
    let dwarf = gimli::Dwarf::load(|id| {
        let bytes = file.section_by_name(id.name()).and_then(|section| section.data().ok()).unwrap_or(&[]);
        Ok::<_, gimli::Error>(EndianArcSlice::new(Arc::from(bytes), LittleEndian))
    });
    addr2line::Context::from_dwarf(dwarf.ok()?).ok()
}
