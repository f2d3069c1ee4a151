//! The machine's time: nanoseconds since the hypervisor started, from the time-stamp counter.

use hv_core::time;

/// The clock of all CPUs, whose counters run together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(pub(super) time::Clock);

impl Clock {
    /// Nanoseconds since the start.
    #[inline(always)]
    pub(super) fn now(self) -> u64 {
        self.0.at(hv_arch::cpu::read_tsc())
    }
}
