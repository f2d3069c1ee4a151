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
/// Ticks of one measurement: 10 ms.
const WINDOW_TICKS: u16 = 11_932;
/// Measurements at most.
const TRIES: u32 = 5;
/// A measurement is good when its ends are known to this part of it.
const GOOD_PART: u64 = 2_000;
/// Reads of the status after which there is no interval timer: several seconds on any machine.
const PATIENCE: u32 = 10_000_000;
/// CPUID is believed within this part of the measured speed.
const BELIEVED_PART: u64 = 100;

/// A port of the interval timer.
const fn port(number: u16) -> Port {
    // SAFETY: the interval timer and the speaker gate reach no memory.
    unsafe { Port::new(number) }
}

const CHANNEL_2: Port = port(0x42);
const COMMAND: Port = port(0x43);
/// Bit 0 lets channel 2 count, bit 1 leads it to the speaker, bit 5 is its output.
const GATE: Port = port(0x61);
const OUTPUT: u8 = 1 << 5;

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

/// What passed between two moments, and how far each end may be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    tsc: u64,
    apic: u64,
    doubt: u64,
}

impl Clock {
    /// Measures. Takes 10 to 50 ms; the local controller must be on, and its timer is left disarmed.
    ///
    /// # Errors
    /// When the machine has no interval timer; it cannot run the hypervisor.
    pub fn measure() -> Result<Clock, NoIntervalTimer> {
        let mut best = measure_once()?;
        for _ in 1..TRIES {
            if best.doubt <= best.tsc / GOOD_PART {
                break;
            }
            let next = measure_once()?;
            if next.doubt < best.doubt {
                best = next;
            }
        }
        timer::stop_measuring();
        Ok(choose(best, stated_by_processor(), stated_by_hypervisor()))
    }
}

/// Ticks in a second, from ticks in a window.
fn per_second(ticks: u64) -> u64 {
    let scaled = u128::from(ticks).wrapping_mul(u128::from(PIT_HZ)) / u128::from(WINDOW_TICKS);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// The measured speed, or the stated one that it confirms.
fn choose(sample: Sample, processor: Option<u64>, hypervisor: Option<u64>) -> Clock {
    let measured = per_second(sample.tsc).max(1);
    let confirmed = |stated: Option<u64>| {
        stated.filter(|hz| hz.abs_diff(measured) <= measured / BELIEVED_PART)
    };
    let (tsc_hz, source) = match (confirmed(hypervisor), confirmed(processor)) {
        (Some(hz), _) => (hz, Source::Hypervisor),
        (None, Some(hz)) => (hz, Source::Processor),
        (None, None) => (measured, Source::Measured),
    };
    Clock { tsc_hz, apic_hz: per_second(sample.apic).max(1), source }
}

/// Runs channel 2 through one window.
fn measure_once() -> Result<Sample, NoIntervalTimer> {
    let [low, high] = WINDOW_TICKS.to_le_bytes();
    GATE.write((GATE.read() & 0b1100) | 1);
    // Channel 2, both bytes, output rises at the end of the count. Writing the second byte starts.
    COMMAND.write(0xb0);
    CHANNEL_2.write(low);
    timer::start_measuring();
    let before = read_tsc_ordered();
    CHANNEL_2.write(high);
    let start = read_tsc_ordered();
    let apic_start = timer::measured();
    let mut last = read_tsc_ordered();
    let doubt = last.wrapping_sub(before);
    // Where there is no such timer, the port reads as all ones.
    if GATE.read() & OUTPUT != 0 {
        return Err(NoIntervalTimer);
    }
    for _ in 0..PATIENCE {
        let has_ended = GATE.read() & OUTPUT != 0;
        let now = read_tsc_ordered();
        if has_ended {
            let apic = timer::measured().wrapping_sub(apic_start);
            let end_doubt = read_tsc_ordered().wrapping_sub(last);
            return Ok(Sample {
                tsc: now.wrapping_sub(start),
                apic: u64::from(apic),
                doubt: doubt.wrapping_add(end_doubt),
            });
        }
        last = now;
    }
    Err(NoIntervalTimer)
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

/// Leaf 0x4000_0010, of hypervisors that have it: kHz.
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
    use super::{Sample, Source, choose, per_second, tsc_of_crystal};

    const SAMPLE: Sample = Sample { tsc: 24_000_000, apic: 10_000_000, doubt: 0 };

    #[test]
    fn speeds_are_scaled_from_the_window() {
        assert_eq!(per_second(11_932), 1_193_182);
        let clock = choose(SAMPLE, None, None);
        assert!(clock.tsc_hz.abs_diff(2_400_000_000) < 1_000_000);
        assert!(clock.apic_hz.abs_diff(1_000_000_000) < 1_000_000);
        assert_eq!(clock.source, Source::Measured);
    }

    #[test]
    fn a_stated_speed_counts_only_when_the_measurement_confirms_it() {
        let near = Some(2_401_000_000);
        let far = Some(2_700_000_000);
        assert_eq!(choose(SAMPLE, near, None).tsc_hz, 2_401_000_000);
        assert_eq!(choose(SAMPLE, near, None).source, Source::Processor);
        assert_eq!(choose(SAMPLE, near, near).source, Source::Hypervisor);
        assert_eq!(choose(SAMPLE, far, far).source, Source::Measured);
    }

    #[test]
    fn a_crystal_leaf_with_a_zero_states_nothing() {
        assert_eq!(tsc_of_crystal(2, 200, 24_000_000), Some(2_400_000_000));
        assert_eq!(tsc_of_crystal(0, 200, 24_000_000), None);
        assert_eq!(tsc_of_crystal(2, 0, 24_000_000), None);
        assert_eq!(tsc_of_crystal(2, 200, 0), None);
    }
}
