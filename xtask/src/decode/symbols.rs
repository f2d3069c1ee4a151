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
    /// The function's name.
    pub symbol: Option<String>,
    /// Bytes from its start.
    pub offset: u64,
    /// File and line.
    pub line: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbol = self.symbol.as_deref().unwrap_or("?");
        write!(f, "{symbol}+{:#x}", self.offset)?;
        match &self.line {
            Some(line) => write!(f, " ({line})"),
            None => Ok(()),
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
        f.debug_struct("Symbols")
            .field("functions", &self.functions.len())
            .finish_non_exhaustive()
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
        let file = object::File::parse(bytes.as_slice()).ok()?;
        let mut functions: Vec<Function> = file
            .symbols()
            .filter(|symbol| {
                matches!(
                    symbol.kind(),
                    SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown
                )
            })
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
        Some(Symbols {
            functions,
            lines: read_lines(&file),
        })
    }

    /// What lies at an address: nothing when no function reaches it.
    pub fn place(&self, address: u64) -> Option<Place> {
        let after = self
            .functions
            .partition_point(|function| function.start <= address);
        let function = self.functions.get(after.checked_sub(1)?)?;
        let offset = address - function.start;
        // Assembly labels have no size; take them as far as a small routine goes.
        let size = if function.size == 0 {
            4096
        } else {
            function.size
        };
        let line = self.line(address);
        if offset >= size && line.is_none() {
            return None;
        }
        Some(Place {
            symbol: Some(function.name.clone()),
            offset,
            line,
        })
    }

    /// File and line of an address: of the innermost function, if some were inlined.
    fn line(&self, address: u64) -> Option<String> {
        let context = self.lines.as_ref()?;
        let mut frames = context.find_frames(address).skip_all_loads().ok()?;
        let frame = frames.next().ok()??;
        let location = frame.location?;
        let file = super::short(Path::new(location.file?));
        Some(format!("{file}:{}", location.line?))
    }
}

/// Reads the line tables, if there are any.
fn read_lines(file: &object::File<'_>) -> Option<addr2line::Context<Reader>> {
    let dwarf = gimli::Dwarf::load(|id| {
        let bytes = file
            .section_by_name(id.name())
            .and_then(|section| section.data().ok())
            .unwrap_or(&[]);
        Ok::<_, gimli::Error>(EndianArcSlice::new(Arc::from(bytes), LittleEndian))
    });
    addr2line::Context::from_dwarf(dwarf.ok()?).ok()
}
