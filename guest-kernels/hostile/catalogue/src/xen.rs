//! What a kernel of Xen's ABI tries. Its page tables are the processor's, so more can be tried than by native guests,
//! under the same ids.

use super::{Group, Row};

const fn row(id: &'static str, attack: &'static str, must: &'static str) -> Row {
    Row { id, group: Group::Xen, attack, must }
}

/// Every row.
pub const XEN_ROWS: &[Row] = &[
    row("DS-01", "every selector is loaded, with a short table of its own", "own entries and the three flat ones load"),
    row(
        "DS-02",
        "all types, levels and sizes of descriptors",
        "gates, task states and local tables are refused; ring 3",
    ),
    row("DS-03", "a table of descriptors that is also shown for writing, before and after", "refused"),
    row("DS-04", "tables of 0 to 2^32 entries, local tables", "at most 7168 entries; no local table"),
    row("EX-01", "a call in the last two bytes below the hole; returns to every border", "a fault in the guest"),
    row("EX-02", "an exception without a handler", "a report; nobody else notices"),
    row("EX-03", "all flags before calls and traps", "calls work, frames hold harmless flags"),
    row("EX-05", "stacks in the hypervisor, in page tables, in the hole, nowhere", "a report; nobody else notices"),
    row("EX-06", "each flag in the frame of a return", "interrupts on, no I/O privilege, no virtual mode"),
    row("EX-17", "a return with every code and every stack selector", "only the flat ones are taken"),
    row("EX-18", "a page fault with an empty trap table", "a report; nobody else notices"),
    row(
        "EX-19",
        "every call from user mode; a return in a batch; a return to user mode without a root",
        "its kernel gets the calls; the batch ends; a report",
    ),
    row("EX-21", "the same value in every register of each call", "an error, registers kept"),
    row("EX-22", "all software interrupts and instructions that nobody needs", "an exception in the guest"),
    row("HC-01", "buffers in the hypervisor's range, over its ends, at no address", "refused"),
    row("HC-03", "numbers of vCPUs, ports, registers, services one below and above what there is", "refused"),
    row("HC-04", "lists of up to 2^64 elements, orders up to 2^32", "bounded, refused"),
    row("IO-01", "thousands of model-specific registers read and written", "answered or a fault in the guest"),
    row(
        "IO-04",
        "ports read and written in each width, with and without privilege",
        "a fault in the guest, or nothing",
    ),
    row("IO-05", "each bit of the control registers", "a fault in the guest, or nothing"),
    row("PT-01", "large pages over any frame, at each level, by each call", "refused, the old entry stays"),
    row("PT-02", "each bit of an entry that shows a page table, by each call and by stores", "never for writing"),
    row("PT-03", "tables that lead to themselves", "refused but for a page to read"),
    row("PT-04", "tables of one level behind each other", "refused"),
    row(
        "PT-05",
        "a tree in which each table is in all entries of the one above",
        "pinned and unpinned in bounded steps",
    ),
    row(
        "PT-06",
        "a tree is validated while another vCPU pins, unpins and changes its parts",
        "all frames agree at the end",
    ),
    row("PT-07", "the VM dies while its tables are validated and taken apart", "a report; all frames come back"),
    row("PT-08", "pins that fail at the first, a middle and the last entry", "no reference is left behind"),
    row("PT-10", "entries that are not present and name memory", "refused"),
    row("PT-11", "every bit and pair of bits of entries at each level", "only what may be is stored"),
    row("PT-12", "frame numbers that are none, in each call that takes one", "refused"),
    row("PT-13", "every frame of the machine", "its own can be shown and are listed, no others"),
    row("PT-14", "memory that is not cached as usual", "refused"),
    row("PT-15", "stores over the ends of tables, misaligned lists and descriptors", "refused"),
    row("PT-16", "two vCPUs give one frame different types", "one at a time"),
    row("PT-17", "two vCPUs unpin one table", "one of them does"),
    row("PT-18", "calls in the names of others", "refused"),
    row(
        "PT-19",
        "entries of a root that are the hypervisor's, and tables that these lead to",
        "refused, in every root",
    ),
    row("PT-20", "forged entries in memory that becomes a table because another one leads to it", "refused"),
    row("PT-21", "addresses that are none, or the hypervisor's, in each call that takes one", "refused or nothing"),
    row("PT-23", "user mode reads and writes pages of its kernel and of the hypervisor", "a page fault for its kernel"),
    row("PT-24", "pages shown to all address spaces", "the bit is dropped"),
    row("PT-25", "frames are released that are shown, pinned, descriptors, roots, the VM's own pages", "they stay"),
    row("PT-26", "the root in use loses its pin, and is to be written", "refused while it is in use"),
    row("RC-02", "errors of many calls, many times", "no reference is left behind"),
    row("RC-05", "a frame is released and taken while another vCPU shows and pins it", "all frames agree at the end"),
    row("RC-07", "two vCPUs let one tree go", "all frames agree at the end"),
    row(
        "TL-01",
        "a frame becomes a page table while another vCPU writes to it by what it remembers",
        "no write arrives",
    ),
    row("TL-02", "a frame is each type in turn, with translations left of the one before", "no write arrives"),
    row(
        "TL-05",
        "a change by address, of the table above, by the same address, in one batch",
        "each reaches its table",
    ),
    row("TL-06", "roots are changed", "pages of the other root are not there"),
    row(
        "TL-07",
        "frames are released while the CPU knows them for writing, then taken again",
        "no write arrives, all is zero",
    ),
    row("TL-09", "the root that another vCPU uses is unpinned, released, to be written", "refused while it is in use"),
    row("TL-10", "a vCPU spins with events masked while all must forget", "they do"),
];
