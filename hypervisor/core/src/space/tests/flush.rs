use crate::space::{Flush, FlushOwed};

fn paid(owed: FlushOwed) -> Option<Flush> {
    let mut seen = None;
    owed.pay(|flush| seen = Some(flush));
    seen
}

#[test]
fn two_ranges_merge_into_one_that_covers_both() {
    let one = FlushOwed::pages(0x5000, 2);
    assert_eq!(paid(one.merge(FlushOwed::pages(0x1000, 1))), Some(0x1000..0x7000));
    let one = FlushOwed::pages(0x1000, 6);
    assert_eq!(paid(one.merge(FlushOwed::pages(0x2000, 1))), Some(0x1000..0x7000));
}

#[test]
fn nothing_stays_nothing_and_takes_over_what_it_is_merged_with() {
    assert_eq!(paid(FlushOwed::NOTHING.merge(FlushOwed::NOTHING)), None);
    assert!(FlushOwed::pages(0x1000, 0).is_nothing());
    assert_eq!(paid(FlushOwed::NOTHING.merge(FlushOwed::pages(0, 1))), Some(0..0x1000));
    assert_eq!(paid(FlushOwed::ALL.merge(FlushOwed::pages(0x1000, 1))), Some(0..u64::MAX));
}

#[test]
#[should_panic(expected = "never settled")]
fn a_flush_that_is_dropped_is_noticed_in_a_debug_build() {
    drop(FlushOwed::ALL);
}
