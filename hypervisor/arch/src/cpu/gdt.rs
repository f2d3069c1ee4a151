//! The segments and the task state of one CPU.
//!
//! Ring 0 has code 0x08 and data 0x10, both of DPL 0; ring 3 has data 0x20 and 64-bit code 0x28, and
//! nothing else: there is no 32-bit code segment and no call gate that a guest could load. The
//! table is the same on all CPUs but for the task state's address, which ring 3 cannot read.
#![expect(unsafe_code, reason = "loading descriptor tables has no safe form")]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_core::addr::convert::wide;

/// Code selector of ring 0.
pub const RING0_CODE: u16 = 0x08;
/// Data selector of ring 0.
pub const RING0_DATA: u16 = 0x10;
/// Selector of the task state.
pub const TASK_STATE: u16 = 0x30;

/// Entries of the table.
pub const ENTRIES: usize = 8;
/// Words of a task state without an I/O permission map.
pub const TASK_STATE_WORDS: usize = 26;
/// Limit of the task state: its last byte.
const TASK_STATE_LIMIT: u64 = 103;
/// Offset of the I/O permission map, in the upper half of the last word: beyond the limit, so every
/// port is forbidden to ring 3.
const NO_PORT_MAP: u32 = 0x0068_0000;

/// Present, DPL 0, code, 64-bit; accessed, so that the CPU never writes it.
const CODE_ENTRY: u64 = 0x0020_9b00_0000_0000;
/// Present, DPL 0, data, writable, accessed.
const DATA_ENTRY: u64 = 0x0000_9300_0000_0000;
/// DPL 3.
const RING3: u64 = 0b11 << 45;

/// The stacks that the CPU itself switches to: addresses of their tops, 16-byte aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stacks {
    /// For traps from ring 3.
    pub ring0: u64,
    /// Interrupt stacks 1 to 4.
    pub interrupt: [u64; 4],
}

/// The tables of one CPU. The CPU writes the task state's busy bit, so entries are atomics.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Segments {
    task_state: [AtomicU32; TASK_STATE_WORDS],
    table: [AtomicU64; ENTRIES],
}

impl Default for Segments {
    fn default() -> Segments {
        Segments::new()
    }
}

impl Segments {
    /// Empty tables.
    #[must_use]
    pub const fn new() -> Segments {
        Segments {
            task_state: [const { AtomicU32::new(0) }; TASK_STATE_WORDS],
            table: [const { AtomicU64::new(0) }; ENTRIES],
        }
    }

    /// Fills the tables and loads them on this CPU, with all segment registers.
    /// The bases of FS and GS are 0 afterwards.
    ///
    /// # Safety
    /// 1. No other CPU uses these tables, and they stay mapped where they are.
    /// 2. The stacks are mapped, writable, used for nothing else, and of this CPU only.
    /// 3. Nothing relies on GS until it is set again.
    pub unsafe fn load(&'static self, stacks: &Stacks) {
        for (slot, word) in self.task_state.iter().zip(task_state(stacks)) {
            slot.store(word, Ordering::Relaxed);
        }
        let entries = table(wide(self.task_state.as_ptr().addr()));
        for (slot, entry) in self.table.iter().zip(entries) {
            slot.store(entry, Ordering::Relaxed);
        }
        let pointer = TablePointer { limit: 63, base: wide(self.table.as_ptr().addr()) };
        // SAFETY: the table was just filled with valid entries and lives forever by (1). The code
        // and stack selectors name flat ring-0 segments in it; the return goes to the next line. The
        // task state is not busy, because its entry was just written.
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

/// What `lgdt` and `lidt` take.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, packed(2))]
pub(crate) struct TablePointer {
    pub(crate) limit: u16,
    pub(crate) base: u64,
}

/// The words of a task state (Intel SDM volume 3, 7.7): stack pointers and the port map's offset.
fn task_state(stacks: &Stacks) -> [u32; TASK_STATE_WORDS] {
    let [first, second, third, fourth] = stacks.interrupt.map(halves);
    let ring0 = halves(stacks.ring0);
    let mut words = [0; TASK_STATE_WORDS];
    let pairs = [(1, ring0), (9, first), (11, second), (13, third), (15, fourth)];
    for (at, pair) in pairs {
        for (word, half) in words.iter_mut().skip(at).zip(pair) {
            *word = half;
        }
    }
    if let Some(last) = words.last_mut() {
        *last = NO_PORT_MAP;
    }
    words
}

/// Lower and upper half.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// The table for a task state at an address.
pub(super) fn table(task_state: u64) -> [u64; ENTRIES] {
    let low =
        TASK_STATE_LIMIT | ((task_state & 0x00ff_ffff) << 16) | (0x89 << 40) | (((task_state >> 24) & 0xff) << 56);
    [0, CODE_ENTRY, DATA_ENTRY, 0, DATA_ENTRY | RING3, CODE_ENTRY | RING3, low, task_state >> 32]
}

#[cfg(test)]
mod tests {
    use super::{Stacks, TASK_STATE_WORDS, table, task_state};

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
    fn stacks_lie_where_the_processor_looks_for_them() {
        let stacks = Stacks {
            ring0: 0x1111_2222_3333_4440,
            interrupt: [0xa_0000_0010, 0xb_0000_0020, 0xc_0000_0030, 0xd_0000_0040],
        };
        let words = task_state(&stacks);
        let at = |byte: usize| u64::from(words[byte / 4]) | (u64::from(words[byte / 4 + 1]) << 32);
        assert_eq!(at(4), stacks.ring0);
        for (index, stack) in stacks.interrupt.iter().enumerate() {
            assert_eq!(at(36 + 8 * index), *stack);
        }
        assert_eq!(words[TASK_STATE_WORDS - 1] >> 16, 104);
    }
}
