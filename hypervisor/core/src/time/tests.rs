//! Exactness, monotony and the edges of conversions.

use proptest::prelude::*;

use super::{Clock, SECOND, Scale, VmClock, quantised};
use protocol::handle::Nanos;
use protocol::processor::TimeSource::{Coarse, Native};
use protocol::shared::{COARSE_STEP_NS, TimePage};

/// Rates of real counters: PIT, ACPI timer, HPET, local APIC and TSC.
const RATES: [u64; 8] =
    [1_193_182, 3_579_545, 14_318_180, 62_500_000, 1_000_000_000, 2_099_999_999, 2_893_202_000, 5_700_000_000];

/// As a guest computes time from its page.
fn guest_time(page: &TimePage, tsc: u64) -> u64 {
    let ticks = u128::from(tsc - page.tsc_base);
    page.time_base_ns + u64::try_from((ticks * u128::from(page.multiplier)) >> 32).unwrap()
}

#[test]
fn a_rate_without_factors_that_fit_is_refused() {
    assert_eq!(Scale::new(0), None);
    assert_eq!(Scale::new(u64::MAX), None);
    assert!(RATES.iter().all(|hz| Scale::new(*hz).is_some()));
    assert!(Scale::new(1).is_some());
}

#[test]
fn at_one_gigahertz_ticks_are_nanoseconds() {
    let scale = Scale::new(SECOND).unwrap();
    for value in [0, 1, 12_345, u64::MAX >> 1, u64::MAX] {
        assert_eq!(scale.nanoseconds(value), value);
        assert_eq!(scale.ticks(value), value);
    }
}

#[test]
fn a_day_is_exact_to_a_microsecond() {
    for hz in RATES.into_iter().filter(|hz| *hz > 10_000_000) {
        let day = Scale::new(hz).unwrap().nanoseconds(hz * 86_400);
        let error = (86_400 * SECOND).abs_diff(day);
        assert!(error < 86_400 * 1000 * (hz / SECOND + 1), "{hz}: {error} ns");
    }
}

#[test]
fn the_normalised_multiplier_is_the_whole_one() {
    for hz in RATES.into_iter().chain([1, 2_000_000_000, 2_000_000_001, 10_000_000_000, 1 << 60]) {
        let scale = Scale::new(hz).unwrap();
        let (fraction, shift) = scale.normalised();
        assert!(fraction >= 1 << 31, "{hz}");
        let whole = if shift < 0 { u64::from(fraction) >> -shift } else { u64::from(fraction) << shift };
        assert_eq!(whole, scale.multiplier, "{hz}");
        let exact = (u128::from(SECOND) << 32) / u128::from(hz);
        assert!(exact - u128::from(whole) <= exact >> 31, "{hz}");
    }
}

#[test]
fn conversions_saturate() {
    let slow = Scale::new(1_193_182).unwrap();
    assert_eq!(slow.nanoseconds(u64::MAX), u64::MAX);
    let fast = Scale::new(5_700_000_000).unwrap();
    assert_eq!(fast.ticks(u64::MAX), u64::MAX);
    let clock = Clock::new(fast, 1_000);
    assert_eq!(clock.tsc_at(u64::MAX, 5_000), u64::MAX);
    assert_eq!(clock.tsc_at(u64::MAX - 1, 5_000), u64::MAX);
    let vm = VmClock::starting_at(clock, 1 << 40, Native);
    assert_eq!(vm.to_machine(Nanos(u64::MAX - 1)), u64::MAX);
    assert_eq!(vm.to_machine(Nanos::NEVER), u64::MAX);
}

#[test]
fn the_first_counter_value_of_an_instant_is_exact() {
    for hz in RATES {
        let clock = Clock::new(Scale::new(hz).unwrap(), 77);
        for deadline in [1, 1_000, 12_345_678, 86_400 * SECOND] {
            let first = clock.first_tsc(deadline);
            assert!(clock.at(first) >= deadline && clock.at(first - 1) < deadline, "{hz} {deadline}");
        }
    }
    assert_eq!(Clock::new(Scale::new(SECOND / 1000).unwrap(), 5).first_tsc(u64::MAX), u64::MAX / 1000 + 6);
}

#[test]
fn a_deadline_that_has_come_is_now() {
    let clock = Clock::new(Scale::new(2_893_202_000).unwrap(), 77);
    for past in [0, 1, clock.at(1 << 30)] {
        assert_eq!(clock.tsc_at(past, 1 << 30), 1 << 30);
    }
}

#[test]
#[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
fn the_rounding_of_two_clocks_never_lets_a_vm_wake_early() {
    let clock = Clock::new(Scale::new(2_893_202_000).unwrap(), 0);
    for start in 0..60 {
        let vm = VmClock::starting_at(clock, start, Native);
        for deadline in 0..60 {
            for now in start..start + 60 {
                let tsc = clock.tsc_at(vm.to_machine(Nanos(deadline)), now);
                assert!(vm.at(tsc) >= Nanos(deadline), "{start} {deadline} {now}");
            }
        }
    }
}

#[test]
fn a_counter_behind_the_base_reads_zero() {
    let clock = Clock::new(Scale::new(SECOND).unwrap(), 1_000);
    assert_eq!(clock.at(999), 0);
    assert_eq!(clock.at(0), 0);
    assert_eq!(VmClock::starting_at(clock, 2_000, Native).at(1_999), Nanos(0));
}

#[test]
fn coarse_time_shows_steps_only_and_native_time_everything() {
    for (time, shown) in [(0, 0), (1, 0), (COARSE_STEP_NS - 1, 0), (COARSE_STEP_NS, COARSE_STEP_NS)] {
        assert_eq!(quantised(time, Coarse), shown);
        assert_eq!(quantised(time, Native), time);
    }
    assert_eq!(quantised(u64::MAX, Coarse) % COARSE_STEP_NS, 0);
    let clock = Clock::new(Scale::new(SECOND).unwrap(), 0);
    let coarse = VmClock::starting_at(clock, 500, Coarse);
    assert_eq!((coarse.page().multiplier, coarse.page().tsc_base), (0, 0), "nothing of the counter");
    assert_eq!(coarse.next_step(500), 500 + COARSE_STEP_NS + 1);
    assert_eq!(VmClock::starting_at(clock, 500, Native).next_step(500), u64::MAX);
    assert_eq!(coarse.to_machine(Nanos(u64::MAX - 1)), u64::MAX);
    assert_eq!(coarse.to_machine(Nanos::NEVER), u64::MAX);
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn a_coarse_clock_goes_on_at_its_next_step_and_keeps_deadlines(
        rate in 0..RATES.len(),
        start in 0..1_u64 << 50,
        now in 0..1_u64 << 40,
        ahead in 0..10 * COARSE_STEP_NS,
    ) {
        let clock = Clock::new(Scale::new(RATES[rate]).unwrap(), 0);
        let vm = VmClock::starting_at(clock, start, Coarse);
        let seen = vm.at(start + now).0;
        prop_assert_eq!(seen % COARSE_STEP_NS, 0);
        let step = clock.tsc_at(vm.next_step(start + now), start + now);
        let late = COARSE_STEP_NS * (1 + 2 * SECOND / RATES[rate] / COARSE_STEP_NS);
        prop_assert!(vm.at(step).0 > seen && vm.at(step).0 <= seen + late);
        let deadline = seen + ahead;
        let due = clock.tsc_at(vm.to_machine(Nanos(deadline)), start + now);
        prop_assert!(vm.at(due).0 >= deadline);
        prop_assert!(vm.at(due).0 <= deadline + late);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn time_never_goes_back(rate in 0..RATES.len(), ticks in 0..u64::MAX, more in 0..u64::MAX) {
        let scale = Scale::new(RATES[rate]).unwrap();
        let later = ticks.saturating_add(more);
        prop_assert!(scale.nanoseconds(ticks) <= scale.nanoseconds(later));
        prop_assert!(scale.ticks(ticks) <= scale.ticks(later));
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn a_deadline_is_never_early_and_hardly_late(
        rate in 0..RATES.len(),
        now in 0..1_u64 << 50,
        ahead in 0..3_600 * SECOND,
    ) {
        let clock = Clock::new(Scale::new(RATES[rate]).unwrap(), 0);
        let deadline = clock.at(now) + ahead;
        let tsc = clock.tsc_at(deadline, now);
        prop_assert!(clock.at(tsc) >= deadline);
        let late = clock.at(tsc) - deadline;
        prop_assert!(late <= ahead / 4_000_000 + 2 * SECOND / RATES[rate] + 2);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn a_vm_sees_its_deadline_passed_when_the_machine_does(
        rate in 0..RATES.len(),
        start in 0..1_u64 << 50,
        deadline in 0..1_u64 << 50,
        now in 0..1_u64 << 40,
    ) {
        let clock = Clock::new(Scale::new(RATES[rate]).unwrap(), 0);
        let vm = VmClock::starting_at(clock, start, Native);
        let tsc = clock.tsc_at(vm.to_machine(Nanos(deadline)), start + now);
        prop_assert!(vm.at(tsc) >= Nanos(deadline));
        let page = vm.page();
        prop_assert_eq!(page.version % 2, 0);
        prop_assert_eq!(guest_time(&page, tsc), vm.at(tsc).0);
    }
}
