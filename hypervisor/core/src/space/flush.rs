//! Translations that CPUs may still hold although the tables no longer say so.
//!
//! A change of tables returns what it owes. The debt is paid with [`FlushOwed::settle`], before the
//! lock of the VM's memory is released: until then no frame gets another use.

use protocol::SpaceId;
use protocol::layout::{KERNEL_START, LARGE_PAGE_FRAMES, PAGE_SIZE};

/// Pages beyond which a flush names no range: flushing all is cheaper than so many single ones.
const MAX_PAGES: u64 = LARGE_PAGE_FRAMES;

/// What CPUs have to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flush {
    /// Only CPUs in this space are concerned; nothing means every CPU of the VM.
    pub space: Option<SpaceId>,
    /// Which addresses; nothing means all, tables included.
    pub range: Option<PageRange>,
}

/// Consecutive small pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    /// Address of the first page.
    pub start: u64,
    /// How many.
    pub pages: u64,
}

impl PageRange {
    /// The smallest range that covers both; nothing when it would be too long to name.
    fn hull(self, other: PageRange) -> Option<PageRange> {
        let start = self.start.min(other.start);
        let end = self.end().max(other.end());
        let pages = end.wrapping_sub(start) / PAGE_SIZE;
        (pages <= MAX_PAGES).then_some(PageRange { start, pages })
    }

    fn end(self) -> u64 {
        self.start.wrapping_add(self.pages.wrapping_mul(PAGE_SIZE))
    }
}

/// A flush that must happen. It is worth nothing unless settled.
#[must_use = "CPUs may still use translations that the tables no longer hold: settle it"]
#[derive(Debug, PartialEq, Eq)]
pub struct FlushOwed(Option<Flush>);

impl FlushOwed {
    /// Nothing is owed.
    pub const NOTHING: FlushOwed = FlushOwed(None);

    /// A range of a space is owed; in the kernel half all spaces share it.
    #[inline]
    pub(super) fn range(space: SpaceId, start: u64, pages: u64) -> FlushOwed {
        let space = (start < KERNEL_START).then_some(space);
        FlushOwed((pages > 0).then_some(Flush { space, range: Some(PageRange { start, pages }) }))
    }

    /// All translations and the tables that lead to them are owed.
    pub(super) const fn all() -> FlushOwed {
        FlushOwed(Some(Flush { space: None, range: None }))
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// Both debts in one.
    #[must_use = "the merged debt is still owed"]
    pub fn merge(mut self, mut other: FlushOwed) -> FlushOwed {
        FlushOwed(match (self.0.take(), other.0.take()) {
            (None, owed) | (owed, None) => owed,
            (Some(one), Some(two)) => Some(Flush {
                space: if one.space == two.space { one.space } else { None },
                range: match (one.range, two.range) {
                    (Some(one), Some(two)) => one.hull(two),
                    _ => None,
                },
            }),
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

#[cfg(test)]
mod tests {
    use super::{Flush, FlushOwed, PageRange};
    use protocol::SpaceId;
    use protocol::layout::KERNEL_START;

    fn paid(owed: FlushOwed) -> Option<Flush> {
        let mut seen = None;
        owed.pay(|flush| seen = Some(flush));
        seen
    }

    #[test]
    fn near_ranges_merge_into_one_and_far_ones_into_all() {
        let one = || FlushOwed::range(SpaceId(1), 0x1000, 1);
        let near = one().merge(FlushOwed::range(SpaceId(1), 0x5000, 2));
        let range = PageRange { start: 0x1000, pages: 6 };
        let space = Some(SpaceId(1));
        assert_eq!(paid(near), Some(Flush { space, range: Some(range) }));
        let far = one().merge(FlushOwed::range(SpaceId(1), 0x4000_0000, 1));
        assert_eq!(paid(far), Some(Flush { space, range: None }));
    }

    #[test]
    fn ranges_of_two_spaces_and_of_the_kernel_half_concern_every_cpu() {
        let two = FlushOwed::range(SpaceId(1), 0x1000, 1).merge(FlushOwed::range(SpaceId(2), 0x1000, 1));
        assert_eq!(paid(two).unwrap().space, None);
        let kernel = FlushOwed::range(SpaceId(1), KERNEL_START, 1);
        assert_eq!(paid(kernel).unwrap().space, None);
    }

    #[test]
    fn nothing_stays_nothing_and_takes_over_what_it_is_merged_with() {
        assert_eq!(paid(FlushOwed::NOTHING.merge(FlushOwed::NOTHING)), None);
        assert!(FlushOwed::range(SpaceId(0), 0x1000, 0).is_nothing());
        let owed = FlushOwed::NOTHING.merge(FlushOwed::all());
        let everything = Flush { space: None, range: None };
        assert_eq!(paid(owed), Some(everything));
    }
}
