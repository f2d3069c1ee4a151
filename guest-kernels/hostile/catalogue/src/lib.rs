//! The attacks of the hostile guests, one row each: what is done and what must happen. The guests, the
//! test that counts and `docs/security/attacks.md` all take it from here.
//!
//! The ids are those of the attack catalogue that the project started from: PT page tables, TL
//! translations, RC reference counts, EX entry and exceptions, DS descriptors, IO ports and registers,
//! FP floating point, HC hypercalls, PR preemption, EV events, GR grants, MM memory, LC life cycle, EM
//! emulation, SP speculation, PO policy.
#![no_std]

mod rows;

pub use rows::ROWS;

/// Which guest runs the attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// `hostile-memory`: page tables, frames, translations, counts.
    Memory,
    /// `hostile-entry`: exceptions, registers, instructions.
    Entry,
    /// `hostile-calls`: arguments, buffers, events, scheduling.
    Calls,
    /// `hostile-sharing`: grants, channels, policy, life cycle.
    Sharing,
    /// None: what is attacked does not exist here.
    Absent,
}

/// One attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: &'static str,
    /// Where it runs.
    pub group: Group,
    /// What is done.
    pub attack: &'static str,
    /// What must happen; for one that is absent, why it is.
    pub must: &'static str,
}

#[cfg(test)]
mod tests {
    use super::ROWS;

    #[test]
    fn each_id_stands_once() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(ROWS.iter().skip(index + 1).all(|other| other.id != row.id), "{}", row.id);
            assert!(!row.attack.is_empty() && !row.must.is_empty(), "{}", row.id);
        }
    }
}
