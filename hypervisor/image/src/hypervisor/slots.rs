//! Partitions, and in the strict profile the time slots that they take turns in.
//!
//! A CPU whose slot is over parks its scheduler, saves its guest and comes to [`change`]. When all CPUs
//! have come, the first one settles what was held back for the VMs of the next slot, and chooses for
//! every CPU, all as of the instant at which that slot begins. However long this takes, nobody goes on
//! before that instant, and from it on every CPU executes the same instructions whatever was before.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hv_arch::cpu::features::Features;
use hv_arch::cpu::residue;
use hv_arch::{irq, mmu};
use hv_core::addr::CpuId;
use hv_core::event::Source;
use hv_core::sched::Scheduler;
use hv_core::sched::partition::{Plan, Window};

use super::cpu::Cpu;
use super::lock::Lock;
use super::machine::{Vm, machine};
use super::teardown::Working;
use super::vcpu::Vcpu;
use super::{events, line, run};

/// What VMs that share time share beside it: no state of the hypervisor that one partition changes is
/// in the way of another. In the shared profile there is one.
#[derive(Debug)]
pub(super) struct Partition {
    /// Who of them runs where.
    pub(super) scheduler: Lock<Scheduler>,
    /// The one that is being taken apart.
    pub(super) working: Lock<Working>,
    /// How many are to be taken apart.
    pub(super) ending: AtomicU32,
}

impl Partition {
    /// A partition without VMs.
    pub(super) fn new(cpus: usize, vms: u32) -> Partition {
        Partition {
            scheduler: Lock::new(Scheduler::new(cpus, vms)),
            working: Lock::new(Working::IDLE),
            ending: AtomicU32::new(0),
        }
    }
}

/// The slots of the strict profile.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) plan: Plan,
    features: Features,
    /// CPUs that take part, known when all have started.
    present: AtomicU64,
    /// CPUs that have come to a change, over all changes.
    arrived: AtomicU64,
    /// Changes that are settled.
    settled: AtomicU64,
    /// The slot that began last.
    window: AtomicU64,
    /// Slots that began late.
    late: AtomicU64,
}

/// What a CPU knows of its slot.
#[derive(Debug)]
pub(super) struct OwnSlot {
    /// Index of the partition whose slot it is.
    partition: AtomicUsize,
    /// When guests start and stop in it; in the shared profile 0 and never.
    begin: AtomicU64,
    end: AtomicU64,
    /// Changes that this CPU came to.
    changes: AtomicU64,
    /// What it is to run: an index, and when its timer is due.
    chosen: AtomicUsize,
    timer: AtomicU64,
}

/// No vCPU, no slot, no number of CPUs.
const NONE: u64 = u64::MAX;
/// Nanoseconds of the last wait before a slot.
const APPROACH_NS: u64 = 20_000;
/// The CPU that settles.
const FIRST: CpuId = CpuId(0);

impl OwnSlot {
    /// A slot that never ends.
    pub(super) const fn endless() -> OwnSlot {
        OwnSlot::ending_at(NONE)
    }

    /// A slot that is over.
    pub(super) const fn over() -> OwnSlot {
        OwnSlot::ending_at(0)
    }

    const fn ending_at(end: u64) -> OwnSlot {
        OwnSlot {
            partition: AtomicUsize::new(0),
            begin: AtomicU64::new(0),
            end: AtomicU64::new(end),
            changes: AtomicU64::new(0),
            chosen: AtomicUsize::new(usize::MAX),
            timer: AtomicU64::new(NONE),
        }
    }

    /// The partition whose slot it is.
    #[inline(always)]
    pub(super) fn partition(&self) -> usize {
        self.partition.load(Ordering::Relaxed)
    }

    /// When guests start in it.
    #[inline(always)]
    pub(super) fn begin(&self) -> u64 {
        self.begin.load(Ordering::Relaxed)
    }

    /// When guests stop in it.
    #[inline(always)]
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Whether it is over.
    #[inline(always)]
    pub(super) fn is_over(&self) -> bool {
        self.end() != NONE && machine().clock.now() >= self.end()
    }

    fn enter(&self, window: &Window) {
        self.partition.store(window.partition, Ordering::Relaxed);
        self.begin.store(window.begin, Ordering::Relaxed);
        self.end.store(window.end, Ordering::Relaxed);
    }
}

impl Slots {
    /// The slots of a plan, none of which has begun.
    pub(super) const fn new(plan: Plan, features: Features) -> Slots {
        Slots {
            plan,
            features,
            present: AtomicU64::new(NONE),
            arrived: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            window: AtomicU64::new(NONE),
            late: AtomicU64::new(0),
        }
    }

    /// Lets the first slot begin when so many CPUs have come.
    pub(super) fn start(&self, cpus: u64) {
        self.present.store(cpus, Ordering::SeqCst);
    }

    /// Changes so far, how often CPUs forgot at them, and how many slots began late.
    pub(super) fn counts(&self) -> [u64; 3] {
        [self.settled.load(Ordering::SeqCst), residue::forgotten(), self.late.load(Ordering::SeqCst)]
    }

    /// Prepares the next slot. All CPUs have come.
    fn settle(&self, cpu: &Cpu) {
        let now = machine().clock.now();
        let last = self.window.load(Ordering::Relaxed);
        let window = self.plan.after(if last == NONE { self.plan.at(now) } else { last }, now);
        self.window.store(window.number, Ordering::Relaxed);
        line::exchange(cpu.slot.partition());
        let present = || machine().cpus.iter().filter(|cpu| cpu.slot.changes.load(Ordering::SeqCst) != 0);
        present().for_each(|cpu| cpu.slot.enter(&window));
        machine().vms.iter().filter(|vm| vm.partition == window.partition).for_each(deliver);
        for cpu in present() {
            run::fire_timers(cpu);
            let (next, timer) = run::choose(cpu);
            cpu.slot.chosen.store(next.map_or(usize::MAX, |vcpu| vcpu.index), Ordering::Relaxed);
            cpu.slot.timer.store(timer, Ordering::Relaxed);
        }
        if machine().clock.now() >= window.begin {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Waits on this CPU, which has left its guest, for the begin of the next slot: what it runs then, and
/// when its timer is due.
pub(super) fn change(cpu: &Cpu, slots: &Slots) -> (Option<&'static Vcpu>, u64) {
    residue::forget(slots.features);
    cpu.forget_controls();
    let before = cpu.slot.changes.fetch_add(1, Ordering::SeqCst);
    slots.arrived.fetch_add(1, Ordering::SeqCst);
    if cpu.id == FIRST {
        let all = || slots.present.load(Ordering::SeqCst).saturating_mul(before.saturating_add(1));
        wait_until(|| slots.arrived.load(Ordering::SeqCst) >= all());
        slots.settle(cpu);
        slots.settled.fetch_add(1, Ordering::SeqCst);
    } else {
        wait_until(|| slots.settled.load(Ordering::SeqCst) > before);
    }
    let clock = machine().clock.0;
    // How late a timer is depends on how far away it was set, so the last way is the same each time.
    for early in [APPROACH_NS, 0] {
        let until = cpu.slot.begin().saturating_sub(early);
        while clock.at(hv_arch::cpu::read_tsc()) < until {
            irq::timer::arm(clock.first_tsc(until));
            hv_arch::cpu::wait_for_interrupt();
        }
    }
    (machine().vcpus.get(cpu.slot.chosen.load(Ordering::Relaxed)), cpu.slot.timer.load(Ordering::Relaxed))
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        mmu::flush::service();
        hv_arch::cpu::pause();
    }
}

/// Bit of console input in what is held back for a VM; the others are its channels.
const INPUT: u32 = 63;

/// Notes that a source of a VM happened in the slot of another partition. Takes as long whatever the VM
/// does.
pub(super) fn hold(vm: &Vm, source: Source) {
    let bit = match source {
        Source::Channel(channel) => channel,
        Source::ConsoleInput => INPUT,
        Source::Timer(_) => return,
    };
    vm.held.fetch_or(1_u64.wrapping_shl(bit), Ordering::SeqCst);
}

/// Lets a VM, whose slot begins, know of what happened meanwhile.
fn deliver(vm: &'static Vm) {
    let held = vm.held.swap(0, Ordering::SeqCst);
    for bit in (0..=INPUT).filter(|bit| held & 1_u64.wrapping_shl(*bit) != 0) {
        let source = if bit == INPUT { Source::ConsoleInput } else { Source::Channel(bit) };
        events::happened(vm, source);
    }
}
