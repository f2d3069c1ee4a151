//! What is to happen at a time: the end of a block, a guest's timer, the end of a cap's period.
//!
//! Each deadline lies in the heap of the CPU that set it, so that only that CPU's one-shot timer
//! has to be armed for it. Deadlines of 2^63 ns and later never come.

use alloc::boxed::Box;
use alloc::vec;

use super::VcpuKey;
use super::heap::Heap;
use crate::addr::CpuId;
use crate::addr::convert::index;

/// A time that never comes.
pub(super) const NEVER: u64 = u64::MAX;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A blocked vCPU wakes.
    Wake(VcpuKey),
    /// A vCPU's own timer.
    GuestTimer(VcpuKey),
    /// A VM that used up its cap may run again.
    Refill(u32),
}

/// All deadlines.
#[derive(Debug)]
pub(super) struct Deadlines {
    heaps: Box<[Heap]>,
    /// The CPU in whose heap each item is.
    homes: Box<[Option<CpuId>]>,
    vcpus: u32,
}

impl Deadlines {
    /// No deadlines yet, with room for one of each purpose.
    pub(super) fn new(cpus: usize, vcpus: u32, vms: u32) -> Deadlines {
        let items = index(u64::from(vcpus)).saturating_mul(2).saturating_add(index(u64::from(vms)));
        Deadlines {
            heaps: (0..cpus).map(|_| Heap::new(items)).collect(),
            homes: vec![None; items].into_boxed_slice(),
            vcpus,
        }
    }

    /// Sets a deadline in the place of the one with this purpose.
    pub(super) fn arm(&mut self, purpose: Purpose, cpu: CpuId, deadline: u64) {
        self.disarm(purpose);
        let item = self.item(purpose);
        if deadline > NEVER >> 1 {
            return;
        }
        if let Some(heap) = self.heaps.get_mut(index(u64::from(cpu.0)))
            && let Some(home) = self.homes.get_mut(index(u64::from(item)))
        {
            heap.set(item, deadline);
            *home = Some(cpu);
        }
    }

    /// Drops a deadline, if it is set.
    pub(super) fn disarm(&mut self, purpose: Purpose) {
        let item = self.item(purpose);
        let home = self.homes.get_mut(index(u64::from(item)));
        if let Some(cpu) = home.and_then(Option::take)
            && let Some(heap) = self.heaps.get_mut(index(u64::from(cpu.0)))
        {
            heap.remove(item);
        }
    }

    /// The next deadline of a CPU.
    pub(super) fn next(&self, cpu: CpuId) -> u64 {
        let heap = self.heaps.get(index(u64::from(cpu.0)));
        heap.and_then(Heap::top).map_or(NEVER, |(_, time)| time)
    }

    /// Takes a deadline of this CPU that has come.
    pub(super) fn take_due(&mut self, cpu: CpuId, now: u64) -> Option<Purpose> {
        let heap = self.heaps.get(index(u64::from(cpu.0)))?;
        let (item, _) = heap.top().filter(|(_, deadline)| *deadline <= now)?;
        let purpose = self.purpose(item);
        self.disarm(purpose);
        Some(purpose)
    }

    fn item(&self, purpose: Purpose) -> u32 {
        match purpose {
            Purpose::Wake(key) => key.0,
            Purpose::GuestTimer(key) => key.0.saturating_add(self.vcpus),
            Purpose::Refill(vm) => self.vcpus.saturating_mul(2).saturating_add(vm),
        }
    }

    fn purpose(&self, item: u32) -> Purpose {
        match item.checked_sub(self.vcpus) {
            None => Purpose::Wake(VcpuKey(item)),
            Some(rest) => match rest.checked_sub(self.vcpus) {
                None => Purpose::GuestTimer(VcpuKey(rest)),
                Some(vm) => Purpose::Refill(vm),
            },
        }
    }
}
