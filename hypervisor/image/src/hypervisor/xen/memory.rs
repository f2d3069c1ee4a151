//! The memory of a VM, locked, and its page tables as hv-core reaches them.

use core::ops::{Deref, DerefMut};

use hv_arch::mmu::{self, direct};
use hv_core::addr::Mfn;
use hv_core::paging::{GuestTables, Progress};
use hv_core::space::{Machine, TableMemory, ValidEntry};
use hv_core::vm::xen::XenMemory;
use protocol::xen::Errno;

use super::Domain;
use super::calls::Refusal;
use crate::hypervisor::lock::Serving;
use crate::hypervisor::machine::{DIRECT, Vm, machine};

/// The tables of a VM, with the CPUs that may know of them.
impl TableMemory for Vm {
    #[inline(always)]
    fn load(&self, frame: Mfn, index: usize) -> u64 {
        DIRECT.load(frame, index)
    }

    #[inline(always)]
    fn store(&self, table: Mfn, index: usize, entry: ValidEntry) {
        DIRECT.store(table, index, entry);
    }

    fn clear(&self, frame: Mfn) {
        DIRECT.clear(frame);
    }

    fn write(&self, frame: Mfn, offset: usize, bytes: &[u8]) {
        DIRECT.write(frame, offset, bytes);
    }
}

impl GuestTables for Vm {
    #[inline(always)]
    fn compare_exchange(&self, table: Mfn, index: usize, old: u64, entry: ValidEntry) -> Result<(), u64> {
        direct::compare_exchange_entry(table, index, old, entry)
    }

    #[inline(always)]
    fn store_word(&self, frame: Mfn, index: usize, value: u64) {
        direct::store_word(frame, index, value);
    }

    fn flush(&self) {
        flush_all(self);
    }
}

/// Has every CPU forget what it knows of a VM's tables; returns when all have.
pub(super) fn flush_all(vm: &Vm) {
    let own = 1 << hv_arch::local::id().0;
    let cpus = vm.cpus.load(core::sync::atomic::Ordering::SeqCst);
    if cpus & own != 0 {
        mmu::load_root(mmu::root());
    }
    if cpus & !own != 0 {
        mmu::flush::shoot_down(cpus);
    }
}

/// A VM's memory, locked.
pub(super) struct Memory<'a>(spin::mutex::SpinMutexGuard<'a, Option<XenMemory>, Serving>);

impl Deref for Memory<'_> {
    type Target = XenMemory;

    #[inline(always)]
    fn deref(&self) -> &XenMemory {
        match &*self.0 {
            Some(memory) => memory,
            None => crate::hypervisor::panic::broken("V2", "memory went away under its lock"),
        }
    }
}

impl DerefMut for Memory<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut XenMemory {
        match &mut *self.0 {
            Some(memory) => memory,
            None => crate::hypervisor::panic::broken("V2", "memory went away under its lock"),
        }
    }
}

impl Domain {
    /// The memory of the VM.
    ///
    /// # Errors
    /// `Again` when the VM ends: then none of its vCPUs sees the answer.
    #[inline(always)]
    pub(super) fn memory(&self) -> Result<Memory<'_>, Errno> {
        let guard = self.memory.lock();
        if guard.is_some() { Ok(Memory(guard)) } else { Err(Errno::Again) }
    }
}

/// What operations on a VM's memory work with.
#[inline(always)]
pub(super) fn tables(vm: &'static Vm) -> Machine<'static, Vm> {
    Machine { frames: &machine().frames, tables: vm }
}

/// What an operation came to, as the answer of a call: one that is not finished restarts the call.
///
/// # Errors
/// The operation's own, or [`Refusal::Restart`].
#[inline(always)]
pub(super) fn finished<T>(progress: Result<Progress<T>, Errno>) -> Result<T, Refusal> {
    match progress? {
        Progress::Done(value) => Ok(value),
        Progress::Again => Err(Refusal::Restart),
    }
}
