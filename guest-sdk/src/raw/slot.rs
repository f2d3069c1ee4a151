//! A place for a function pointer that any vCPU may read while another replaces it.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicPtr, Ordering};

/// Holds a function pointer of type `F`, or none.
#[derive(Debug)]
pub struct Slot<F> {
    pointer: AtomicPtr<()>,
    kind: PhantomData<F>,
}

impl<A: ?Sized> Default for Slot<fn(&mut A)> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: ?Sized> Slot<fn(&mut A)> {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Slot { pointer: AtomicPtr::new(core::ptr::null_mut()), kind: PhantomData }
    }

    /// Puts a function in.
    pub fn set(&self, function: fn(&mut A)) {
        self.pointer.store(function as *mut (), Ordering::Release);
    }

    /// Takes the function out.
    pub fn clear(&self) {
        self.pointer.store(core::ptr::null_mut(), Ordering::Release);
    }

    /// The function.
    #[must_use]
    pub fn function(&self) -> Option<fn(&mut A)> {
        let pointer = self.pointer.load(Ordering::Acquire);
        if pointer.is_null() {
            return None;
        }
        // SAFETY: only `set` stores anything but null, and it stores a function of this type; a
        // function pointer has the size and validity of a data pointer on this architecture.
        Some(unsafe { *(&raw const pointer).cast::<fn(&mut A)>() })
    }
}

#[cfg(test)]
mod tests {
    use super::Slot;

    #[test]
    fn a_slot_gives_back_the_function_that_was_put_in() {
        let slot: Slot<fn(&mut u32)> = Slot::new();
        assert!(slot.function().is_none());
        slot.set(|number| *number += 1);
        let mut number = 1;
        slot.function().unwrap()(&mut number);
        assert_eq!(number, 2);
        slot.clear();
        assert!(slot.function().is_none());
    }
}
