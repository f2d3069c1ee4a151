//! The one kind of lock. The order: memory (lower VM first), grants, events, scheduler, console; a vCPU's own locks and
//! a VM's life are innermost. `xen` has an order of its own before the scheduler.

use spin::relax::RelaxStrategy;

/// A spin lock whose waiters go on answering flush requests, so that a CPU that waits for a lock
/// never keeps the holder waiting for it.
pub(super) type Lock<T> = spin::mutex::SpinMutex<T, Serving>;

/// What a waiter does between two tries.
#[derive(Debug)]
pub(super) struct Serving;

impl RelaxStrategy for Serving {
    fn relax() {
        hv_arch::mmu::flush::service();
        hv_arch::cpu::pause();
    }
}
