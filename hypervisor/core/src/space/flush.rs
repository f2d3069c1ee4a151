//! Translations that CPUs may still hold although the tables no longer say so.
//!
//! A change of tables returns what it owes. The debt is paid with [`super::Memory::settle`], before
//! the lock of the VM's memory is released: until then no frame gets another use.

use core::ops::Range;

use protocol::layout::PAGE_SIZE;

/// Addresses that every CPU of the VM has to forget, in whatever space it is.
pub type Flush = Range<u64>;

/// A flush that must happen. It is worth nothing unless settled.
#[must_use = "CPUs may still use translations that the tables no longer hold: settle it"]
#[derive(Debug, PartialEq, Eq)]
pub struct FlushOwed(Option<Flush>);

impl FlushOwed {
    /// Nothing is owed.
    pub const NOTHING: FlushOwed = FlushOwed(None);

    /// All translations and the tables that lead to them are owed.
    pub(super) const ALL: FlushOwed = FlushOwed(Some(0..u64::MAX));

    /// Consecutive small pages are owed.
    #[inline]
    pub(super) fn pages(start: u64, pages: u64) -> FlushOwed {
        let end = start.wrapping_add(pages.wrapping_mul(PAGE_SIZE));
        FlushOwed((pages > 0).then_some(start..end))
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// Both debts in one: the smallest range that covers them. A long one costs no more than all.
    #[must_use = "the merged debt is still owed"]
    pub fn merge(mut self, mut other: FlushOwed) -> FlushOwed {
        FlushOwed(match (self.0.take(), other.0.take()) {
            (None, owed) | (owed, None) => owed,
            (Some(one), Some(two)) => Some(one.start.min(two.start)..one.end.max(two.end)),
        })
    }

    /// Pays the debt: `flush` is called once, if anything is owed, and returns when every CPU has
    /// forgotten. [`super::Memory::settle`] does this and takes replaced tables back.
    #[inline]
    pub(super) fn pay(mut self, flush: impl FnOnce(Flush)) {
        if let Some(owed) = self.0.take() {
            flush(owed);
        }
    }
}

impl Drop for FlushOwed {
    fn drop(&mut self) {
        debug_assert!(self.0.is_none(), "a flush was owed and never settled");
    }
}
