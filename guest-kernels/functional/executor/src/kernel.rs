//! Three tasks: two hand an event back and forth, one sleeps.

use core::cell::Cell;

use guest_sdk::event::Event;
use guest_sdk::executor::{Executor, block_on, sleep};
use guest_sdk::{Nanos, StartInfo, Status, check, check_eq, smp, time, verdict};

const ROUNDS: u32 = 20;
const NAP: Nanos = Nanos(2_000_000);

pub fn main(_start: &'static StartInfo) {
    match run() {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run() -> Result<(), Status> {
    let (first, second) = (Event::new(smp::current())?, Event::new(smp::current())?);
    let (rounds, naps) = (Cell::new(0), Cell::new(0));
    let started = time::now();
    let mut executor = Executor::new();
    executor.spawn(async {
        for _ in 0..ROUNDS {
            check_eq!(first.send(), Ok(()), "send");
            second.next().await;
            rounds.set(rounds.get() + 1);
        }
    });
    executor.spawn(async {
        for _ in 0..ROUNDS {
            first.next().await;
            sleep(Nanos(100_000)).await;
            check_eq!(second.send(), Ok(()), "send");
        }
    });
    executor.spawn(async {
        for _ in 0..5 {
            let before = time::now();
            sleep(NAP).await;
            check!(time::now().0 >= before.0 + NAP.0, "a nap was too short");
            naps.set(naps.get() + 1);
        }
    });
    executor.run();
    drop(executor);
    check_eq!((rounds.get(), naps.get()), (ROUNDS, 5), "rounds and naps");
    check!(time::now().0 - started.0 >= 5 * NAP.0, "the naps took no time");
    check_eq!(block_on(async { 7 }), 7, "the result of a future");
    Ok(())
}
