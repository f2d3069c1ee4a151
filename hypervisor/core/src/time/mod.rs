//! Conversion between ticks of a counter and nanoseconds, and the contents of a VM's time page.
//!
//! Everything is integer arithmetic that rounds so that nothing happens early: ticks to nanoseconds
//! round down, deadlines to ticks round up, both saturate. Reads no clock and arms no timer.

use protocol::handle::Nanos;
use protocol::processor::TimeSource;
use protocol::shared::{COARSE_STEP_NS, TimePage};

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// The rate of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Nanoseconds per tick, 32.32, rounded down to 32 significant bits: clocks that a Xen guest reads
    /// have no more, and all clocks of a machine shall run alike for years.
    multiplier: u64,
    /// Ticks per nanosecond, 32.32, rounded up against `multiplier`.
    inverse: u64,
}

impl Scale {
    /// The scale of a counter with `hz` ticks a second. Nothing for rates whose factors do not fit
    /// 32.32: 0 and those beyond some 4 * 10^18.
    #[must_use]
    pub fn new(hz: u64) -> Option<Scale> {
        let multiplier = (u128::from(SECOND) << 32).checked_div(u128::from(hz))?;
        let multiplier = u64::try_from(multiplier).ok()?;
        let excess = 32_u32.saturating_sub(multiplier.leading_zeros());
        let multiplier = multiplier.unbounded_shr(excess).unbounded_shl(excess);
        let inverse =
            (1_u128 << 64).checked_add(u128::from(multiplier).checked_sub(1)?)?.checked_div(u128::from(multiplier))?;
        Some(Scale { multiplier, inverse: u64::try_from(inverse).ok()? })
    }

    /// The multiplier as a fraction of 32 bits, the highest of them set, and the power of two to take it
    /// times.
    #[must_use]
    pub fn normalised(self) -> (u32, i8) {
        let bits = u64::BITS.wrapping_sub(self.multiplier.leading_zeros());
        let fraction = self.multiplier.unbounded_shl(32_u32.saturating_sub(bits)) >> bits.saturating_sub(32);
        let shift = i8::try_from(bits).unwrap_or_default().wrapping_sub(32);
        (u32::try_from(fraction).unwrap_or(u32::MAX), shift)
    }

    /// Nanoseconds of `ticks`, rounded down.
    #[must_use]
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        let product = u128::from(ticks).wrapping_mul(u128::from(self.multiplier));
        u64::try_from(product >> 32).unwrap_or(u64::MAX)
    }

    /// The ticks after which at least `nanoseconds` have passed. Too many by at most one tick and,
    /// for a counter of 1 MHz or more, one part in four million.
    #[must_use]
    pub fn ticks(self, nanoseconds: u64) -> u64 {
        let product = u128::from(nanoseconds).wrapping_mul(u128::from(self.inverse));
        let rounded = product.wrapping_add(u128::from(u32::MAX)) >> 32;
        u64::try_from(rounded).unwrap_or(u64::MAX)
    }
}

/// The machine's clock: nanoseconds since `base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    scale: Scale,
    base: u64,
}

impl Clock {
    /// A clock that reads 0 when the counter reads `base`.
    #[must_use]
    pub const fn new(scale: Scale, base: u64) -> Clock {
        Clock { scale, base }
    }

    /// The time at which the counter reads `tsc`. A counter that ran a little behind on another CPU
    /// reads as time 0, not as the far future.
    #[must_use]
    pub fn at(self, tsc: u64) -> u64 {
        self.scale.nanoseconds(since(tsc, self.base))
    }

    /// What the counter reads when `deadline` has come, seen from `now`. Never early; a deadline that
    /// has come gives `now`, one that never comes the greatest value.
    #[must_use]
    pub fn tsc_at(self, deadline: u64, now: u64) -> u64 {
        if deadline == u64::MAX {
            return u64::MAX;
        }
        let left = deadline.saturating_sub(self.at(now));
        now.saturating_add(self.scale.ticks(left))
    }

    /// The first value of the counter at which [`Clock::at`] gives `deadline` or more: the same whenever
    /// it is asked for, which costs a long division.
    #[must_use]
    pub fn first_tsc(self, deadline: u64) -> u64 {
        let multiplier = u128::from(self.scale.multiplier);
        let scaled = (u128::from(deadline) << 32).saturating_add(multiplier.saturating_sub(1));
        let ticks = scaled.checked_div(multiplier).and_then(|ticks| u64::try_from(ticks).ok());
        ticks.map_or(u64::MAX, |ticks| self.base.saturating_add(ticks))
    }
}

/// Ticks from `base` to `tsc`; 0 when `tsc` is before it.
fn since(tsc: u64, base: u64) -> u64 {
    let ticks = tsc.wrapping_sub(base);
    if ticks > u64::MAX >> 1 { 0 } else { ticks }
}

/// The start of the step that a time or a span ends in. Nothing finer reaches a VM with coarse time.
#[must_use]
#[inline(always)]
pub const fn quantised(nanoseconds: u64, time: TimeSource) -> u64 {
    match time {
        TimeSource::Native => nanoseconds,
        TimeSource::Coarse => nanoseconds.wrapping_sub(nanoseconds % COARSE_STEP_NS),
    }
}

/// The first time not before `nanoseconds` that a VM can see.
const fn next_visible(nanoseconds: u64, time: TimeSource) -> u64 {
    match time {
        TimeSource::Native => nanoseconds,
        TimeSource::Coarse => match nanoseconds.checked_next_multiple_of(COARSE_STEP_NS) {
            Some(next) => next,
            None => u64::MAX,
        },
    }
}

/// The time of one VM: 0 at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmClock {
    scale: Scale,
    /// Counter at the VM's start.
    tsc_base: u64,
    /// Machine time at the VM's start.
    started_ns: u64,
    /// Whether the VM sees steps of it only.
    source: TimeSource,
}

impl VmClock {
    /// The clock of a VM that starts when the counter reads `tsc`.
    #[must_use]
    pub fn starting_at(clock: Clock, tsc: u64, source: TimeSource) -> VmClock {
        VmClock { scale: clock.scale, tsc_base: tsc, started_ns: clock.at(tsc), source }
    }

    /// Its rate, and what the counter read at the VM's start.
    #[must_use]
    pub const fn origin(self) -> (Scale, u64) {
        (self.scale, self.tsc_base)
    }

    /// The VM's time when the counter reads `tsc`: what the guest computes from its time page.
    #[must_use]
    pub fn at(self, tsc: u64) -> Nanos {
        Nanos(quantised(self.scale.nanoseconds(since(tsc, self.tsc_base)), self.source))
    }

    /// Machine time at which the next step of a coarse clock begins, seen from `tsc`: its page is due
    /// then. Never for a clock that the guest reads from the counter.
    #[must_use]
    pub fn next_step(self, tsc: u64) -> u64 {
        match self.source {
            TimeSource::Native => u64::MAX,
            TimeSource::Coarse => self.to_machine(Nanos(self.at(tsc).0.saturating_add(1))),
        }
    }

    /// Machine time of a deadline in VM time: when the guest sees that it has come. One nanosecond is added because both clocks round
    /// down: without it the VM's clock could still be one short.
    #[must_use]
    pub fn to_machine(self, deadline: Nanos) -> u64 {
        if deadline == Nanos::NEVER {
            return u64::MAX;
        }
        next_visible(deadline.0, self.source).saturating_add(self.started_ns).saturating_add(1)
    }

    /// The VM's time page at its start. It stays as it is, but for `time_base_ns` of a coarse clock,
    /// which is one word: so its version is even always.
    #[must_use]
    pub const fn page(self) -> TimePage {
        let (tsc_base, multiplier) = match self.source {
            TimeSource::Native => (self.tsc_base, self.scale.multiplier),
            TimeSource::Coarse => (0, 0),
        };
        TimePage { version: 2, reserved: 0, tsc_base, multiplier, time_base_ns: 0, wall_base_ns: 0 }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests compute with small numbers of their own")]
mod tests;
