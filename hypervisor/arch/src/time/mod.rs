//! How fast the clocks run.
//!
//! The time-stamp counter is the only clock that is read later; here its speed, and that of the
//! local controller's timer, is measured against the interval timer (PIT), whose speed is fixed. What
//! CPUID says is more exact, and is believed when the measurement confirms it: an emulator may repeat
//! the numbers of a CPU that runs at another speed.

use x86::cpuid::CpuId;

use crate::cpu::read_tsc_ordered;
use crate::io::port::{PIT_CHANNEL_2, PIT_COMMAND, PIT_GATE};
use crate::irq::timer;

/// Ticks of the interval timer in a second.
const PIT_HZ: u64 = 1_193_182;
/// Ticks between the two ends of a measurement: 10 ms.
const WINDOW_TICKS: u64 = 11_932;
/// The interval timer counts down from here, once: 55 ms.
const FIRST_COUNT: u16 = u16::MAX;
/// Looks at the clocks for one end, and measurements; of each the sharpest counts.
const LOOKS: u32 = 8;
const TRIES: u32 = 4;
/// A measurement whose doubt is this part of it is sharp: no other is made.
const SHARP_PART: u64 = 4096;
/// Looks after which an interval timer that does not count is given up.
const PATIENCE: u32 = 1_000_000;
/// CPUID is believed within this part of the measured speed.
const BELIEVED_PART: u64 = 100;

/// Command: channel 2, both bytes, count down once.
const COUNT_ONCE: u8 = 0xb0;
/// Command: hold status and count of channel 2 until they are read.
const HOLD: u8 = 0xc8;
/// Bits of the status: the count has ended; it has not begun.
const ENDED: u8 = 1 << 7;
const NOT_LOADED: u8 = 1 << 6;

/// The speeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Ticks of the time-stamp counter in a second.
    pub tsc_hz: u64,
    /// Counts of the local controller's undivided timer in a second.
    pub apic_hz: u64,
}

/// The clocks at one moment, or what passed between two; and how far `tsc` and `apic` may be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    ticks: u64,
    tsc: u64,
    apic: u64,
    doubt: u64,
}

impl Sample {
    /// Whether it leaves so little doubt that a further measurement is not worth its time.
    const fn is_sharp(&self) -> bool {
        self.doubt.saturating_mul(SHARP_PART) <= self.tsc
    }

    fn since(&self, first: &Sample) -> Sample {
        Sample {
            ticks: self.ticks.saturating_sub(first.ticks),
            tsc: self.tsc.saturating_sub(first.tsc),
            apic: self.apic.saturating_sub(first.apic),
            doubt: self.doubt.saturating_add(first.doubt),
        }
    }

    /// What would pass in a second, at least 1.
    fn per_second(&self, passed: u64) -> u64 {
        let scaled = u128::from(passed).wrapping_mul(u128::from(PIT_HZ));
        let second = scaled.checked_div(u128::from(self.ticks)).unwrap_or(1);
        u64::try_from(second).unwrap_or(u64::MAX).max(1)
    }
}

static KNOWN: spin::Once<Clock> = spin::Once::new();

/// Measures the machine's clock the first time, for all CPUs. Takes 10 ms when nothing disturbs it, four times
/// as long at least when something does; the local controller must be on, and its timer is left disarmed.
///
/// # Errors
/// What the machine lacks: an interval timer. It cannot run the hypervisor.
pub fn learn() -> Result<&'static Clock, &'static str> {
    KNOWN.try_call_once(|| {
        let sharpest = sharpest((0..TRIES).filter_map(|_| measure()));
        timer::stop_measuring();
        let sharpest =
            sharpest.ok_or("this machine has no interval timer (PIT), which Cloister needs to measure clocks")?;
        Ok(choose(&sharpest, stated()))
    })
}

/// The first sharp sample, or the sharpest of all.
fn sharpest(samples: impl Iterator<Item = Sample>) -> Option<Sample> {
    let mut found: Option<Sample> = None;
    for sample in samples {
        if found.is_none_or(|found| sample.doubt < found.doubt) {
            found = Some(sample);
        }
        if sample.is_sharp() {
            break;
        }
    }
    found
}

/// The clock, when it has been measured.
#[must_use]
pub fn known() -> Option<&'static Clock> {
    KNOWN.get()
}

/// Lets channel 2 count down and compares the clocks at two moments. This CPU may stand still between
/// the two (an emulator on a busy host does), unless that takes longer than the count: then there is
/// no sample.
fn measure() -> Option<Sample> {
    PIT_GATE.write((PIT_GATE.read() & 0b1100) | 1);
    PIT_COMMAND.write(COUNT_ONCE);
    for byte in FIRST_COUNT.to_le_bytes() {
        PIT_CHANNEL_2.write(byte);
    }
    timer::start_measuring();
    let look_sharply = || (0..LOOKS).filter_map(|_| look()).min_by_key(|moment| moment.doubt);
    let first = look_sharply()?;
    for _ in 0..PATIENCE {
        if look()?.ticks >= first.ticks.saturating_add(WINDOW_TICKS) {
            return Some(look_sharply()?.since(&first));
        }
    }
    None
}

/// Looks at all clocks. Nothing when the count has ended, or there is no interval timer.
fn look() -> Option<Sample> {
    let before = read_tsc_ordered();
    PIT_COMMAND.write(HOLD);
    let apic = u64::from(timer::measured());
    let doubt = read_tsc_ordered().wrapping_sub(before);
    let status = PIT_CHANNEL_2.read();
    let count = u16::from_le_bytes([PIT_CHANNEL_2.read(), PIT_CHANNEL_2.read()]);
    // In the first microsecond the channel may still hold an old count.
    let is_loaded = status & NOT_LOADED == 0;
    let ticks = if is_loaded { FIRST_COUNT.wrapping_sub(count) } else { 0 };
    (status & ENDED == 0).then_some(Sample { ticks: u64::from(ticks), tsc: before, apic, doubt })
}

/// The measured speed, or the first stated one that it confirms.
fn choose(sample: &Sample, stated: [Option<u64>; 2]) -> Clock {
    let measured = sample.per_second(sample.tsc);
    let confirmed = stated.into_iter().flatten().find(|hz| hz.abs_diff(measured) <= measured / BELIEVED_PART);
    Clock { tsc_hz: confirmed.unwrap_or(measured), apic_hz: sample.per_second(sample.apic) }
}

/// What the hypervisor below states, and the CPU itself.
fn stated() -> [Option<u64>; 2] {
    let cpuid = CpuId::new();
    let below = cpuid.get_hypervisor_info().and_then(|info| info.tsc_frequency());
    let own = cpuid.get_tsc_info().and_then(|info| info.tsc_frequency());
    [below.map(|khz| u64::from(khz).wrapping_mul(1000)), own]
}

#[cfg(test)]
mod tests {
    use super::{Sample, choose, sharpest};

    const SAMPLE: Sample = Sample { ticks: 1_193_182 / 100, tsc: 24_000_000, apic: 10_000_000, doubt: 0 };

    #[test]
    fn speeds_are_scaled_from_the_window() {
        let clock = choose(&SAMPLE, [None, None]);
        assert!(clock.tsc_hz.abs_diff(2_400_000_000) < 1_000_000);
        assert!(clock.apic_hz.abs_diff(1_000_000_000) < 1_000_000);
        let still = choose(&Sample { ticks: 0, tsc: 0, apic: 0, doubt: 0 }, [None, None]);
        assert_eq!((still.tsc_hz, still.apic_hz), (1, 1));
    }

    #[test]
    fn a_sample_is_the_difference_of_its_moments_with_both_doubts() {
        let first = Sample { ticks: 10, tsc: 1_000, apic: 100, doubt: 3 };
        let last = Sample { ticks: 30, tsc: 5_000, apic: 400, doubt: 4 };
        assert_eq!(last.since(&first), Sample { ticks: 20, tsc: 4_000, apic: 300, doubt: 7 });
    }

    #[test]
    fn measuring_ends_with_a_sharp_sample() {
        let sample = |doubt| Sample { doubt, ..SAMPLE };
        let limit = SAMPLE.tsc / 4096;
        assert!(sample(limit).is_sharp() && !sample(limit + 1).is_sharp());
        let mut samples = [9_000, 7_000, limit, 1].map(sample).into_iter();
        assert_eq!(sharpest(samples.by_ref()), Some(sample(limit)));
        assert_eq!(samples.next(), Some(sample(1)));
        assert_eq!(sharpest([9_000, 7_000, 8_000].map(sample).into_iter()), Some(sample(7_000)));
        assert_eq!(sharpest(std::iter::empty()), None);
    }

    #[test]
    fn a_stated_speed_counts_only_when_the_measurement_confirms_it() {
        let measured = choose(&SAMPLE, [None, None]).tsc_hz;
        let near = Some(2_401_000_000);
        let far = Some(2_700_000_000);
        assert_eq!(choose(&SAMPLE, [near, None]).tsc_hz, 2_401_000_000);
        assert_eq!(choose(&SAMPLE, [Some(0), near]).tsc_hz, 2_401_000_000);
        assert_eq!(choose(&SAMPLE, [Some(2_402_000_000), near]).tsc_hz, 2_402_000_000);
        assert_eq!(choose(&SAMPLE, [far, far]).tsc_hz, measured);
    }
}
