//! How fast the clocks run.
//!
//! The time-stamp counter is the only clock that is read later; here its speed, and that of the
//! local controller's timer, is measured against the interval timer (PIT), whose speed is fixed. What
//! CPUID says is more exact, and is believed when the measurement confirms it: an emulator may repeat
//! the numbers of a CPU that runs at another speed.
#![expect(unsafe_code, reason = "naming a port is a promise about its device")]

use core::fmt;

use x86::cpuid::native_cpuid::cpuid_count;

use crate::cpu::read_tsc_ordered;
use crate::io::port::Port;
use crate::irq::timer;

/// Ticks of the interval timer in a second.
const PIT_HZ: u64 = 1_193_182;
/// Ticks between the two ends of a measurement: 20 ms.
const WINDOW_TICKS: u64 = 23_864;
/// The interval timer counts down from here, once: 55 ms.
const FIRST_COUNT: u16 = u16::MAX;
/// Looks at the clocks for one end; the quickest counts.
const LOOKS: u32 = 8;
/// Measurements at most.
const TRIES: u32 = 20;
/// A measurement counts when its ends are known to this part of it.
const TOLERABLE_PART: u64 = 500;
/// Looks after which an interval timer that does not count is given up.
const PATIENCE: u32 = 1_000_000;
/// CPUID is believed within this part of the measured speed.
const BELIEVED_PART: u64 = 100;

/// A port of the interval timer.
const fn port(number: u16) -> Port {
    // SAFETY: the interval timer and the speaker gate reach no memory.
    unsafe { Port::new(number) }
}

const CHANNEL_2: Port = port(0x42);
const COMMAND: Port = port(0x43);
/// Bit 0 lets channel 2 count, bit 1 leads it to the speaker.
const GATE: Port = port(0x61);
/// Command: channel 2, both bytes, count down once.
const COUNT_ONCE: u8 = 0xb0;
/// Command: hold status and count of channel 2 until they are read.
const HOLD: u8 = 0xc8;
/// Bits of the status: the count has ended; it has not begun.
const ENDED: u8 = 1 << 7;
const NOT_LOADED: u8 = 1 << 6;

/// Where a speed comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Measured only.
    Measured,
    /// Stated by the CPU, confirmed by the measurement.
    Processor,
    /// Stated by the hypervisor below, confirmed by the measurement.
    Hypervisor,
}

/// The speeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Ticks of the time-stamp counter in a second.
    pub tsc_hz: u64,
    /// Counts of the local controller's undivided timer in a second.
    pub apic_hz: u64,
    /// Where `tsc_hz` comes from.
    pub source: Source,
}

/// There is no interval timer to measure against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoIntervalTimer;

impl fmt::Display for NoIntervalTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this machine has no interval timer (PIT), which Cloister needs to measure clocks")
    }
}

/// The clocks at one moment, and how far `tsc` and `apic` may be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    ticks: u64,
    tsc: u64,
    apic: u64,
    doubt: u64,
}

/// What passed between two moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    ticks: u64,
    tsc: u64,
    apic: u64,
    doubt: u64,
}

impl Clock {
    /// Measures. Takes 20 ms, on a busy host several times as long; the local controller must be on,
    /// and its timer is left disarmed.
    ///
    /// # Errors
    /// When the machine has no interval timer; it cannot run the hypervisor.
    pub fn measure() -> Result<Clock, NoIntervalTimer> {
        let mut best: Option<Sample> = None;
        for _ in 0..TRIES {
            let sample = measure_once();
            best = match (best, sample) {
                (Some(best), Some(sample)) if best.doubt < sample.doubt => Some(best),
                (best, sample) => sample.or(best),
            };
            if best.is_some_and(|best| best.is_tolerable()) {
                break;
            }
        }
        timer::stop_measuring();
        let sample = best.ok_or(NoIntervalTimer)?;
        Ok(choose(&sample, stated_by_processor(), stated_by_hypervisor()))
    }
}

impl Sample {
    fn between(first: &Moment, last: &Moment) -> Sample {
        Sample {
            ticks: last.ticks.saturating_sub(first.ticks),
            tsc: last.tsc.saturating_sub(first.tsc),
            apic: last.apic.saturating_sub(first.apic),
            doubt: first.doubt.saturating_add(last.doubt),
        }
    }

    fn is_tolerable(&self) -> bool {
        self.doubt.saturating_mul(TOLERABLE_PART) <= self.tsc
    }

    /// What would pass in a second, at least 1.
    fn per_second(&self, passed: u64) -> u64 {
        let scaled = u128::from(passed).wrapping_mul(u128::from(PIT_HZ));
        let second = scaled.checked_div(u128::from(self.ticks)).unwrap_or(1);
        u64::try_from(second).unwrap_or(u64::MAX).max(1)
    }
}

/// Lets channel 2 count down and compares the clocks at two moments. This CPU may stand still between
/// the two (an emulator on a busy host does), unless that takes longer than the count: then there is
/// no sample.
fn measure_once() -> Option<Sample> {
    GATE.write((GATE.read() & 0b1100) | 1);
    COMMAND.write(COUNT_ONCE);
    for byte in FIRST_COUNT.to_le_bytes() {
        CHANNEL_2.write(byte);
    }
    timer::start_measuring();
    let first = look_sharply()?;
    for _ in 0..PATIENCE {
        if look()?.ticks >= first.ticks.saturating_add(WINDOW_TICKS) {
            return Some(Sample::between(&first, &look_sharply()?));
        }
    }
    None
}

/// The quickest of some looks.
fn look_sharply() -> Option<Moment> {
    let mut best = look()?;
    for _ in 1..LOOKS {
        let next = look()?;
        if next.doubt < best.doubt {
            best = next;
        }
    }
    Some(best)
}

/// Looks at all clocks. Nothing when the count has ended, or there is no interval timer.
fn look() -> Option<Moment> {
    let before = read_tsc_ordered();
    COMMAND.write(HOLD);
    let apic = u64::from(timer::measured());
    let doubt = read_tsc_ordered().wrapping_sub(before);
    let status = CHANNEL_2.read();
    let count = u16::from_le_bytes([CHANNEL_2.read(), CHANNEL_2.read()]);
    if status & ENDED != 0 {
        return None;
    }
    // In the first microsecond the channel may still hold an old count.
    let is_loaded = status & NOT_LOADED == 0;
    let ticks = if is_loaded { FIRST_COUNT.wrapping_sub(count) } else { 0 };
    Some(Moment { ticks: u64::from(ticks), tsc: before, apic, doubt })
}

/// The measured speed, or the stated one that it confirms.
fn choose(sample: &Sample, processor: Option<u64>, hypervisor: Option<u64>) -> Clock {
    let measured = sample.per_second(sample.tsc);
    let confirmed = |stated: Option<u64>| stated.filter(|hz| hz.abs_diff(measured) <= measured / BELIEVED_PART);
    let (tsc_hz, source) = match (confirmed(hypervisor), confirmed(processor)) {
        (Some(hz), _) => (hz, Source::Hypervisor),
        (None, Some(hz)) => (hz, Source::Processor),
        (None, None) => (measured, Source::Measured),
    };
    Clock { tsc_hz, apic_hz: sample.per_second(sample.apic), source }
}

/// Leaf 0x15: the counter's ratio to a crystal whose speed is given.
fn stated_by_processor() -> Option<u64> {
    if cpuid_count(0, 0).eax < 0x15 {
        return None;
    }
    let leaf = cpuid_count(0x15, 0);
    tsc_of_crystal(leaf.eax, leaf.ebx, leaf.ecx)
}

fn tsc_of_crystal(denominator: u32, numerator: u32, crystal_hz: u32) -> Option<u64> {
    let product = u64::from(crystal_hz).wrapping_mul(u64::from(numerator));
    product.checked_div(u64::from(denominator)).filter(|hz| *hz != 0)
}

/// Leaf `0x4000_0010`, of hypervisors that have it: kHz.
fn stated_by_hypervisor() -> Option<u64> {
    let is_virtual = cpuid_count(1, 0).ecx & (1 << 31) != 0;
    let last = if is_virtual { cpuid_count(0x4000_0000, 0).eax } else { 0 };
    if !(0x4000_0010..0x4001_0000).contains(&last) {
        return None;
    }
    let khz = u64::from(cpuid_count(0x4000_0010, 0).eax);
    (khz != 0).then_some(khz.wrapping_mul(1000))
}

static KNOWN: spin::Once<Clock> = spin::Once::new();

/// Measures the machine's clock the first time, for all CPUs.
///
/// # Errors
/// As [`Clock::measure`].
pub fn learn() -> Result<&'static Clock, NoIntervalTimer> {
    KNOWN.try_call_once(Clock::measure)
}

/// The clock, when it has been measured.
#[must_use]
pub fn known() -> Option<&'static Clock> {
    KNOWN.get()
}

#[cfg(test)]
mod tests {
    use super::{Moment, Sample, Source, choose, tsc_of_crystal};

    const SAMPLE: Sample = Sample { ticks: 1_193_182 / 100, tsc: 24_000_000, apic: 10_000_000, doubt: 0 };

    #[test]
    fn speeds_are_scaled_from_the_window() {
        let clock = choose(&SAMPLE, None, None);
        assert!(clock.tsc_hz.abs_diff(2_400_000_000) < 1_000_000);
        assert!(clock.apic_hz.abs_diff(1_000_000_000) < 1_000_000);
        assert_eq!(clock.source, Source::Measured);
        let still = choose(&Sample { ticks: 0, tsc: 0, apic: 0, doubt: 0 }, None, None);
        assert_eq!((still.tsc_hz, still.apic_hz), (1, 1));
    }

    #[test]
    fn a_sample_is_the_difference_of_its_moments_with_both_doubts() {
        let first = Moment { ticks: 10, tsc: 1_000, apic: 100, doubt: 3 };
        let last = Moment { ticks: 30, tsc: 5_000, apic: 400, doubt: 4 };
        let sample = Sample { ticks: 20, tsc: 4_000, apic: 300, doubt: 7 };
        assert_eq!(Sample::between(&first, &last), sample);
        assert!(sample.is_tolerable());
        assert!(!Sample { doubt: 9, ..sample }.is_tolerable());
    }

    #[test]
    fn a_stated_speed_counts_only_when_the_measurement_confirms_it() {
        let near = Some(2_401_000_000);
        let far = Some(2_700_000_000);
        assert_eq!(choose(&SAMPLE, near, None).tsc_hz, 2_401_000_000);
        assert_eq!(choose(&SAMPLE, near, None).source, Source::Processor);
        assert_eq!(choose(&SAMPLE, near, near).source, Source::Hypervisor);
        assert_eq!(choose(&SAMPLE, far, far).source, Source::Measured);
    }

    #[test]
    fn a_crystal_leaf_with_a_zero_states_nothing() {
        assert_eq!(tsc_of_crystal(2, 200, 24_000_000), Some(2_400_000_000));
        assert_eq!(tsc_of_crystal(0, 200, 24_000_000), None);
        assert_eq!(tsc_of_crystal(2, 0, 24_000_000), None);
        assert_eq!(tsc_of_crystal(2, 200, 0), None);
    }
}
