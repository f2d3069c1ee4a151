//! System files: one TOML file says which VMs run together, with what, and who may talk to whom.
//!
//! `document` reads tables, this file gives the keys their meaning, `check` compares what stands in
//! different places, `assemble` adds the kernels and makes a manifest of it. No file is opened
//! before the text has passed; every complaint names file, line and key.

pub mod assemble;
mod check;
pub mod document;
pub mod processor;
#[cfg(test)]
mod tests;
pub mod xen;

use std::path::{Path, PathBuf};

use protocol::label::Label;
use protocol::layout::{PAGE_SIZE, limit};
use protocol::manifest::OnCrash;
use protocol::processor::{Model, PortRange, ProcessorPolicy};
use toml::de::DeTable;

use crate::error::codes;
use crate::host::debian::Flavour;
use crate::policy::{self, Compiled};
use document::{ConfigError, Place, Placed, Source, TableReader};
use xen::XenSpec;

/// A system as its file states it, checked as far as that goes without opening other files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Its name: the `name` key, or the file's name.
    pub name: String,
    /// The file, as errors show it.
    pub file: String,
    /// The VMs in order.
    pub vms: Vec<VmSpec>,
    /// The channels in order.
    pub channels: Vec<ChannelSpec>,
    /// What the VMs may do.
    pub policy: Compiled,
    /// How it is tested, if it is a test.
    pub test: Option<TestSpec>,
}

impl System {
    /// Where the label of each VM stands, as `file:line`: in the policy file, or in the system file.
    pub fn label_places(&self) -> Vec<String> {
        let place = |vm: &VmSpec| match &self.policy.file {
            Some(file) => format!("{}:{}", file.file, file.place_of(&vm.name).map_or(0, |name| name.place.line)),
            None => format!("{}:{}", self.file, vm.place.line),
        };
        self.vms.iter().map(place).collect()
    }
}

/// One `[[vm]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// Unique name.
    pub name: String,
    /// Where the table stands.
    pub place: Place,
    /// Where the kernel comes from.
    pub kernel: Placed<Artifact>,
    /// Guest frames.
    pub memory: Placed<u64>,
    /// Frames of the pool, if the file says.
    pub pool_frames: Option<u64>,
    /// vCPUs.
    pub vcpus: u32,
    /// Share of CPU time.
    pub weight: u32,
    /// Most percent of one CPU, or 0.
    pub cap_percent: u32,
    /// Security label, if this file says.
    pub label: Option<Placed<Label>>,
    /// What it learns of the processor and may use of it.
    pub processor: ProcessorPolicy,
    /// Whether the file says how it sees time, or the profile decides.
    pub says_time: bool,
    /// I/O ports that it may use.
    pub ports: Vec<Placed<PortRange>>,
    /// What happens when it dies.
    pub on_crash: OnCrash,
    /// Text for the kernel.
    pub command_line: String,
    /// Files for the kernel.
    pub modules: Vec<ModuleSpec>,
    /// What it has if it speaks Xen's ABI.
    pub xen: Option<XenSpec>,
}

/// One entry of `modules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSpec {
    /// Name.
    pub name: String,
    /// Where it comes from.
    pub source: Placed<Artifact>,
}

/// Where a kernel or module comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Artifact {
    /// A package of this workspace, and which of its programs.
    Package(String, Option<String>),
    /// A package in another folder, and which of its programs.
    Folder(PathBuf, Option<String>),
    /// A file as it is.
    File(PathBuf),
    /// A file that `make` makes, in its folder.
    Made(PathBuf),
    /// The current kernel of Debian.
    DebianKernel(Flavour),
    /// Debian's busybox that needs no libraries.
    Busybox,
}

/// One `[[channel]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSpec {
    /// Name.
    pub name: Placed<String>,
    /// Where the table stands.
    pub place: Place,
    /// Names of the two VMs.
    pub between: [Placed<String>; 2],
    /// Frames of the region; 0 for a one-way channel.
    pub frames: u64,
}

/// The `[test]` table: how `cargo xtask test guest` runs and judges the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestSpec {
    /// Texts that must be seen.
    pub expect: Vec<String>,
    /// Texts that must not be seen.
    pub forbid: Vec<String>,
    /// Numbers of CPUs, one run each.
    pub smp: Vec<u32>,
    /// MiB of memory, if the file says.
    pub memory_mib: Option<u64>,
    /// VMs whose console lines must be equal, their names apart.
    pub same: Vec<Placed<String>>,
    /// CPU models, one run each.
    pub cpu: Vec<String>,
    /// Seconds.
    pub timeout: u64,
    /// Exit code that `run` must end with. When the file names one, the run goes on to its end.
    pub exit: Option<u8>,
    /// Runs under QEMU's instruction clock.
    pub icount: bool,
    /// Each VM prints what it can do to each; that must be what the policy says.
    pub cells: bool,
    /// Runs on a hypervisor that recounts all frames.
    pub recount: bool,
    /// A script to run.
    pub script: Option<PathBuf>,
}

/// Memory of the machine unless `--mem` or the test says otherwise, or the system needs more, in MiB.
pub const DEFAULT_MEMORY_MIB: u64 = 512;

/// Reads and checks the text of a system file. Paths in it are relative to `folder`.
pub fn parse(source: Source<'_>, stem: &str, folder: &Path) -> Result<System, Vec<ConfigError>> {
    let document = DeTable::parse(source.text).map_err(|error| {
        let place = Place { line: error.span().map_or(0, |span| source.line(&span)), key: String::new() };
        vec![source.error(codes::TOML, &place, error.message().trim_end())]
    })?;
    let mut errors = Vec::new();
    let (mut system, policy_file) = read_system(source, document.get_ref(), stem, folder, &mut errors);
    if errors.is_empty() {
        check::check(source, &system, &mut errors);
    }
    if errors.is_empty() {
        match policy::of(source, &system.vms, policy_file) {
            Ok(policy) => {
                system.policy = policy;
                processor::follow_profile(&mut system);
            }
            Err(found) => errors = found,
        }
    }
    if errors.is_empty() {
        check::check_permitted(source, &system, &mut errors);
    }
    if errors.is_empty() { Ok(system) } else { Err(errors) }
}

/// Reads the top of the file.
fn read_system(
    source: Source<'_>,
    table: &DeTable<'_>,
    stem: &str,
    folder: &Path,
    errors: &mut Vec<ConfigError>,
) -> (System, Option<Placed<PathBuf>>) {
    let mut top = TableReader::new(source, table, Place::default(), errors);
    let name = top.text("name").map_or_else(|| stem.to_owned(), |name| name.value);
    let policy = top.text("policy").map(|file| Placed { value: folder.join(file.value), place: file.place });
    let vm_tables = top.tables("vm");
    let channel_tables = top.tables("channel");
    let test_table = top.table("test");
    let mut vms = Vec::new();
    for vm in vm_tables {
        let place = named(&vm.place, "vm", vm.value);
        let reader = TableReader::new(source, vm.value, place, top.errors());
        vms.extend(read_vm(reader, folder));
    }
    let mut channels = Vec::new();
    for channel in channel_tables {
        let place = named(&channel.place, "channel", channel.value);
        let reader = TableReader::new(source, channel.value, place, top.errors());
        channels.extend(read_channel(reader));
    }
    let test = test_table.map(|test| read_test(TableReader::new(source, test.value, test.place, top.errors()), folder));
    top.finish();
    let file = source.file.to_owned();
    (System { name, file, vms, channels, policy: Compiled::default(), test }, policy)
}

/// The place of one of several tables: `vm.hello` says more than `vm`.
fn named(place: &Place, list: &str, table: &DeTable<'_>) -> Place {
    let name = table.get("name").and_then(|name| name.get_ref().as_str());
    Place { line: place.line, key: name.map_or_else(|| list.to_owned(), |name| format!("{list}.{name}")) }
}

/// Reads a `[[vm]]`.
fn read_vm(mut table: TableReader<'_, '_>, folder: &Path) -> Option<VmSpec> {
    let place = table.place();
    let name = read_name(&mut table, "name");
    let is_xen = xen::read_personality(&mut table);
    let kernel = xen::read_kernel(&mut table, folder);
    let memory = table.size("memory");
    let pool = table.size("pool");
    let vcpus = table.number("vcpus", 1..=u64::from(limit::VCPUS));
    let weight = table.number("weight", 1..=10_000);
    let cap = table.number("cap", 1..=100 * u64::from(limit::VCPUS));
    let label = table.table("label");
    let label = label.map(|label| {
        let place = label.place.clone();
        Placed { value: read_label(TableReader::new(table.source(), label.value, label.place, table.errors())), place }
    });
    let (processor, says_time) = match processor::read_cpu(&mut table) {
        // A stock kernel is there to use the machine.
        (policy, says_time) if is_xen && !table.has("cpu") => {
            (ProcessorPolicy { model: Model::Host, ..policy }, says_time)
        }
        read => read,
    };
    let ports = processor::read_ports(&mut table);
    let on_crash = read_on_crash(&mut table);
    let command_line = read_command_line(&mut table, is_xen);
    let mut modules = Vec::new();
    for module in table.tables("modules") {
        let reader = TableReader::new(table.source(), module.value, module.place, table.errors());
        modules.extend(read_module(reader, folder));
    }
    let xen = xen::read(&mut table, is_xen, folder);
    table.finish();
    let kernel = kernel?;
    let default_line = if is_xen { xen::default_command_line(&kernel.value) } else { "" };
    let default_memory = if is_xen { xen::DEFAULT_MEMORY } else { DEFAULT_VM_MEMORY };
    Some(VmSpec {
        name: name?.value,
        memory: frames(memory.unwrap_or(Placed { value: default_memory, place: place.clone() })),
        place,
        pool_frames: pool.map(|pool| pool.value / PAGE_SIZE),
        vcpus: narrow(vcpus, 1),
        weight: narrow(weight, 100),
        cap_percent: narrow(cap, 0),
        label,
        processor,
        says_time,
        ports,
        on_crash,
        command_line: command_line.unwrap_or_else(|| default_line.to_owned()),
        kernel,
        modules,
        xen,
    })
}

/// Memory of a native VM, if the file does not say.
const DEFAULT_VM_MEMORY: u64 = 16 << 20;

/// Reads `command-line`, whose length the ABI limits.
fn read_command_line(table: &mut TableReader<'_, '_>, is_xen: bool) -> Option<String> {
    let text = table.text("command-line")?;
    let most = most_of_command_line(is_xen);
    if text.value.len() > most {
        let what = format!("`command-line` has {} bytes, at most {most}", text.value.len());
        table.refuse(codes::BAD_VALUE, &text.place, what);
    }
    Some(text.value)
}

/// The most bytes of a command line.
pub fn most_of_command_line(is_xen: bool) -> usize {
    if is_xen { protocol::xen::COMMAND_LINE } else { limit::COMMAND_LINE as usize }
}

/// Bytes as frames.
fn frames(bytes: Placed<u64>) -> Placed<u64> {
    Placed { value: bytes.value / PAGE_SIZE, place: bytes.place }
}

/// A number that was checked to fit, or a default.
fn narrow(number: Option<Placed<u64>>, default: u32) -> u32 {
    number.and_then(|number| u32::try_from(number.value).ok()).unwrap_or(default)
}

/// Reads a name and checks its letters.
fn read_name(table: &mut TableReader<'_, '_>, key: &'static str) -> Option<Placed<String>> {
    let name = table.required_text(key)?;
    let good = name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let fits = (1..=limit::NAME as usize).contains(&name.value.len());
    // The hypervisor speaks under this name on the console.
    let taken = name.value == "cloister";
    if good && fits && !taken {
        return Some(name);
    }
    let what = format!("`{}` cannot be a name", name.value);
    table.refuse(codes::BAD_NAME, &name.place, what);
    None
}

/// Reads where a kernel (`kernel`) or a module (`program`) comes from.
fn read_artifact(
    table: &mut TableReader<'_, '_>,
    package_key: &'static str,
    missing: &'static codes::Code,
    folder: &Path,
) -> Option<Placed<Artifact>> {
    let package = table.text(package_key);
    let other = table.text("crate");
    let file = table.text("path");
    let bin = table.text("bin").map(|bin| bin.value);
    let make = table.flag("make");
    let (value, place) = match (package, other, file) {
        (Some(package), None, None) => (Artifact::Package(package.value, bin), package.place),
        (None, Some(other), None) => {
            let path = folder.join(&other.value);
            if !path.join("Cargo.toml").is_file() {
                let what = format!("there is no Cargo.toml in `{}`", other.value);
                table.refuse(missing, &other.place, what);
            }
            (Artifact::Folder(path, bin), other.place)
        }
        (None, None, Some(file)) if make => (Artifact::Made(folder.join(&file.value)), file.place),
        (None, None, Some(file)) => (Artifact::File(folder.join(&file.value)), file.place),
        (package, other, file) => {
            let place = package.or(other).or(file).map_or_else(|| table.place(), |key| key.place);
            let what = format!("exactly one of `{package_key}`, `crate` and `path` must be given");
            table.refuse(codes::SOURCE, &place, what);
            return None;
        }
    };
    Some(Placed { value, place })
}

/// Reads `on-crash` and `restarts`.
fn read_on_crash(table: &mut TableReader<'_, '_>) -> OnCrash {
    let restarts = table.number("restarts", 1..=1_000);
    let Some(action) = table.text("on-crash") else {
        if let Some(restarts) = restarts {
            table.refuse(codes::BAD_VALUE, &restarts.place, "`restarts` needs `on-crash = \"restart\"`");
        }
        return OnCrash::Stop;
    };
    match action.value.as_str() {
        "stop" => OnCrash::Stop,
        "restart" => OnCrash::Restart(narrow(restarts, 3)),
        "halt-all" => OnCrash::HaltAll,
        other => {
            let what = format!("`on-crash` is \"{other}\", it can be \"stop\", \"restart\" or \"halt-all\"");
            table.refuse(codes::BAD_VALUE, &action.place, what);
            OnCrash::Stop
        }
    }
}

/// Reads a `label` table.
fn read_label(mut table: TableReader<'_, '_>) -> Label {
    let levels = 0..=u64::from(u8::MAX);
    let secrecy = table.number("secrecy", levels.clone());
    let integrity = table.number("integrity", levels);
    let label = Label {
        secrecy_level: narrow(secrecy, 0).try_into().unwrap_or(u8::MAX),
        secrecy_categories: read_categories(&mut table, "secrecy-categories"),
        integrity_level: narrow(integrity, 0).try_into().unwrap_or(u8::MAX),
        integrity_categories: read_categories(&mut table, "integrity-categories"),
    };
    table.finish();
    label
}

/// Reads a list of categories as a bit set.
fn read_categories(table: &mut TableReader<'_, '_>, key: &'static str) -> u64 {
    table.numbers(key, &(0..=63)).iter().fold(0, |set, category| set | (1 << category.value))
}

/// Reads one entry of `modules`.
fn read_module(mut table: TableReader<'_, '_>, folder: &Path) -> Option<ModuleSpec> {
    let name = read_name(&mut table, "name");
    let source = read_artifact(&mut table, "program", codes::MODULE, folder);
    table.finish();
    Some(ModuleSpec { name: name?.value, source: source? })
}

/// Reads a `[[channel]]`.
fn read_channel(mut table: TableReader<'_, '_>) -> Option<ChannelSpec> {
    let place = table.place();
    let name = read_name(&mut table, "name");
    let one_way = [table.text("from"), table.text("to")].map(|end| end.into_iter());
    let ends: Vec<Placed<String>> = table.texts("between").into_iter().chain(one_way.into_iter().flatten()).collect();
    let is_one_way = table.has("from") || table.has("to");
    let size = table.size("size");
    if is_one_way && (size.is_some() || table.has("between")) {
        let what = "a one-way channel has `from` and `to`, no `between` and no `size`";
        table.refuse(codes::BAD_VALUE, &place, what);
    }
    if let Some(size) = &size
        && size.value > protocol::layout::CHANNEL_STRIDE
    {
        let what = format!("`size` is over the {} MiB of a channel", protocol::layout::CHANNEL_STRIDE >> 20);
        table.refuse(codes::BAD_VALUE, &size.place, what);
    }
    let between: Option<[Placed<String>; 2]> = ends.try_into().ok();
    if between.is_none() {
        let what = "`between` must name two VMs, such as [\"ping\", \"pong\"]; or `from` and `to` one each";
        table.refuse(codes::MISSING_KEY, &place, what);
    }
    table.finish();
    let frames = if is_one_way { 0 } else { size.map_or(16, |size| size.value / PAGE_SIZE) };
    Some(ChannelSpec { name: name?, place, between: between?, frames })
}

/// Reads the `[test]` table.
fn read_test(mut table: TableReader<'_, '_>, folder: &Path) -> TestSpec {
    let plain = |texts: Vec<Placed<String>>| texts.into_iter().map(|text| text.value).collect();
    let script = table.text("script").map(|script| Placed { value: folder.join(script.value), place: script.place });
    if let Some(script) = &script
        && !script.value.is_file()
    {
        table.refuse(codes::TEST_TABLE, &script.place, "there is no such script");
    }
    let smp: Vec<u32> =
        table.numbers("smp", &(1..=64)).iter().filter_map(|count| u32::try_from(count.value).ok()).collect();
    let cpu = plain(table.text_or_texts("cpu"));
    let test = TestSpec {
        expect: plain(table.texts("expect")),
        forbid: plain(table.texts("forbid")),
        smp: if smp.is_empty() { vec![2] } else { smp },
        memory_mib: table.number("mem", 64..=65_536).map(|mem| mem.value),
        same: table.texts("same"),
        cpu: if cpu.is_empty() { vec!["max".to_owned()] } else { cpu },
        timeout: table.number("timeout", 1..=3_600).map_or(60, |timeout| timeout.value),
        exit: table.number("exit", 0..=7).and_then(|exit| u8::try_from(exit.value).ok()),
        icount: table.flag("icount"),
        cells: table.flag("cells"),
        recount: table.flag("recount"),
        script: script.map(|script| script.value),
    };
    table.finish();
    test
}
