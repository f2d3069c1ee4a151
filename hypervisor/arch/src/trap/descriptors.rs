//! The interrupt descriptor table: one gate a vector, built as plain data.

/// One gate (Intel SDM volume 3, 6.14.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Gate {
    low: u64,
    high: u64,
}

/// Code selector of ring 0.
const RING0_CODE: u64 = 0x08;
/// Type of a 64-bit interrupt gate, which turns interrupts off; and the present bit.
const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;

impl Gate {
    /// No gate: its vector faults.
    pub const EMPTY: Gate = Gate { low: 0, high: 0 };

    /// A gate to `handler`; `stack` 1 to 7 names an interrupt stack, 0 none; `ring` is the lowest
    /// privilege that may use it by `int`.
    #[must_use]
    pub const fn new(handler: u64, stack: u64, ring: u64) -> Gate {
        let low = (handler & 0xffff)
            | (RING0_CODE << 16)
            | ((stack & 7) << 32)
            | PRESENT_INTERRUPT_GATE
            | ((ring & 3) << 45)
            | (((handler >> 16) & 0xffff) << 48);
        Gate { low, high: handler >> 32 }
    }

    /// Who may use the gate by an `int` instruction.
    #[must_use]
    pub const fn ring(&self) -> u64 {
        (self.low >> 45) & 3
    }

    /// Where the gate leads.
    #[must_use]
    pub const fn handler(&self) -> u64 {
        (self.low & 0xffff) | ((self.low >> 48) << 16) | (self.high << 32)
    }
}

/// The interrupt stacks of the task-state segment, by what uses them.
pub mod stack {
    /// Debug exceptions: they can come in the first instructions of an entry (CVE-2018-8897).
    pub const DEBUG: u64 = 1;
    /// Non-maskable interrupts.
    pub const NMI: u64 = 2;
    /// Double faults.
    pub const DOUBLE_FAULT: u64 = 3;
    /// Machine checks.
    pub const MACHINE_CHECK: u64 = 4;

    /// The stack of a vector, 0 for the ordinary one.
    #[must_use]
    pub const fn of(vector: u8) -> u64 {
        match vector {
            1 => DEBUG,
            2 => NMI,
            8 => DOUBLE_FAULT,
            18 => MACHINE_CHECK,
            _ => 0,
        }
    }
}

/// Which ring may raise a vector by `int`: ring 3 only the breakpoint.
#[must_use]
pub const fn ring_of(vector: u8) -> u64 {
    if vector == 3 { 3 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{Gate, ring_of, stack};

    #[test]
    fn a_gate_keeps_its_handler_and_ring() {
        let gate = Gate::new(0xffff_82d0_8012_3456, 3, 3);
        assert_eq!(gate.handler(), 0xffff_82d0_8012_3456);
        assert_eq!(gate.ring(), 3);
        assert_eq!(gate.low & 0xff_ffff_0000_0000 & (0xff << 40), 0xee << 40);
        assert_eq!((gate.low >> 32) & 7, 3);
    }

    #[test]
    fn only_the_breakpoint_can_be_raised_from_ring_3() {
        for vector in 0..=255 {
            assert_eq!(ring_of(vector) == 3, vector == 3);
        }
    }

    #[test]
    fn the_four_vectors_that_can_hit_an_entry_have_stacks_of_their_own() {
        let with_stack: Vec<u8> = (0..=255).filter(|vector| stack::of(*vector) != 0).collect();
        assert_eq!(with_stack, [1, 2, 8, 18]);
    }
}
