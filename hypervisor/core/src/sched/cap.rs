//! A VM's upper limit of CPU time: a budget for each period, reserved before it is used.

/// Length of a period.
pub(super) const PERIOD: u64 = 100_000_000;
/// Budget that is not worth a switch; below it the VM waits for the next period.
const LEAST: i64 = 50_000;

/// The budget of one VM.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cap {
    budget: i64,
    /// Used in this period, with what was overdrawn before; below 0 as far as a reservation of the
    /// last period reaches into this one, for that is paid.
    used: i64,
    reserved: i64,
    period_end: u64,
    /// The VM waits for the period to end.
    pub(super) parked: bool,
}

impl Cap {
    /// A cap in percent of one CPU; 0 is none.
    pub(super) fn of_percent(percent: u32) -> Option<Cap> {
        (percent != 0).then_some(Cap {
            budget: signed(u64::from(percent).saturating_mul(PERIOD / 100)),
            used: 0,
            reserved: 0,
            period_end: 0,
            parked: false,
        })
    }

    /// When the period ends.
    pub(super) const fn period_end(&self) -> u64 {
        self.period_end
    }

    /// Moves to the period that holds `now`. What was overdrawn stays owed.
    pub(super) fn roll(&mut self, now: u64) {
        let Some(over) = now.checked_sub(self.period_end) else {
            return;
        };
        let periods = (over / PERIOD).saturating_add(1);
        let refilled = self.budget.saturating_mul(signed(periods));
        let prepaid = self.reserved.saturating_neg();
        self.used = self.used.saturating_sub(refilled).max(prepaid);
        self.period_end = self.period_end.saturating_add(periods.saturating_mul(PERIOD));
    }

    /// Whether the VM has to wait.
    pub(super) const fn is_exhausted(&self) -> bool {
        self.left() < LEAST
    }

    /// Sets aside at most `span`; how much that is.
    pub(super) fn reserve(&mut self, span: u64) -> u64 {
        let slice = signed(span).min(self.left()).max(0);
        self.reserved = self.reserved.saturating_add(slice);
        slice.unsigned_abs()
    }

    /// Replaces a reservation by what was used.
    pub(super) fn settle(&mut self, reserved: u64, used: u64) {
        self.reserved = self.reserved.saturating_sub(signed(reserved));
        self.used = self.used.saturating_add(signed(used));
    }

    const fn left(&self) -> i64 {
        self.budget.saturating_sub(self.used).saturating_sub(self.reserved)
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
