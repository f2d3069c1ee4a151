//! A small executor for one vCPU: futures that wait for events and times.
//!
//! Every wake-up polls every unfinished task; that is cheap for the handful of tasks that a small
//! kernel has, and leaves no way to miss one. Events are masked while tasks are polled, so that no
//! event slips between the last poll and the sleep.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use protocol::Nanos;

use crate::event::{self, Event};
use crate::raw::call;
use crate::time;

/// Tasks that run together until all are done.
#[derive(Default)]
pub struct Executor<'a> {
    tasks: Vec<Pin<Box<dyn Future<Output = ()> + 'a>>>,
}

impl core::fmt::Debug for Executor<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Executor").field("tasks", &self.tasks.len()).finish()
    }
}

/// The earliest time that a sleeping task waits for. One for all vCPUs: a wake-up too many is
/// harmless.
static NEXT_DEADLINE: AtomicU64 = AtomicU64::new(u64::MAX);

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl<'a> Executor<'a> {
    /// An executor without tasks.
    #[must_use]
    pub fn new() -> Executor<'a> {
        Executor::default()
    }

    /// Adds a task.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + 'a) {
        self.tasks.push(Box::pin(task));
    }

    /// Runs until all tasks are done, asleep while all wait.
    pub fn run(&mut self) {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        while !self.tasks.is_empty() {
            let _masked = event::masked();
            NEXT_DEADLINE.store(u64::MAX, Ordering::Relaxed);
            let mut context = Context::from_waker(&waker);
            self.tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            if self.tasks.is_empty() {
                return;
            }
            if !flag.0.swap(false, Ordering::AcqRel) {
                let _ = call::block(Nanos(NEXT_DEADLINE.load(Ordering::Relaxed)));
            }
            event::dispatch();
        }
    }
}

/// Runs one future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut result = None;
    let mut executor = Executor::new();
    executor.spawn(async { result = Some(future.await) });
    executor.run();
    drop(executor);
    match result {
        Some(result) => result,
        // The executor returns only when its one task is done.
        None => unreachable!(),
    }
}

/// Waits for a time.
pub async fn sleep_until(deadline: Nanos) {
    poll_fn(|_| {
        if time::now() >= deadline {
            return Poll::Ready(());
        }
        NEXT_DEADLINE.fetch_min(deadline.0, Ordering::Relaxed);
        Poll::Pending
    })
    .await;
}

/// Waits for a span of VM time.
pub async fn sleep(span: Nanos) {
    sleep_until(Nanos(time::now().0.saturating_add(span.0))).await;
}

impl Event {
    /// Waits until an event is taken, as [`Event::wait`] for tasks.
    pub async fn next(&self) {
        poll_fn(|_| if self.take() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{Executor, block_on, sleep};
    use core::cell::Cell;
    use core::future::poll_fn;
    use core::task::Poll;
    use protocol::Nanos;

    #[test]
    fn tasks_that_wake_each_other_all_end() {
        /// Ends when its turn has come, keeping the executor awake meanwhile.
        async fn take_turn(turn: &Cell<u32>, own: u32) {
            poll_fn(|context| {
                context.waker().wake_by_ref();
                if turn.get() == own { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            turn.set(own + 1);
        }

        let turn = Cell::new(0);
        let mut executor = Executor::new();
        for own in [2, 1, 0] {
            executor.spawn(take_turn(&turn, own));
        }
        executor.run();
        drop(executor);
        assert_eq!(turn.get(), 3);
    }

    #[test]
    #[cfg_attr(miri, ignore = "the interpreter has no time-stamp counter")]
    fn a_future_gives_its_result_after_sleeping() {
        let result = block_on(async {
            sleep(Nanos(1000)).await;
            7
        });
        assert_eq!(result, 7);
    }
}
