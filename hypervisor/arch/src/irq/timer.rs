//! This CPU's one-shot timer, set to a value of the time-stamp counter.
//!
//! With TSC-deadline the CPU compares; without, the value is turned into a count of the local
//! controller's clock. A timer may fire early when the deadline is further away than the counter
//! reaches: who armed it looks at the clock and arms it again.
#![expect(unsafe_code, reason = "the deadline is a model-specific register")]

use core::sync::atomic::{AtomicU64, Ordering};

use x86::msr::{
    IA32_TSC_DEADLINE, IA32_X2APIC_CUR_COUNT, IA32_X2APIC_DIV_CONF, IA32_X2APIC_INIT_COUNT, IA32_X2APIC_LVT_TIMER,
};

use super::local_apic::{MASKED, read, write};
use super::vector;
use crate::cpu::features::Features;
use crate::cpu::{read_tsc, write_msr};
use crate::time::Clock;

/// Timer entry: compare with the deadline register.
const DEADLINE_MODE: u32 = 0b10 << 17;
/// Divide the controller's clock by 1.
const DIVIDE_BY_1: u32 = 0b1011;

/// Counts per TSC tick, in units of 2^-32; 0 means that deadlines are written directly. The same on
/// all CPUs.
static COUNTS_PER_TICK: AtomicU64 = AtomicU64::new(0);

/// Sets this CPU's timer up, disarmed.
pub fn start(features: Features, clock: &Clock) {
    let by_deadline = features.contains(Features::TSC_DEADLINE);
    let ratio = if by_deadline { 0 } else { ratio(clock.apic_hz, clock.tsc_hz) };
    COUNTS_PER_TICK.store(ratio, Ordering::Relaxed);
    let mode = if by_deadline { DEADLINE_MODE } else { 0 };
    write(IA32_X2APIC_DIV_CONF, DIVIDE_BY_1);
    write(IA32_X2APIC_LVT_TIMER, mode | u32::from(vector::TIMER));
    // SAFETY: no effect but order: the mode must be in force before a deadline is written (Intel SDM
    // volume 3, 10.5.4.1).
    unsafe { core::arch::x86_64::_mm_mfence() };
    disarm();
}

/// Raises [`vector::TIMER`] when the time-stamp counter reaches `deadline`; at once if it has.
/// Replaces an earlier deadline.
#[inline]
pub fn arm(deadline: u64) {
    match COUNTS_PER_TICK.load(Ordering::Relaxed) {
        0 => write_deadline(deadline.max(1)),
        ratio => write(IA32_X2APIC_INIT_COUNT, count(deadline.saturating_sub(read_tsc()), ratio)),
    }
}

/// Forgets the deadline. An interrupt that was raised already still comes.
#[inline]
pub fn disarm() {
    match COUNTS_PER_TICK.load(Ordering::Relaxed) {
        0 => write_deadline(0),
        _ => write(IA32_X2APIC_INIT_COUNT, 0),
    }
}

#[inline]
fn write_deadline(value: u64) {
    // SAFETY: `start` chose this way because CPUID has the register; it takes every value.
    unsafe { write_msr(IA32_TSC_DEADLINE, value) };
}

/// Lets the counter run down silently from its greatest value, to measure its speed.
pub(crate) fn start_measuring() {
    write(IA32_X2APIC_DIV_CONF, DIVIDE_BY_1);
    write(IA32_X2APIC_LVT_TIMER, MASKED | u32::from(vector::TIMER));
    write(IA32_X2APIC_INIT_COUNT, u32::MAX);
}

/// Ends measuring.
pub(crate) fn stop_measuring() {
    write(IA32_X2APIC_INIT_COUNT, 0);
}

/// Counts since [`start_measuring`].
#[inline]
pub(crate) fn measured() -> u32 {
    u32::MAX.wrapping_sub(read(IA32_X2APIC_CUR_COUNT))
}

/// Counts per tick in units of 2^-32, at least 1.
fn ratio(apic_hz: u64, tsc_hz: u64) -> u64 {
    let scaled = (u128::from(apic_hz) << 32).checked_div(u128::from(tsc_hz)).unwrap_or(1);
    u64::try_from(scaled).unwrap_or(u64::MAX).max(1)
}

/// The counts for a number of ticks: rounded up, at least 1 (0 would stop the timer), at most what
/// the counter holds.
#[inline]
fn count(ticks: u64, ratio: u64) -> u32 {
    let scaled = u128::from(ticks).wrapping_mul(u128::from(ratio)) >> 32;
    u32::try_from(scaled).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::{count, ratio};

    #[test]
    fn a_count_lasts_at_least_as_long_as_its_ticks() {
        let ratio = ratio(1_000_000_000, 2_400_000_000);
        assert_eq!(count(0, ratio), 1);
        assert_eq!(count(2_400, ratio), 1_000);
        assert_eq!(count(24_000_000, ratio), 10_000_000);
        let exact = ratio_of_equal_clocks();
        assert_eq!(count(5, exact), 6);
    }

    fn ratio_of_equal_clocks() -> u64 {
        ratio(1_000_000_000, 1_000_000_000)
    }

    #[test]
    fn far_deadlines_saturate_instead_of_wrapping() {
        assert_eq!(count(u64::MAX, u64::MAX), u32::MAX);
        assert_eq!(count(1 << 33, ratio_of_equal_clocks()), u32::MAX);
    }

    #[test]
    fn an_unknown_clock_does_not_stop_the_timer() {
        assert_eq!(ratio(0, 1), 1);
        assert_eq!(ratio(1, 0), 1);
        assert!(count(1_000, ratio(0, 0)) >= 1);
    }
}
