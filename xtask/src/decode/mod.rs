//! Programs by their ELF files: defmt frames become text, addresses become symbols and lines.
//!
//! A file is read when something of its program is to be explained for the first time.

pub mod symbols;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use defmt_decoder::{DecodeError, Locations, Table};
use protocol::handle::VmId;

pub use symbols::{Place, Symbols};

/// A decoded log frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Such as `info`; empty for `println`.
    pub level: String,
    /// The text.
    pub text: String,
    /// File and line, where the ELF file has them.
    pub place: Option<String>,
}

/// One program.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    log: OnceCell<Option<LogTable>>,
    symbols: OnceCell<Option<Symbols>>,
}

/// What decodes a program's frames.
#[derive(Debug)]
struct LogTable {
    table: Table,
    locations: Locations,
}

impl Program {
    /// The program of an ELF file.
    pub fn new(path: impl Into<PathBuf>) -> Program {
        Program { path: path.into(), log: OnceCell::new(), symbols: OnceCell::new() }
    }

    /// Decodes a frame, or says why not.
    pub fn message(&self, frame: &[u8]) -> Result<Message, String> {
        let log = self
            .log
            .get_or_init(|| read_log_table(&self.path))
            .as_ref()
            .ok_or_else(|| format!("`{}` holds no defmt table", self.path.display()))?;
        let (frame, _) = log.table.decode(frame).map_err(|error| match error {
            DecodeError::UnexpectedEof => "the frame is cut".to_owned(),
            DecodeError::Malformed => "the frame fits another build of the program".to_owned(),
        })?;
        let place =
            log.locations.get(&frame.index()).map(|location| format!("{}:{}", short(&location.file), location.line));
        Ok(Message {
            level: frame.level().map_or("", |level| level.as_str()).to_owned(),
            text: frame.display_message().to_string(),
            place,
        })
    }

    /// What lies at an address.
    pub fn place(&self, address: u64) -> Option<Place> {
        self.symbols.get_or_init(|| Symbols::read(&self.path)).as_ref()?.place(address)
    }
}

/// Reads the table of a program's log strings.
fn read_log_table(path: &Path) -> Option<LogTable> {
    let bytes = std::fs::read(path).ok()?;
    let table = Table::parse(&bytes).ok()??;
    let locations = table.get_locations(&bytes).unwrap_or_default();
    Some(LogTable { table, locations })
}

/// A source path without what is the same for all: the checkout's folder, or the compiler's.
pub fn short(path: &Path) -> String {
    let root = crate::tree::root();
    let path = path.strip_prefix(&root).unwrap_or(path).display().to_string();
    match path.strip_prefix("/rustc/").and_then(|rest| rest.split_once('/')) {
        Some((_, library)) => format!("rust/{library}"),
        None => path,
    }
}

/// All programs of a running system.
#[derive(Debug)]
pub struct Programs {
    hypervisor: Program,
    vms: Vec<Vec<Program>>,
    names: Vec<String>,
    /// For each VM where its label stands.
    places: Vec<String>,
    /// The VMs that speak Xen's ABI.
    xen: Vec<VmId>,
}

impl Programs {
    /// The hypervisor, and for each VM its name, kernel and modules.
    pub fn new(hypervisor: impl Into<PathBuf>, vms: &[(String, Vec<PathBuf>)]) -> Programs {
        Programs {
            hypervisor: Program::new(hypervisor),
            vms: vms.iter().map(|(_, paths)| paths.iter().map(Program::new).collect()).collect(),
            names: vms.iter().map(|(name, _)| name.clone()).collect(),
            places: Vec::new(),
            xen: Vec::new(),
        }
    }

    /// The same, with the place of each VM's label as `file:line`.
    pub fn with_places(self, places: Vec<String>) -> Programs {
        Programs { places, ..self }
    }

    /// The same, with the VMs that speak Xen's ABI.
    pub fn with_xen(self, xen: Vec<VmId>) -> Programs {
        Programs { xen, ..self }
    }

    /// Whether a VM speaks Xen's ABI.
    pub fn speaks_xen(&self, vm: VmId) -> bool {
        self.xen.contains(&vm)
    }

    /// Where the label of a VM stands, if that is known.
    pub fn label_place(&self, vm: VmId) -> Option<&str> {
        self.places.get(index(vm)).map(String::as_str)
    }

    /// The name of a VM, or of the hypervisor.
    pub fn name(&self, source: Option<VmId>) -> String {
        match source {
            None => "cloister".to_owned(),
            Some(vm) => self.names.get(index(vm)).cloned().unwrap_or_else(|| format!("vm{vm}")),
        }
    }

    /// The names of the VMs.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Decodes a frame of the hypervisor or of a VM's kernel.
    pub fn message(&self, source: Option<VmId>, frame: &[u8]) -> Result<Message, String> {
        match source {
            None => Some(&self.hypervisor),
            Some(vm) => self.vms.get(index(vm)).and_then(|programs| programs.first()),
        }
        .ok_or_else(|| "no ELF file is known for it".to_owned())?
        .message(frame)
    }

    /// What lies at an address of a VM: in its kernel, or in one of its modules.
    pub fn place(&self, vm: VmId, address: u64) -> Option<Place> {
        self.vms.get(index(vm))?.iter().find_map(|program| program.place(address))
    }

    /// What lies at an address of the hypervisor.
    pub fn hypervisor_place(&self, address: u64) -> Option<Place> {
        self.hypervisor.place(address)
    }
}

/// A VM's number as an index.
fn index(vm: VmId) -> usize {
    usize::try_from(vm.0).unwrap_or(usize::MAX)
}
