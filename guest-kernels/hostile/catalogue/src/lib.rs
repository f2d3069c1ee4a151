//! The attacks of the hostile guests, one row each: what is done and what must happen. The guests, the
//! test that counts and `docs/security/attacks.md` all take it from here.
//!
//! The ids are those of the attack catalogue that the project started from: PT page tables, TL
//! translations, RC reference counts, EX entry and exceptions, DS descriptors, IO ports and registers,
//! FP floating point, HC hypercalls, PR preemption, EV events, GR grants, MM memory, LC life cycle, EM
//! emulation, SP speculation, PO policy.
#![no_std]

mod advisories;
mod rows;
mod xen;

pub use advisories::ADVISORIES;
pub use rows::ROWS;
pub use xen::XEN_ROWS;

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
    /// `hostile-xen`: what a kernel of Xen's ABI tries, in a table of its own.
    Xen,
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

/// What there is here of a kind of mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// Attacks that must be withstood.
    Tested,
    /// The design has nothing where it could be made.
    Absent,
    /// What it was made in is not built; when it is, it needs rows.
    NotThere,
    /// Nothing shows that it is not here.
    Open,
}

/// Advisories about one kind of mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advisory {
    /// Their numbers.
    pub numbers: &'static [u16],
    /// The mistake.
    pub class: &'static str,
    /// What there is of it in the native interface.
    pub here: Here,
    /// The rows that test it, or that say why it cannot be.
    pub rows: &'static [&'static str],
    /// What else is to be said.
    pub why: &'static str,
    /// Whether the Xen personality can have it as well, and needs tests of its own.
    pub in_xen_personality: bool,
}

#[cfg(test)]
mod tests {
    use super::{ADVISORIES, Group, Here, ROWS, XEN_ROWS};

    #[test]
    fn each_advisory_stands_once_and_names_rows_that_exist() {
        let mut seen = [false; 1024];
        for advisory in ADVISORIES {
            for number in advisory.numbers {
                let slot = &mut seen[usize::from(*number)];
                assert!(!*slot, "XSA-{number}");
                *slot = true;
            }
            let rows = advisory.rows.iter().map(|id| ROWS.iter().find(|row| row.id == *id));
            assert!(rows.clone().all(|row| row.is_some()), "{:?}", advisory.rows);
            let runs = rows.flatten().any(|row| row.group != Group::Absent);
            assert!(runs || advisory.here != Here::Tested, "{}: no attack of it runs", advisory.class);
            assert!(runs || !advisory.why.is_empty() || advisory.here == Here::Open, "{}: why?", advisory.class);
        }
    }

    #[test]
    fn each_id_stands_once_in_its_table() {
        for rows in [ROWS, XEN_ROWS] {
            for (index, row) in rows.iter().enumerate() {
                assert!(rows.iter().skip(index + 1).all(|other| other.id != row.id), "{}", row.id);
                assert!(!row.attack.is_empty() && !row.must.is_empty(), "{}", row.id);
                assert_eq!(row.group == Group::Xen, rows == XEN_ROWS, "{}", row.id);
            }
        }
    }
}
