//! Kernels for the Xen personality: what the notes of the ELF file ask for, and its segments where the
//! first mapping shows them.
//!
//! Source: Xen's public headers (elfnote.h, arch-x86/xen.h), and what its loader checks.

mod notes;
mod place;
#[cfg(test)]
pub mod tests;

use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::FileHeader;
use protocol::layout::{KERNEL_START, LOWER_END, PAGE_SIZE};
use protocol::manifest::XenKernel;
use protocol::xen::note;

use crate::elf::{Fault, Segment};
use crate::error::codes;
use notes::Notes;

/// What a kernel file holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Where vCPU 0 starts.
    pub entry: u64,
    /// What it asks for.
    pub wishes: XenKernel,
    /// What is loaded, by ascending address, at addresses of the first mapping.
    pub segments: Vec<Segment>,
}

impl Kernel {
    /// The addresses from the first segment to the end of the last.
    pub fn range(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |segment| segment.address);
        start..self.segments.last().map_or(0, |segment| segment.range().end)
    }
}

/// What `VIRT_BASE` is a multiple of, so that whole tables of level 1 show the kernel: the loader's
/// mapping ends at such a boundary too.
const MAPPING_ALIGN: u64 = 4 << 20;

/// Reads and checks a kernel: a `bzImage`, or an ELF file as it is or packed with gzip.
pub fn read(data: Vec<u8>) -> Result<Kernel, Fault> {
    let file = super::extract(data).map_err(|fault| Fault::new(codes::XEN_IMAGE, fault.to_string()))?;
    let header = header(&file)?;
    let notes = notes::find(header, &file)?;
    check_words(&notes)?;
    let (virt_base, offset) = base(&notes)?;
    let kernel = Kernel {
        entry: notes.entry.unwrap_or_else(|| header.e_entry(LittleEndian)),
        segments: place::segments(header, &file, offset)?,
        wishes: XenKernel {
            virt_base,
            // One that does not lie below the first mapping counts as none, as with Xen.
            p2m_address: notes.init_p2m.filter(|address| *address < virt_base && address.is_multiple_of(PAGE_SIZE)),
            hypercall_page: notes.hypercall_page,
            module_by_frame: notes.module_by_frame,
        },
    };
    check_place(&kernel)?;
    Ok(kernel)
}

/// Checks what kind of file it is.
fn header(data: &[u8]) -> Result<&FileHeader64<LittleEndian>, Fault> {
    if data.get(..4) != Some(&elf::ELFMAG[..]) {
        return Err(Fault::new(codes::XEN_IMAGE, "it is neither a bzImage nor an ELF file"));
    }
    let header = FileHeader64::<LittleEndian>::parse(data)
        .map_err(|_| Fault::new(codes::XEN_NOT_64, "the ELF file is not a 64-bit little-endian one"))?;
    let machine = header.e_machine(LittleEndian);
    if machine != elf::EM_X86_64 {
        let what = format!("the ELF file is for machine number {machine}, not for x86-64 (62)");
        return Err(Fault::new(codes::XEN_NOT_64, what));
    }
    match header.e_type(LittleEndian) {
        elf::ET_EXEC => Ok(header),
        other => Err(Fault::new(codes::XEN_IMAGE, format!("the ELF file has type {other}, not ET_EXEC (2)"))),
    }
}

/// Checks the entry's kind, the version and the loader.
fn check_words(notes: &Notes) -> Result<(), Fault> {
    if notes.entry.is_none() && notes.has_pvh_entry {
        let what = "the kernel offers PVH but no PV entry (no note XEN_ELFNOTE_ENTRY)";
        return Err(Fault::new(codes::XEN_NO_ENTRY, what));
    }
    let shown = |word: &Option<Vec<u8>>| match word {
        Some(word) => format!("\"{}\"", String::from_utf8_lossy(word)),
        None => "not stated".to_owned(),
    };
    let begins = |word: &Option<Vec<u8>>, wanted| word.as_ref().is_some_and(|word| word.starts_with(wanted));
    if !begins(&notes.xen_version, note::VERSION) {
        let what = format!("the version of Xen is {}, not \"xen-3.0\"", shown(&notes.xen_version));
        return Err(Fault::new(codes::XEN_OTHER, what));
    }
    if !begins(&notes.loader, note::GENERIC) && !begins(&notes.guest_os, note::LINUX) {
        let what = format!(
            "the loader is {}, not \"generic\", and the system is {}, not \"linux\"",
            shown(&notes.loader),
            shown(&notes.guest_os)
        );
        return Err(Fault::new(codes::XEN_OTHER, what));
    }
    Ok(())
}

/// `VIRT_BASE`, and what is added to a physical address to have its address in the first mapping.
fn base(notes: &Notes) -> Result<(u64, u64), Fault> {
    if notes.virt_base.is_none() && notes.paddr_offset.is_some() {
        return Err(Fault::new(codes::XEN_NOTES, "PADDR_OFFSET is given and VIRT_BASE is not"));
    }
    let virt_base = notes.virt_base.unwrap_or(0);
    if !virt_base.is_multiple_of(MAPPING_ALIGN) {
        return Err(Fault::new(codes::XEN_PLACE, format!("VIRT_BASE {virt_base:#x} is no multiple of 4 MiB")));
    }
    let default = if notes.is_legacy { virt_base } else { 0 };
    Ok((virt_base, virt_base.wrapping_sub(notes.paddr_offset.unwrap_or(default))))
}

/// Checks that everything lies where it can.
fn check_place(kernel: &Kernel) -> Result<(), Fault> {
    let refuse = |what: String| Err(Fault::new(codes::XEN_PLACE, what));
    let XenKernel { virt_base, p2m_address, hypercall_page, .. } = kernel.wishes;
    let image = kernel.range();
    if image.is_empty() {
        return refuse("the kernel has nothing to load".to_owned());
    }
    if image.start < virt_base {
        return refuse(format!("the kernel begins at {:#x}, below VIRT_BASE {virt_base:#x}", image.start));
    }
    if image.end > LOWER_END && virt_base < KERNEL_START {
        let what = "would cover addresses of the hypervisor, or such as do not exist";
        return refuse(format!("the first mapping, {virt_base:#x}..{:#x}, {what}", image.end));
    }
    let is_loaded = |address| kernel.segments.iter().any(|segment| segment.range().contains(&address));
    if !is_loaded(kernel.entry) {
        return refuse(format!("the entry {:#x} lies in no segment", kernel.entry));
    }
    if let Some(page) = hypercall_page.filter(|page| !page.is_multiple_of(PAGE_SIZE) || !is_loaded(*page)) {
        return refuse(format!("the hypercall page {page:#x} is no page of the kernel"));
    }
    match p2m_address {
        Some(address) if image.contains(&address) => refuse(format!("INIT_P2M {address:#x} lies inside the kernel")),
        Some(address) if (LOWER_END..KERNEL_START).contains(&address) => {
            refuse(format!("INIT_P2M {address:#x} is an address of the hypervisor, or one that does not exist"))
        }
        _ => Ok(()),
    }
}
