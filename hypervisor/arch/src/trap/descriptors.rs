//! The interrupt descriptor table: one gate a vector, built as plain data.

/// One gate (Intel SDM volume 3, 6.14.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Gate {
    low: u64,
    high: u64,
}

/// Type of a 64-bit interrupt gate, which turns interrupts off; and the present bit.
const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;

impl Gate {
    /// A gate to `handler` in the segment `code`; `stack` 1 to 7 names an interrupt stack, 0 none; `ring` is
    /// the lowest privilege that may use it by `int`.
    pub(crate) fn new(handler: u64, code: u16, stack: u64, ring: u64) -> Gate {
        let low = (handler & 0xffff)
            | (u64::from(code) << 16)
            | ((stack & 7) << 32)
            | PRESENT_INTERRUPT_GATE
            | ((ring & 3) << 45)
            | (((handler >> 16) & 0xffff) << 48);
        Gate { low, high: handler >> 32 }
    }

    /// Who may use the gate by an `int` instruction.
    pub(crate) const fn ring(&self) -> u64 {
        (self.low >> 45) & 3
    }
}

/// The interrupt stack of a vector, 0 for the ordinary one: debug exceptions, which can come in the
/// first instructions of an entry (CVE-2018-8897), non-maskable interrupts, double faults and machine
/// checks.
pub(super) const fn stack_of(vector: u8) -> u64 {
    match vector {
        1 => 1,
        2 => 2,
        8 => 3,
        18 => 4,
        _ => 0,
    }
}

/// Which ring may raise a vector by `int`: ring 3 only the breakpoint.
pub(super) const fn ring_of(vector: u8) -> u64 {
    if vector == 3 { 3 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{Gate, ring_of, stack_of};

    #[test]
    fn a_gate_keeps_its_handler_and_ring() {
        let gate = Gate::new(0xffff_82d0_8012_3456, 8, 3, 3);
        let handler = (gate.low & 0xffff) | ((gate.low >> 48) << 16) | (gate.high << 32);
        assert_eq!(handler, 0xffff_82d0_8012_3456);
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
        let with_stack: Vec<u8> = (0..=255).filter(|vector| stack_of(*vector) != 0).collect();
        assert_eq!(with_stack, [1, 2, 8, 18]);
    }
}
