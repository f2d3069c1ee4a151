//! The segments of all CPUs and the task state of each.
//!
//! Ring 0 has code 0x08 and data 0x10, both of DPL 0; ring 3 has data 0x20 and 64-bit code 0x28, and
//! nothing else: there is no 32-bit code segment and no call gate that a guest could load.
//!
//! There is one table, and one task-state entry in it: a CPU reads that entry only when it loads its
//! task register (Intel SDM volume 2, LTR), so each CPU writes its own there, loads it, and leaves the
//! entry to the next. So SGDT and STR, which ring 3 can execute on CPUs without UMIP, tell the same
//! on every CPU.
#![expect(unsafe_code, reason = "loading descriptor tables has no safe form")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_core::addr::convert::wide;
use spin::Once;
use x86::bits64::task::TaskStateSegment;
use x86::dtables::DescriptorTablePointer;

/// Selectors of ring 0's code and data, and of the task state.
pub(crate) const RING0_CODE: u16 = 0x08;
const RING0_DATA: u16 = 0x10;
const TASK_STATE: u16 = 0x30;

/// Entries of the table.
pub(crate) const ENTRIES: usize = 8;
/// Limit of the task state: its last byte. The I/O permission map begins behind it, so every port is
/// forbidden to ring 3.
const TASK_STATE_LIMIT: u16 = 103;

/// Present, DPL 0, code, 64-bit; accessed, so that the CPU never writes it.
const CODE_ENTRY: u64 = 0x0020_9b00_0000_0000;
/// Present, DPL 0, data, writable, accessed.
const DATA_ENTRY: u64 = 0x0000_9300_0000_0000;
/// DPL 3.
const RING3: u64 = 0b11 << 45;

/// The table. The CPU writes the task state's busy bit, so entries are atomics.
#[repr(C, align(64))]
struct Table([AtomicU64; ENTRIES]);

static TABLE: Table = Table([const { AtomicU64::new(0) }; ENTRIES]);

/// The task state of one CPU.
#[derive(Debug)]
pub(crate) struct TaskState(Once<TaskStateSegment>);

impl TaskState {
    /// Nothing yet.
    pub(crate) const fn new() -> TaskState {
        TaskState(Once::new())
    }

    /// Loads the table and this task state on this CPU, with all segment registers, and no local
    /// table: after a reset its register shows 64 KiB at address 0, where a guest could lay gates into
    /// ring 0 (Intel SDM volume 3, table 9-1). The stacks are those that the CPU itself switches to: for traps from ring 3, and interrupt stacks 1 to 4.
    /// The bases of FS and GS are 0 afterwards.
    ///
    /// # Safety
    /// 1. No other CPU uses this task state, nor loads one meanwhile; it stays mapped where it is.
    /// 2. The stacks are mapped, writable, used for nothing else, and of this CPU only.
    /// 3. Nothing relies on GS until it is set again.
    pub(crate) unsafe fn load(&'static self, ring0: u64, interrupt: [u64; 4]) {
        let [first, second, third, fourth] = interrupt;
        let task_state = self.0.call_once(|| TaskStateSegment {
            rsp: [ring0, 0, 0],
            ist: [first, second, third, fourth, 0, 0, 0],
            iomap_base: TASK_STATE_LIMIT.wrapping_add(1),
            ..TaskStateSegment::new()
        });
        // CPUs that use the table already find what was there, but for the entry of the task state.
        for (slot, entry) in TABLE.0.iter().zip(table(wide(core::ptr::from_ref(task_state).addr()))) {
            slot.store(entry, Ordering::Relaxed);
        }
        let pointer = DescriptorTablePointer::new(&TABLE.0);
        // SAFETY: the table was just filled with valid entries and is static. The code and stack
        // selectors name flat ring-0 segments in it; the return goes to the next line. The task state
        // is not busy, because its entry was just written and by (1) nobody else has loaded it.
        unsafe {
            asm!(
                "lgdt [{pointer}]",
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov ss, {data:e}",
                "mov ds, {null:e}",
                "mov es, {null:e}",
                "mov fs, {null:e}",
                "mov gs, {null:e}",
                "lldt {null:x}",
                "ltr {task:x}",
                pointer = in(reg) &raw const pointer,
                code = const RING0_CODE,
                scratch = out(reg) _,
                data = in(reg) u32::from(RING0_DATA),
                null = in(reg) 0_u32,
                task = in(reg) TASK_STATE,
            );
        }
    }
}

/// Puts a table and gates in force, with the selectors of ring 0's code and stack in it.
///
/// # Safety
/// The table stays mapped, and the selectors name flat ring-0 segments in it, which the gates use too.
#[cfg(feature = "xen")]
pub(super) unsafe fn switch(
    table: &DescriptorTablePointer<u64>,
    gates: &'static [crate::trap::descriptors::Gate; 256],
    [code, data]: [u16; 2],
) {
    let gates = DescriptorTablePointer::new(gates);
    // SAFETY: by the caller's promise the code selector leads to the next line, and traps of ring 0 come back
    // by these selectors; interrupts are off.
    unsafe {
        asm!(
            "lgdt [{table}]",
            "lidt [{gates}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ss, {data:e}",
            table = in(reg) table,
            gates = in(reg) &raw const gates,
            code = in(reg) u64::from(code),
            scratch = out(reg) _,
            data = in(reg) u32::from(data),
        );
    }
}

/// Puts the native table in force again.
#[cfg(feature = "xen")]
pub(super) fn load_native() {
    let entries = u16::try_from(size_of::<Table>().wrapping_sub(1)).unwrap_or(0);
    let pointer = DescriptorTablePointer::<u64> { limit: entries, base: TABLE.0.as_ptr().cast() };
    // SAFETY: the table is static, and its entries of ring 0 never change.
    unsafe { switch(&pointer, crate::trap::native_gates(), [RING0_CODE, RING0_DATA]) };
    // SAFETY: the selectors are those of the native table.
    unsafe { super::write_msr(x86::msr::IA32_STAR, super::control::STAR) };
    // SAFETY: the null local table has no entry.
    unsafe { asm!("lldt {:x}", in(reg) 0_u32, options(nostack, preserves_flags)) };
}

/// The table for a task state at an address.
pub(super) fn table(task_state: u64) -> [u64; ENTRIES] {
    let low = u64::from(TASK_STATE_LIMIT)
        | ((task_state & 0x00ff_ffff) << 16)
        | (0x89 << 40)
        | (((task_state >> 24) & 0xff) << 56);
    [0, CODE_ENTRY, DATA_ENTRY, 0, DATA_ENTRY | RING3, CODE_ENTRY | RING3, low, task_state >> 32]
}

#[cfg(test)]
mod tests {
    use super::{TASK_STATE_LIMIT, TaskStateSegment, table};

    #[test]
    fn descriptors_are_those_of_the_manual() {
        let address = 0xffff_82d0_8123_4580;
        let entries = table(address);
        assert_eq!(entries[1], 0x0020_9b00_0000_0000);
        assert_eq!(entries[2], 0x0000_9300_0000_0000);
        assert_eq!(entries[3], 0);
        assert_eq!(entries[4], 0x0000_f300_0000_0000);
        assert_eq!(entries[5], 0x0020_fb00_0000_0000);
        let base = ((entries[6] >> 16) & 0xff_ffff) | ((entries[6] >> 56) << 24) | (entries[7] << 32);
        assert_eq!(base, address);
        assert_eq!(entries[6] & 0xffff, 103);
        assert_eq!((entries[6] >> 40) & 0xff, 0x89);
    }

    #[test]
    fn the_task_state_is_laid_out_as_the_processor_reads_it() {
        assert_eq!(core::mem::offset_of!(TaskStateSegment, rsp), 4);
        assert_eq!(core::mem::offset_of!(TaskStateSegment, ist), 36);
        assert_eq!(core::mem::offset_of!(TaskStateSegment, iomap_base), 102);
        assert_eq!(size_of::<TaskStateSegment>(), usize::from(TASK_STATE_LIMIT) + 1);
    }
}
