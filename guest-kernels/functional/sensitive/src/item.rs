//! What is known of one instruction: how it is executed, what may come of it, and what a kernel uses
//! instead.

use alloc::string::String;

use crate::bare::{Outcome, Snippet, Values};
use crate::{modern, robin, words};

/// The eighteen instructions of Robin and Irvine, "Analysis of the Intel Pentium's Ability to Support
/// a Secure Virtual Machine Monitor" (2000), as printed there.
pub const ROBIN: [&str; 18] = [
    "SGDT", "SIDT", "SLDT", "SMSW", "PUSHF", "POPF", "LAR", "LSL", "VERR", "VERW", "POP", "PUSH", "CALL", "JMP", "INT",
    "RET", "STR", "MOV",
];

/// What long mode and later processors added.
pub const MODERN: [&str; 25] = [
    "CPUID",
    "RDTSC",
    "RDPID",
    "RDPMC",
    "RDPRU",
    "UMWAIT",
    "XGETBV",
    "RDPKRU",
    "FSGSBASE",
    "privileged",
    "SYSCALL",
    "SYSRET",
    "SYSENTER",
    "IRET",
    "debug traps",
    "EFLAGS.AC",
    "null selector",
    "cache control",
    "RDRAND",
    "TSX",
    "unmanaged features",
    "LA57",
    "segment limits",
    "ring collapse",
    "counting thread",
];

/// Every item, in the order of the lists.
pub const ITEMS: [&[Item]; 2] = [robin::ITEMS, modern::ITEMS];

/// What an instruction is in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The guest's kernel gets an exception: nothing is seen, nothing done.
    Traps,
    /// This machine does not have it, or the hypervisor leaves it off: invalid opcode.
    Absent,
    /// It runs and gives the same on every CPU and in every VM.
    Constant,
    /// It runs on state of the guest's own, which is switched with its vCPUs.
    Own,
    /// It runs, and what it asks for does not happen.
    NoEffect,
    /// It shows something of the machine; the text says what closes it.
    Leaks(&'static str),
    /// Not what is known of it: the test fails.
    Unexpected,
}

/// How an item is looked at.
#[derive(Clone, Copy)]
pub enum Probe {
    /// Executed in both modes.
    Bare(fn() -> Snippet),
    /// No instruction, or none that can be executed here: what shows it, in words.
    Shown(fn() -> Result<String, &'static str>),
}

/// One line of the table.
#[derive(Clone, Copy)]
pub struct Item {
    /// Its row in [`ROBIN`] or [`MODERN`].
    pub row: &'static str,
    /// What is executed.
    pub instruction: &'static str,
    /// Which requirement on a virtualizable machine it breaks.
    pub breaks: &'static str,
    /// How it is looked at.
    pub probe: Probe,
    /// Exceptions that are right.
    pub faults: &'static [u8],
    /// What it is when it runs.
    pub runs: Verdict,
    /// Whether what it leaves is right.
    pub holds: fn(&Values) -> bool,
    /// What it leaves, in words.
    pub show: fn(&Values) -> String,
    /// What a kernel uses instead.
    pub instead: &'static str,
    /// What that says.
    pub by_abi: fn() -> String,
}

/// General protection.
const GP: u8 = 13;
/// Invalid opcode.
const UD: u8 = 6;

impl Item {
    /// An instruction that faults with general protection, until more is said.
    pub(crate) const fn new(
        row: &'static str,
        instruction: &'static str,
        breaks: &'static str,
        code: fn() -> Snippet,
    ) -> Item {
        Item {
            row,
            instruction,
            breaks,
            probe: Probe::Bare(code),
            faults: &[GP],
            runs: Verdict::Unexpected,
            holds: |_| true,
            show: words::ran,
            instead: "nothing: not needed",
            by_abi: words::none,
        }
    }

    /// Something that is no instruction.
    pub(crate) const fn shown(
        row: &'static str,
        what: &'static str,
        breaks: &'static str,
        verdict: Verdict,
        how: fn() -> Result<String, &'static str>,
    ) -> Item {
        let mut item = Item::new(row, what, breaks, Snippet::empty);
        item.probe = Probe::Shown(how);
        item.runs = verdict;
        item
    }

    /// Which exceptions are right.
    pub(crate) const fn faults(mut self, vectors: &'static [u8]) -> Item {
        self.faults = vectors;
        self
    }

    /// What it is when it runs, what it leaves, and whether that is right.
    pub(crate) const fn runs(
        mut self,
        verdict: Verdict,
        show: fn(&Values) -> String,
        holds: fn(&Values) -> bool,
    ) -> Item {
        self.runs = verdict;
        self.show = show;
        self.holds = holds;
        self
    }

    /// What a kernel uses instead, and what that says here.
    pub(crate) const fn instead(mut self, what: &'static str, by_abi: fn() -> String) -> Item {
        self.instead = what;
        self.by_abi = by_abi;
        self
    }

    /// What an outcome means.
    #[must_use]
    pub fn judge(&self, outcome: &Outcome) -> Verdict {
        match outcome {
            Outcome::Ran(values) if (self.holds)(values) => self.runs,
            Outcome::Fault { vector, .. } if self.faults.contains(vector) => {
                if *vector == UD {
                    Verdict::Absent
                } else {
                    Verdict::Traps
                }
            }
            Outcome::Call if self.row == "SYSCALL" => self.runs,
            _ => Verdict::Unexpected,
        }
    }
}

/// The number of an item: its list, its row in it, and its place when the row has several.
#[must_use]
pub fn number(list: usize, at: usize) -> Option<String> {
    let (items, rows): (&[Item], &[&str]) = match list {
        0 => (ITEMS[0], &ROBIN),
        _ => (ITEMS[1], &MODERN),
    };
    let item = items.get(at)?;
    let row = rows.iter().position(|row| *row == item.row)?;
    let siblings = items.iter().filter(|other| other.row == item.row).count();
    let before = items.iter().take(at).filter(|other| other.row == item.row).count();
    let more = if siblings == 1 { String::new() } else { alloc::format!(".{}", before + 1) };
    Some(alloc::format!("A{}.{:02}{more}", list + 2, row + 1))
}

#[cfg(test)]
mod tests {
    use super::{ITEMS, MODERN, ROBIN, number};

    #[test]
    fn every_row_of_both_lists_has_an_item_and_every_item_a_row() {
        assert_eq!((ROBIN.len(), MODERN.len()), (18, 25));
        for (items, rows) in ITEMS.into_iter().zip([&ROBIN[..], &MODERN[..]]) {
            for row in rows {
                assert!(items.iter().any(|item| item.row == *row), "no item for {row}");
            }
            let order: Vec<_> = items.iter().map(|item| rows.iter().position(|row| *row == item.row)).collect();
            assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?}");
        }
    }

    #[test]
    fn numbers_are_unique() {
        let mut numbers: Vec<_> =
            (0..2).flat_map(|list| (0..ITEMS[list].len()).map(move |at| number(list, at).unwrap())).collect();
        let all = numbers.len();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
        assert_eq!(number(0, 0).unwrap(), "A2.01");
    }

    #[test]
    fn the_porting_guide_names_every_instruction_and_what_stands_for_it() {
        let table: Vec<&str> = PORTING.lines().filter(|line| line.starts_with("| `")).collect();
        let first_column = table.iter().filter_map(|line| line.split(" | ").next());
        let named: Vec<&str> = first_column.flat_map(|cell| cell.split(|c: char| !c.is_alphanumeric())).collect();
        for item in ITEMS.into_iter().flatten() {
            let words = item.instruction.split(' ');
            for mnemonic in words.take_while(|word| word.len() > 1 && word.chars().all(|c| !c.is_lowercase())) {
                assert!(named.contains(&mnemonic), "docs/porting.md has no row for `{mnemonic}`");
            }
            for path in item.instead.split([' ', ',']).filter(|word| word.contains("::")) {
                assert!(table.iter().any(|line| line.contains(path)), "docs/porting.md does not name `{path}`");
            }
        }
    }

    const PORTING: &str = include_str!("../../../../docs/porting.md");
}
