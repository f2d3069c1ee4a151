//! The one-shot timer.

use guest_sdk::protocol::call::TimerSet;
use guest_sdk::timer::Timer;
use guest_sdk::{Nanos, time};

use crate::case::Outcome;
use crate::{ensure, record};

crate::cases! {
    TimerSet "the last deadline counts" ["TIM-1"] [] replace;
    TimerSet "never early" ["TIM-2"] [] never_early;
}

const MILLISECOND: u64 = 1_000_000;

fn from_now(span: u64) -> Nanos {
    Nanos(time::now().0 + span)
}

fn set(deadline: Nanos) -> Result<Nanos, guest_sdk::Status> {
    record::make(TimerSet { deadline }).map(|()| deadline)
}

fn replace() -> Outcome {
    let timer = Timer::new()?;
    set(from_now(10 * MILLISECOND))?;
    set(from_now(60_000 * MILLISECOND))?;
    ensure!(
        !timer.event().wait_deadline(from_now(30 * MILLISECOND)),
        "a deadline that was replaced by a later one came"
    );
    set(from_now(MILLISECOND))?;
    ensure!(
        timer.event().wait_deadline(from_now(5_000 * MILLISECOND)),
        "an earlier deadline did not replace the later"
    );
    set(from_now(10 * MILLISECOND))?;
    set(Nanos::NEVER)?;
    ensure!(!timer.event().wait_deadline(from_now(30 * MILLISECOND)), "a deadline that was disarmed came");
    Ok(())
}

fn never_early() -> Outcome {
    let timer = Timer::new()?;
    for past in [Nanos(0), Nanos(time::now().0 - 1)] {
        set(past)?;
        ensure!(
            timer.event().wait_deadline(from_now(5_000 * MILLISECOND)),
            "deadline {past} has passed and never came"
        );
    }
    for round in 1..=20 {
        let deadline = set(from_now(round * 50_000))?;
        ensure!(timer.event().wait_deadline(from_now(5_000 * MILLISECOND)), "deadline {deadline} never came");
        let now = time::now();
        ensure!(now >= deadline, "deadline {deadline} came at {now}");
    }
    Ok(())
}
