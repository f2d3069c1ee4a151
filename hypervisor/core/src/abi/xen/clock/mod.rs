//! Time as Xen's guests know it: how they read it, their timers, and how long their vCPUs ran.
//!
//! All times are nanoseconds of the VM's clock, which is 0 at its start. All vCPUs get the same
//! parameters, once, and read the same from the same counter: so the clock is stated to be stable. What
//! the guest computes is the VM's clock, or one nanosecond less, because both round down.

use protocol::handle::Nanos;
use protocol::xen::Errno;
use protocol::xen::structure::{RunstateInfo, VcpuTimeInfo};

use crate::time::{SECOND, VmClock};

/// All vCPUs read the same time.
const STABLE: u8 = 1;
/// Shortest period of a timer.
const MILLISECOND: u64 = 1_000_000;
/// Period of the timer that runs from the start.
const FIRST_PERIOD: u64 = 10 * MILLISECOND;
/// A deadline of `set_timer_op` so many bits of nanoseconds ahead is a guest's overflow, not meant.
const FAR_BITS: u32 = 50;
/// What such a deadline is taken for.
const FAR_INSTEAD: u64 = 100 * MILLISECOND;
/// How far the guest's clock can be behind the VM's.
const LAG: u64 = 1;
/// A deadline that never comes.
const NEVER: u64 = Nanos::NEVER.0;

/// The version of something that a guest reads while it is changed: odd as long as that takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version(u32);

impl Version {
    /// What to store before a change, and what after it.
    pub const fn advance(&mut self) -> (u32, u32) {
        let during = self.0.wrapping_add(1);
        self.0 = self.0.wrapping_add(2);
        (during, self.0)
    }
}

/// What a vCPU reads time with, of this version. It holds for the VM's whole life. A VM that may see
/// coarse time only must not get it.
#[must_use]
pub fn time_info(clock: VmClock, version: u32) -> VcpuTimeInfo {
    let (scale, tsc_timestamp) = clock.origin();
    let (tsc_to_system_mul, tsc_shift) = scale.normalised();
    VcpuTimeInfo { version, tsc_timestamp, tsc_to_system_mul, tsc_shift, flags: STABLE, ..VcpuTimeInfo::default() }
}

/// The wall clock's words: seconds, the rest in nanoseconds, and the seconds' upper half. `at_start` is
/// the time since 1970 when the VM's clock was 0.
#[must_use]
pub fn wall_clock(at_start: u64) -> [u32; 3] {
    let (seconds, rest) = (at_start / SECOND, at_start % SECOND);
    [seconds & u64::from(u32::MAX), rest, seconds >> 32].map(|word| u32::try_from(word).unwrap_or(u32::MAX))
}

/// The timers of one vCPU. Both raise the same virtual interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// When the single shot is due.
    single: u64,
    /// When the periodic timer is due next.
    tick: u64,
    /// Between its ticks.
    period: u64,
}

impl Timers {
    /// Of a vCPU that comes into being: a periodic timer runs.
    #[must_use]
    pub const fn new(now: u64) -> Timers {
        Timers { single: NEVER, tick: now.saturating_add(FIRST_PERIOD), period: FIRST_PERIOD }
    }

    /// Sets the single shot. One that is past is due at once.
    pub const fn set_single(&mut self, deadline: u64) {
        self.single = deadline.saturating_add(LAG);
    }

    /// Stops the single shot.
    pub const fn stop_single(&mut self) {
        self.single = NEVER;
    }

    /// Sets the single shot as `set_timer_op` does.
    pub const fn set_single_or_stop(&mut self, deadline: u64, now: u64) {
        if deadline == 0 {
            self.stop_single();
        } else if deadline.saturating_sub(now) >> FAR_BITS == 0 {
            self.set_single(deadline);
        } else {
            self.set_single(now.saturating_add(FAR_INSTEAD));
        }
    }

    /// Starts the periodic timer.
    ///
    /// # Errors
    /// `Invalid` for a period below a millisecond.
    pub const fn set_periodic(&mut self, period: u64, now: u64) -> Result<(), Errno> {
        if period < MILLISECOND {
            return Err(Errno::Invalid);
        }
        self.period = period;
        self.tick = now.saturating_add(period);
        Ok(())
    }

    /// Stops the periodic timer.
    pub const fn stop_periodic(&mut self) {
        self.tick = NEVER;
    }

    /// When anything is due: what `VmClock::to_machine` takes.
    #[must_use]
    pub fn due(&self) -> Nanos {
        Nanos(self.single.min(self.tick))
    }

    /// Takes what is due; whether the virtual interrupt is raised. Ticks that were missed come as one, and
    /// the next keeps the rate.
    pub fn take_due(&mut self, now: u64) -> bool {
        if self.due().0 > now {
            return false;
        }
        if self.single <= now {
            self.single = NEVER;
        }
        if let Some(late) = now.checked_sub(self.tick) {
            let rest = late.checked_rem(self.period).unwrap_or(0);
            self.tick = now.saturating_sub(rest).saturating_add(self.period);
        }
        true
    }
}

/// What a vCPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It runs.
    Running,
    /// It could run.
    Runnable,
    /// It waits for an event.
    Blocked,
    /// It is down.
    Offline,
}

/// How long a vCPU did what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runstate {
    activity: Activity,
    since: u64,
    spent: [u64; 4],
}

impl Runstate {
    /// Of a vCPU that comes into being.
    #[must_use]
    pub const fn new(now: u64) -> Runstate {
        Runstate { activity: Activity::Offline, since: now, spent: [0; 4] }
    }

    /// Notes that it does something else from `now` on.
    pub fn change(&mut self, activity: Activity, now: u64) {
        self.spent = self.until(now);
        self.since = self.since.max(now);
        self.activity = activity;
    }

    /// As the registered area shows it: what was complete when the vCPU began what it does.
    #[must_use]
    pub fn info(&self) -> RunstateInfo {
        RunstateInfo { state: self.number(), pad0: 0, state_entry_time: self.since, time: self.spent }
    }

    /// As the call answers: with what was spent until now.
    #[must_use]
    pub fn info_at(&self, now: u64) -> RunstateInfo {
        RunstateInfo { time: self.until(now), ..self.info() }
    }

    fn until(&self, now: u64) -> [u64; 4] {
        let mut spent = self.spent;
        let current = usize::try_from(self.number()).ok().and_then(|number| spent.get_mut(number));
        if let Some(current) = current {
            *current = current.saturating_add(now.saturating_sub(self.since));
        }
        spent
    }

    const fn number(&self) -> i32 {
        match self.activity {
            Activity::Running => 0,
            Activity::Runnable => 1,
            Activity::Blocked => 2,
            Activity::Offline => 3,
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "tests compute with small numbers of their own"
)]
mod tests;
