//! What each physical CPU is doing.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hv_core::addr::CpuId;

use super::machine::{Machine, machine};
use super::slots::{OwnSlot, Partition};
use super::vcpu::Vcpu;

/// A physical CPU.
#[derive(Debug)]
pub(super) struct Cpu {
    /// Its number.
    pub(super) id: CpuId,
    /// Index of the vCPU whose registers are loaded, or [`NONE`].
    current: AtomicUsize,
    /// Bits of [`work`].
    work: AtomicU32,
    /// The [`super::vcpu::Vcpu::controls`] that are in force.
    controls: AtomicU64,
    /// The window whose tables are in force, or 0 for the native ones.
    #[cfg(feature = "xen")]
    pub(super) tables: AtomicU64,
    /// The time slot that it is in.
    pub(super) slot: OwnSlot,
}

/// No vCPU is loaded.
const NONE: usize = usize::MAX;

/// What is to be done before a guest goes on.
pub(super) mod work {
    /// Ask the scheduler.
    pub(in super::super) const RESCHEDULE: u32 = 1;
    /// Look for events.
    pub(in super::super) const EVENTS: u32 = 2;
}

impl Cpu {
    /// A CPU that runs nothing.
    pub(super) const fn new(id: CpuId, slot: OwnSlot) -> Cpu {
        Cpu {
            id,
            current: AtomicUsize::new(NONE),
            work: AtomicU32::new(0),
            controls: AtomicU64::new(u64::MAX),
            #[cfg(feature = "xen")]
            tables: AtomicU64::new(0),
            slot,
        }
    }

    /// The partition whose slot it is.
    #[inline(always)]
    pub(super) fn partition(&self) -> &'static Partition {
        machine().partition(self.slot.partition())
    }

    /// The vCPU whose registers are loaded.
    #[inline(always)]
    pub(super) fn current(&self) -> Option<&'static Vcpu> {
        self.current_of(machine())
    }

    #[inline(always)]
    fn current_of(&self, machine: &'static Machine) -> Option<&'static Vcpu> {
        machine.vcpus.get(self.current.load(Ordering::Relaxed))
    }

    /// Notes whose registers are loaded.
    pub(super) fn set_current(&self, vcpu: Option<&Vcpu>) {
        self.current.store(vcpu.map_or(NONE, |vcpu| vcpu.index), Ordering::Relaxed);
    }

    /// Has the next vCPU's controls put in force whatever was in force before.
    pub(super) fn forget_controls(&self) {
        self.controls.store(u64::MAX, Ordering::Relaxed);
    }

    /// Puts a vCPU's controls in force, as far as they differ from the last one's.
    #[inline(always)]
    pub(super) fn load_controls(&self, vcpu: &Vcpu) {
        let difference = self.controls.swap(vcpu.controls, Ordering::Relaxed) ^ vcpu.controls;
        if difference != 0 && vcpu.has_tsc_aux() {
            hv_arch::cpu::set_tsc_aux(vcpu.id.0);
        }
        if difference >> u32::BITS != 0 {
            hv_arch::cpu::load_controls(vcpu.vm().processor.controls());
        }
    }

    /// Asks for work before the next return to a guest. Own CPU only; others are interrupted.
    pub(super) fn ask(&self, bits: u32) {
        self.work.fetch_or(bits, Ordering::Relaxed);
    }

    /// Whether work was asked for.
    #[inline(always)]
    pub(super) fn has_work(&self) -> bool {
        self.work.load(Ordering::Relaxed) != 0
    }

    /// Takes the work that was asked for.
    pub(super) fn take_work(&self) -> u32 {
        self.work.swap(0, Ordering::Relaxed)
    }
}

/// The CPU that executes this.
#[inline(always)]
pub(super) fn own() -> &'static Cpu {
    own_of(machine())
}

/// The CPU that executes this, and the vCPU whose registers are loaded. The machine is looked up once.
#[inline(always)]
pub(super) fn entered() -> (&'static Cpu, Option<&'static Vcpu>) {
    let machine = machine();
    let cpu = own_of(machine);
    (cpu, cpu.current_of(machine))
}

#[inline(always)]
fn own_of(machine: &'static Machine) -> &'static Cpu {
    let id = hv_arch::local::id();
    let index = usize::try_from(id.0).unwrap_or(usize::MAX);
    match machine.cpus.get(index) {
        Some(cpu) => cpu,
        None => super::panic::broken("L1", "a CPU runs that was never set up"),
    }
}
