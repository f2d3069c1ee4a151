//! A VM's upper limit of CPU time: a budget for each period, reserved before it is used.

use crate::addr::CpuId;

/// Length of a period.
pub(super) const PERIOD: u64 = 100_000_000;
/// Budget that is not worth a switch; below it the VM waits for the next period.
const LEAST: i64 = 50_000;

/// The budget of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cap {
    budget: i64,
    /// What is neither used nor reserved; below 0 as far as it was overdrawn.
    left: i64,
    /// When the period ends.
    pub(super) period_end: u64,
    /// The VM waits for the period to end, and this CPU is interrupted then.
    pub(super) parked: Option<CpuId>,
}

impl Cap {
    /// A cap in percent of one CPU; 0 is none.
    pub(super) fn of_percent(percent: u32) -> Option<Cap> {
        let budget = signed(u64::from(percent).saturating_mul(PERIOD / 100));
        (percent != 0).then_some(Cap { budget, left: budget, period_end: 0, parked: None })
    }

    /// Moves to the period that holds `now`. What was overdrawn stays owed, and what is reserved stays
    /// paid, although its use may reach into this period.
    pub(super) fn roll(&mut self, now: u64) {
        if let Some(over) = now.checked_sub(self.period_end) {
            let periods = (over / PERIOD).saturating_add(1);
            let refilled = self.budget.saturating_mul(signed(periods));
            self.left = self.left.saturating_add(refilled).min(self.budget);
            self.period_end = self.period_end.saturating_add(periods.saturating_mul(PERIOD));
        }
    }

    /// Whether the VM has to wait.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.left < LEAST
    }

    /// Sets aside at most `span`; how much that is.
    pub(super) fn reserve(&mut self, span: u64) -> u64 {
        let slice = signed(span).min(self.left).max(0);
        self.left = self.left.saturating_sub(slice);
        slice.unsigned_abs()
    }

    /// Replaces a reservation by what was used.
    pub(super) fn settle(&mut self, reserved: u64, used: u64) {
        self.left = self.left.saturating_add(signed(reserved)).saturating_sub(signed(used));
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
