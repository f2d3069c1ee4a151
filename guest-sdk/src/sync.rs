//! A lock for data that several vCPUs and event handlers share.

use core::ops::{Deref, DerefMut};

use crate::event::{self, Masked};
use crate::raw::call;

/// A lock that masks events of the vCPU while it is held, so that an event handler can take it too.
///
/// A vCPU that finds it taken gives up its CPU: the holder may not be running. An exception handler
/// must not take a lock that the interrupted code may hold.
#[derive(Debug, Default)]
pub struct Mutex<T> {
    lock: spin::Mutex<T>,
}

/// Access to the data of a [`Mutex`], until it is dropped.
#[derive(Debug)]
pub struct Guard<'a, T> {
    // The order matters: the lock is released before events are unmasked.
    data: spin::MutexGuard<'a, T>,
    _masked: Masked,
}

impl<T> Mutex<T> {
    /// An unlocked lock.
    pub const fn new(data: T) -> Mutex<T> {
        Mutex { lock: spin::Mutex::new(data) }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        const SPINS: u32 = 100;
        let masked = event::masked();
        let mut spins = 0;
        loop {
            if let Some(data) = self.lock.try_lock() {
                return Guard { data, _masked: masked };
            }
            spins += 1;
            if spins < SPINS {
                core::hint::spin_loop();
            } else {
                spins = 0;
                let _ = call::yield_cpu();
            }
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let masked = event::masked();
        self.lock.try_lock().map(|data| Guard { data, _masked: masked })
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}
