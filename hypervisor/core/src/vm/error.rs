//! Why a system image is refused or a VM cannot be built.

use core::fmt;

/// What a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The whole system.
    System,
    /// A VM, by its number.
    Vm(u32),
    /// A channel, by its position in the manifest.
    Channel(u32),
}

/// A rule that is broken, told by the sentence that stands where it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    subject: Subject,
    /// Each `#` stands for a number, and each `@` for one that is shown in hexadecimal.
    sentence: &'static str,
    numbers: [u64; 4],
}

impl Problem {
    /// A problem of the system, with the numbers of its sentence.
    pub(super) fn new(sentence: &'static str, given: &[u64]) -> Problem {
        let mut numbers = [0; 4];
        numbers.iter_mut().zip(given).for_each(|(slot, number)| *slot = *number);
        Problem { subject: Subject::System, sentence, numbers }
    }

    /// The same of something else.
    pub(super) const fn of(self, subject: Subject) -> Problem {
        Problem { subject, ..self }
    }
}

/// Refuses when a rule does not hold.
///
/// # Errors
/// The rule's sentence, with its numbers.
#[expect(clippy::fn_params_excessive_bools, reason = "whether the rule holds is all there is to say of it")]
pub(super) fn ensure(holds: bool, sentence: &'static str, numbers: &[u64]) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(Problem::new(sentence, numbers)) }
}

/// Checks a number; `sentence` tells it and the two bounds.
///
/// # Errors
/// That it is outside.
pub(super) fn within(sentence: &'static str, found: u64, least: u64, most: u64) -> Result<(), Problem> {
    ensure((least..=most).contains(&found), sentence, &[found, least, most])
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject {
            Subject::System => {}
            Subject::Vm(vm) => write!(f, "VM {vm}: ")?,
            Subject::Channel(channel) => write!(f, "channel {channel}: ")?,
        }
        let mut numbers = self.numbers.iter();
        for part in self.sentence.split_inclusive(['#', '@']) {
            f.write_str(part.trim_end_matches(['#', '@']))?;
            match part.chars().next_back() {
                Some('#') => write!(f, "{}", numbers.next().unwrap_or(&0))?,
                Some('@') => write!(f, "{:#x}", numbers.next().unwrap_or(&0))?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl core::error::Error for Problem {}
