//! What only VMs of Xen's ABI have in a system file: the keys `personality`, `debian-kernel`, `initrd` and
//! `programs`.

use std::path::Path;

use protocol::processor::TimeSource;

use super::document::{Placed, TableReader};
use super::{Artifact, ModuleSpec, read_artifact, read_module};
use crate::error::codes;
use crate::host::debian::Flavour;

/// What only a VM of Xen's ABI has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XenSpec {
    /// Its initial RAM disk.
    pub initrd: Option<Initrd>,
}

/// An initial RAM disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Initrd {
    /// This file.
    File(Placed<Artifact>),
    /// One with busybox and these programs.
    Busybox(Placed<Vec<ModuleSpec>>),
}

/// The value of `initrd` that is no file.
const BUSYBOX: &str = "busybox";
/// The command line of Debian's kernels, if the file has none: the console and, until it is there, the early
/// one. Event channels have two levels here, so Linux need not look for more.
const COMMAND_LINE: &str = "console=hvc0 earlyprintk=xen xen.fifo_events=0";
/// Memory of a VM, if the file does not say.
pub const DEFAULT_MEMORY: u64 = 256 << 20;

/// Refuses coarse time, which Xen's ABI has not.
pub fn check_time(table: &mut TableReader<'_, '_>, time: TimeSource) {
    if time == TimeSource::Coarse {
        let place = table.place_of("cpu");
        table.refuse(codes::PERSONALITY, &place, "`tsc = \"coarse\"`: the clock of Xen's ABI is exact");
    }
}

/// Reads `personality`: whether it is Xen's.
pub fn read_personality(table: &mut TableReader<'_, '_>) -> bool {
    let Some(personality) = table.text("personality") else {
        return false;
    };
    match personality.value.as_str() {
        "native" => false,
        "xen" => true,
        other => {
            let what = format!("`personality` is \"{other}\", it can be \"native\" or \"xen\"");
            table.refuse(codes::BAD_VALUE, &personality.place, what);
            false
        }
    }
}

/// Reads where the kernel comes from: Debian, or where every kernel can come from.
pub fn read_kernel(table: &mut TableReader<'_, '_>, folder: &Path) -> Option<Placed<Artifact>> {
    let Some(debian) = table.text("debian-kernel") else {
        return read_artifact(table, "kernel", codes::KERNEL_MISSING, folder);
    };
    let flavour = Flavour::ALL.iter().find(|(word, _)| *word == debian.value);
    if flavour.is_none() {
        let what = format!("`debian-kernel` is \"{}\", it can be \"cloud\" or \"generic\"", debian.value);
        table.refuse(codes::BAD_VALUE, &debian.place, what);
    }
    if let Some(other) = ["kernel", "crate", "path"].into_iter().find(|key| table.has(key)) {
        let what = format!("`debian-kernel` and `{other}` are both given");
        table.refuse(codes::SOURCE, &debian.place, what);
        return read_artifact(table, "kernel", codes::KERNEL_MISSING, folder);
    }
    flavour.map(|(_, flavour)| Placed { value: Artifact::DebianKernel(*flavour), place: debian.place })
}

/// Reads what only such VMs have, and refuses it to others; and the other way round.
pub fn read(table: &mut TableReader<'_, '_>, is_xen: bool, folder: &Path) -> Option<XenSpec> {
    let initrd = table.text("initrd");
    let programs = table.tables("programs");
    let programs_place = table.value("programs").map(|programs| programs.place);
    let refused: &[&str] = if is_xen { &["modules", "ports"] } else { &["debian-kernel", "initrd", "programs"] };
    for key in refused.iter().copied().filter(|key| table.has(key)).collect::<Vec<_>>() {
        let place = table.place_of(key);
        let why =
            if is_xen { "a VM with `personality = \"xen\"` has none" } else { "it needs `personality = \"xen\"`" };
        table.refuse(codes::PERSONALITY, &place, format!("`{key}`: {why}"));
    }
    let mut files = Vec::new();
    for program in programs {
        let reader = TableReader::new(table.source(), program.value, program.place, table.errors());
        files.extend(read_module(reader, folder));
    }
    if !is_xen {
        return None;
    }
    let is_busybox = match &initrd {
        Some(initrd) => initrd.value == BUSYBOX,
        None => table.has("debian-kernel"),
    };
    if let Some(place) = programs_place.as_ref().filter(|_| !is_busybox) {
        table.refuse(codes::SOURCE, place, "`programs` are put beside busybox: they need `initrd = \"busybox\"`");
    }
    let initrd = if is_busybox {
        let place = initrd.map(|initrd| initrd.place).or(programs_place).unwrap_or_else(|| table.place());
        Some(Initrd::Busybox(Placed { value: files, place }))
    } else {
        initrd.map(|file| Initrd::File(Placed { value: Artifact::File(folder.join(file.value)), place: file.place }))
    };
    Some(XenSpec { initrd })
}

/// The command line of a VM whose file has none.
pub fn default_command_line(kernel: &Artifact) -> &'static str {
    if matches!(kernel, Artifact::DebianKernel(_)) { COMMAND_LINE } else { "" }
}
