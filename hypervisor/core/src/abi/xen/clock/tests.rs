//! The guest's formula against the VM's clock, the rules of timers, and the sums of a run state.

use proptest::prelude::*;

use super::{Activity, FIRST_PERIOD, MILLISECOND, NEVER, Runstate, Timers, Version, time_info, wall_clock};
use crate::time::{Clock, SECOND, Scale, VmClock};
use protocol::handle::Nanos;
use protocol::processor::TimeSource;
use protocol::xen::Errno;
use protocol::xen::structure::VcpuTimeInfo;

/// Ten years.
const DECADE: u64 = 315_360_000;

fn clock(hz: u64, start: u64) -> VmClock {
    VmClock::starting_at(Clock::new(Scale::new(hz).unwrap(), 0), start, TimeSource::Native)
}

/// As a guest computes time, with 64-bit registers.
fn guest_time(info: &VcpuTimeInfo, tsc: u64) -> u64 {
    let delta = tsc.wrapping_sub(info.tsc_timestamp);
    let shifted = if info.tsc_shift < 0 {
        delta >> info.tsc_shift.unsigned_abs()
    } else {
        delta << info.tsc_shift.unsigned_abs()
    };
    info.system_time + ((u128::from(shifted) * u128::from(info.tsc_to_system_mul)) >> 32) as u64
}

fn rate() -> impl Strategy<Value = u64> {
    prop_oneof![1_000_000..10_000_000_000_u64, 999_999_990..1_000_000_010_u64, 1_999_999_990..2_000_000_010_u64]
}

#[test]
fn factors_are_those_of_the_rule_for_common_rates() {
    // Halve while above 2 GHz, double while not above 1 GHz; then 2^32 * 10^9 by the rate.
    for (hz, shift, adjusted) in [
        (1_000_000_000, 1, 2_000_000_000),
        (1_000_000_001, 0, 1_000_000_001),
        (2_000_000_000, 0, 2_000_000_000),
        (2_400_000_000, -1, 1_200_000_000),
        (62_500_000, 5, 2_000_000_000),
        (1_500_000_000, 0, 1_500_000_000_u64),
    ] {
        let info = time_info(clock(hz, 7), 2);
        assert_eq!(info.tsc_shift, shift, "{hz}");
        let exact = ((u128::from(SECOND) << 32) / u128::from(adjusted)) as u32;
        // Doubling what was rounded down loses the bit that the rule would still have.
        assert!(exact - info.tsc_to_system_mul <= 1, "{hz}");
        assert_eq!((info.tsc_timestamp, info.system_time, info.version, info.flags), (7, 0, 2, 1));
    }
}

#[test]
fn a_version_is_odd_during_a_change_even_after_it_and_wraps() {
    let mut version = Version(u32::MAX - 1);
    assert_eq!(version.advance(), (u32::MAX, 0));
    assert_eq!(version.advance(), (1, 2));
    assert_eq!(Version::default().advance(), (1, 2));
}

#[test]
fn the_wall_clock_splits_seconds() {
    assert_eq!(wall_clock(0), [0, 0, 0]);
    assert_eq!(wall_clock(1_700_000_000 * SECOND + 999_999_999), [1_700_000_000, 999_999_999, 0]);
    assert_eq!(wall_clock((1 << 32) * SECOND + 5), [0, 5, 1]);
}

#[test]
fn deadlines_follow_the_calls() {
    let mut timers = Timers::new(5);
    assert_eq!(timers.due(), Nanos(5 + FIRST_PERIOD));
    timers.stop_periodic();
    assert_eq!(timers.due(), Nanos::NEVER);
    assert!(!timers.take_due(NEVER - 1), "nothing is set");

    timers.set_single(100);
    assert!(!timers.take_due(100), "the guest may still read 99");
    assert!(timers.take_due(101));
    assert!(!timers.take_due(1_000), "only once");
    timers.set_single(100);
    assert!(timers.take_due(5_000), "the past is due at once");
    timers.set_single(0);
    assert!(timers.take_due(5_000), "zero is a time here");
    timers.set_single(u64::MAX);
    assert_eq!(timers.due(), Nanos::NEVER);
    timers.set_single(9_000);
    timers.stop_single();
    assert!(!timers.take_due(NEVER - 1));
}

#[test]
fn the_old_call_stops_at_zero_and_bounds_what_is_far() {
    let now = 1 << 40;
    let mut timers = Timers::new(now);
    timers.stop_periodic();
    timers.set_single(now + 5);
    timers.set_single_or_stop(0, now);
    assert_eq!(timers.due(), Nanos::NEVER);
    timers.set_single_or_stop(1, now);
    assert!(timers.take_due(now));
    timers.set_single_or_stop(now + (1 << 50) - 1, now);
    assert_eq!(timers.due(), Nanos(now + (1 << 50)));
    for far in [now + (1 << 50), 1 << 63, u64::MAX] {
        timers.set_single_or_stop(far, now);
        assert_eq!(timers.due(), Nanos(now + 100 * MILLISECOND + 1), "{far:#x}");
    }
}

#[test]
fn a_period_below_a_millisecond_is_refused_and_changes_nothing() {
    let mut timers = Timers::new(0);
    for period in [0, 1, MILLISECOND - 1] {
        assert_eq!(timers.set_periodic(period, 50), Err(Errno::Invalid));
        assert_eq!(timers, Timers::new(0));
    }
    assert_eq!(timers.set_periodic(MILLISECOND, 50), Ok(()));
    assert_eq!(timers.due(), Nanos(50 + MILLISECOND));
}

#[test]
fn missed_ticks_come_as_one_and_the_rate_is_kept() {
    let mut timers = Timers::new(0);
    timers.set_periodic(MILLISECOND, 300).unwrap();
    assert!(timers.take_due(300 + MILLISECOND));
    assert_eq!(timers.due(), Nanos(300 + 2 * MILLISECOND));
    assert!(timers.take_due(300 + 7 * MILLISECOND + 12));
    assert!(!timers.take_due(300 + 7 * MILLISECOND + 13));
    assert_eq!(timers.due(), Nanos(300 + 8 * MILLISECOND));
    timers.set_periodic(u64::MAX, 300).unwrap();
    assert_eq!(timers.due(), Nanos::NEVER);
}

#[test]
fn a_call_sees_what_the_area_shows_only_after_the_next_change() {
    let mut state = Runstate::new(10);
    assert_eq!((state.info().state, state.info().time), (3, [0; 4]));
    state.change(Activity::Running, 15);
    assert_eq!(state.info().time, [0, 0, 0, 5]);
    assert_eq!(state.info_at(18).time, [3, 0, 0, 5]);
    assert_eq!((state.info_at(18).state, state.info_at(18).state_entry_time), (0, 15));
    state.change(Activity::Blocked, 14);
    assert_eq!(state.info().state_entry_time, 15, "time does not go back");
    assert_eq!(state.info_at(3).time, [0, 0, 0, 5]);
}

proptest! {
    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn the_guest_reads_the_vms_clock_or_a_nanosecond_less(
        hz in rate(), start in 0..1_u64 << 50, seconds in 0..3 * DECADE, ticks in 0..10_000_000_000_u64,
    ) {
        let clock = clock(hz, start);
        let info = time_info(clock, 2);
        for tsc in [start + seconds * hz + ticks, start + ticks, start] {
            let (ours, theirs) = (clock.at(tsc).0, guest_time(&info, tsc));
            prop_assert!(theirs <= ours && ours <= theirs + 1, "{} and {}", ours, theirs);
            // And both are right to what 32 bits behind the point of a multiplier can say.
            let true_time = ((u128::from(tsc - start) * u128::from(SECOND)) / u128::from(hz)) as u64;
            prop_assert!(theirs <= true_time && true_time - theirs <= 2 + (true_time >> 28));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn when_a_single_shot_is_taken_the_guest_reads_its_deadline(
        hz in rate(), start in 0..1_u64 << 50, deadline in 0..100 * SECOND,
    ) {
        let clock = clock(hz, start);
        let info = time_info(clock, 2);
        let mut timers = Timers::new(0);
        timers.stop_periodic();
        timers.set_single(deadline);
        // The first counter value at which the machine's clock has reached what is due.
        let machine = Clock::new(Scale::new(hz).unwrap(), 0);
        let tsc = machine.first_tsc(clock.to_machine(timers.due()));
        prop_assert!(timers.take_due(clock.at(tsc).0));
        prop_assert!(guest_time(&info, tsc) >= deadline);
        let late = guest_time(&info, tsc) - deadline;
        prop_assert!(late <= 4 + 2 * (SECOND / hz), "late by {}", late);
    }

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn what_was_spent_sums_up_to_the_time_since_the_start(
        changes in proptest::collection::vec((0..4_u8, 0..1000_u64), 0..50),
    ) {
        let activities = [Activity::Running, Activity::Runnable, Activity::Blocked, Activity::Offline];
        let mut state = Runstate::new(100);
        let (mut now, mut current, mut model) = (100, 3, [0_u64; 4]);
        for (next, after) in changes {
            now += after;
            model[current] += after;
            current = usize::from(next);
            state.change(activities[current], now);
            prop_assert_eq!(state.info().time, model);
            prop_assert_eq!((state.info().state, state.info().state_entry_time), (i32::from(next), now));
        }
        prop_assert_eq!(state.info_at(now + 9).time.iter().sum::<u64>(), now + 9 - 100);
    }
}
