//! The VM's clock, read without a call, and sleeping.

use protocol::Nanos;
use protocol::shared::TimePage;

use crate::event;
use crate::raw::page;

/// VM time: nanoseconds since the VM started. It does not run backwards on any vCPU.
#[must_use]
pub fn now() -> Nanos {
    let (page, tsc) = page::read_time();
    Nanos(time_at(&page, tsc))
}

/// Wall-clock nanoseconds since 1970, where the machine knows them.
#[must_use]
pub fn wall_clock() -> Option<Nanos> {
    let (page, tsc) = page::read_time();
    let base = page.wall_base_ns;
    (base != 0).then(|| Nanos(base.wrapping_add(time_at(&page, tsc))))
}

/// Sleeps for a span of VM time; events are handled meanwhile.
pub fn sleep(span: Nanos) {
    let end = Nanos(now().0.saturating_add(span.0));
    event::wait_deadline(end, || false);
}

/// The formula of the time page.
fn time_at(page: &TimePage, tsc: u64) -> u64 {
    let ticks = tsc.saturating_sub(page.tsc_base);
    let nanos = (u128::from(ticks) * u128::from(page.multiplier)) >> 32;
    page.time_base_ns.wrapping_add(nanos as u64)
}

#[cfg(test)]
mod tests {
    use super::time_at;
    use protocol::shared::TimePage;

    fn page() -> TimePage {
        TimePage { tsc_base: 1000, multiplier: 1 << 31, time_base_ns: 7, ..TimePage::default() }
    }

    #[test]
    fn ticks_become_nanoseconds_by_the_multiplier() {
        assert_eq!(time_at(&page(), 1000), 7);
        assert_eq!(time_at(&page(), 3000), 1007);
    }

    #[test]
    fn a_counter_behind_the_base_reads_as_the_base() {
        assert_eq!(time_at(&page(), 10), 7);
    }

    #[test]
    fn coarse_time_is_the_base() {
        let page = TimePage { tsc_base: 0, multiplier: 0, ..page() };
        assert_eq!(time_at(&page, 0), 7);
    }

    #[test]
    fn years_of_ticks_do_not_overflow() {
        assert_eq!(time_at(&page(), 1000 + (1 << 62)), 7 + (1 << 61));
    }
}
