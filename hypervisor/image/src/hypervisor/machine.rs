//! The one owner of everything: the machine, its CPUs and its VMs. Made once by `start`.

use alloc::boxed::Box;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hv_arch::guest::fpu;
use hv_arch::mmu::{self, direct::DirectMap};
use hv_core::abi::native::cpuid::{Gate, Processor};
use hv_core::addr::{CpuId, Mfn};
use hv_core::event::PortTable;
use hv_core::frame::FrameTable;
use hv_core::grant::GrantTable;
use hv_core::policy::Permit;
use hv_core::space::{self, Flush, HypervisorSlots, Memory};
use hv_core::time::VmClock;
use hv_core::vm::{ChannelEnd, SystemImage};
use protocol::flags::Features;
use protocol::layout::PAGE_SIZE;
use protocol::manifest::OnCrash;
use protocol::policy::Subject;
use protocol::processor::{PortRange, TimeSource};
use protocol::{GuestVirt, Nanos, Status, VcpuId, VmId};

use super::cell::Cell;
use super::clock::Clock;
use super::cpu::Cpu;
use super::line::Line;
use super::lock::{Lock, Serving};
use super::slots::{Partition, Slots};
use super::vcpu::Vcpu;
use super::xen;

/// The machine.
#[derive(Debug)]
pub(super) struct Machine {
    /// The record of every frame.
    pub(super) frames: FrameTable<'static>,
    /// The VMs, in the order of the system file.
    pub(super) vms: Box<[Vm]>,
    /// All vCPUs, those of a VM together.
    pub(super) vcpus: Box<[Vcpu]>,
    /// The physical CPUs.
    pub(super) cpus: Box<[Cpu]>,
    /// The VMs that share time.
    pub(super) partitions: Box<[Partition]>,
    /// The time slots, in the strict profile.
    pub(super) time_slots: Option<Slots>,
    /// The serial line.
    pub(super) line: Lock<Line>,
    /// Time.
    pub(super) clock: Clock,
    /// How floating-point state is kept.
    pub(super) fpu: fpu::Method,
    /// How `cpuid` is kept from guests.
    pub(super) gate: Gate,
    /// The root that is loaded while no guest is.
    pub(super) root: Mfn,
    /// The hypervisor's slots of every root.
    pub(super) slots: HypervisorSlots,
    /// What was asked for, and the bytes to build it from.
    pub(super) image: &'static SystemImage<'static>,
    /// For each VM its channel ends.
    pub(super) ends: Box<[&'static [ChannelEnd<'static>]]>,
    /// VMs that are not gone.
    pub(super) live: AtomicU32,
    /// VMs that died or ended with an error.
    pub(super) failed: AtomicU32,
}

static MACHINE: spin::Once<Machine> = spin::Once::new();
/// The frames of the machine.
pub(super) static DIRECT: DirectMap = DirectMap;

/// Makes the machine known. Once, before any other CPU runs.
pub(super) fn install(machine: Machine) -> &'static Machine {
    MACHINE.call_once(|| machine)
}

/// The machine.
#[inline(always)]
pub(super) fn machine() -> &'static Machine {
    match MACHINE.get() {
        Some(machine) => machine,
        None => super::panic::broken("L3", "a trap came before the machine was set up"),
    }
}

/// Whether the machine is known already.
pub(super) fn is_installed() -> bool {
    MACHINE.get().is_some()
}

/// VM and vCPU that this CPU runs, for a panic.
pub(super) fn running() -> Option<(u32, u32)> {
    if !is_installed() {
        return None;
    }
    let vcpu = super::cpu::own().current()?;
    Some((vcpu.vm().id.0, vcpu.id.0))
}

impl Machine {
    /// What operations on memory work with.
    #[inline(always)]
    pub(super) fn memory(&self) -> space::Machine<'_, DirectMap> {
        space::Machine { frames: &self.frames, tables: &DIRECT }
    }

    /// The memory that a permit is for.
    ///
    /// # Errors
    /// Those of [`Vm::memory`].
    #[inline(always)]
    pub(super) fn memory_of(&self, permit: Permit) -> Result<MemoryGuard<'_>, Status> {
        self.vm(permit.object()).ok_or(Status::NotPermitted)?.memory()
    }

    /// A partition by its index.
    #[inline(always)]
    pub(super) fn partition(&self, index: usize) -> &Partition {
        match self.partitions.get(index) {
            Some(partition) => partition,
            None => super::panic::broken("V5", "a CPU or a VM of no partition"),
        }
    }

    /// A VM by its number.
    pub(super) fn vm(&self, id: VmId) -> Option<&Vm> {
        self.vms.get(usize::try_from(id.0).unwrap_or(usize::MAX))
    }
}

/// A virtual machine.
#[derive(Debug)]
pub(super) struct Vm {
    /// Its number.
    pub(super) id: VmId,
    /// The processor that it sees.
    pub(super) processor: Processor,
    /// What it is offered.
    pub(super) features: Features,
    /// Whether it has debug registers.
    pub(super) has_debug_registers: bool,
    /// The I/O ports that it has.
    pub(super) io_ports: &'static [PortRange],
    /// Index of its partition.
    pub(super) partition: usize,
    /// What happened for it in the slots of others.
    pub(super) held: AtomicU64,
    /// Index of its first vCPU among all.
    pub(super) first_vcpu: usize,
    /// How many it has.
    pub(super) vcpu_count: usize,
    /// Its memory; nothing while it does not exist.
    pub(super) memory: Lock<Option<Memory>>,
    /// Its event ports.
    pub(super) ports: Lock<PortTable>,
    /// The grants that it gave.
    pub(super) grants: Lock<GrantTable>,
    /// Its time.
    pub(super) clock: Lock<VmClock>,
    /// How it sees time.
    pub(super) time: TimeSource,
    /// The frame of its time page.
    pub(super) time_page: Cell,
    /// CPUs that have one of its roots loaded, one bit each.
    pub(super) cpus: AtomicU64,
    /// How far its life has gone.
    pub(super) life: Lock<Life>,
    /// How often it may still be started again.
    pub(super) restarts_left: AtomicU32,
    /// Log frames so far.
    pub(super) log_sequence: AtomicU32,
    /// What it has besides when it speaks Xen's ABI.
    pub(super) xen: Option<xen::Domain>,
    /// A quota was used up since it started.
    pub(super) hit_quota: AtomicBool,
}

/// How far a VM's life has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It runs.
    Live,
    /// It ended; its memory is being taken back. Then it may start again.
    Ending(After),
    /// It is gone.
    Gone,
}

/// What follows the end of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Nothing,
    /// It is built again.
    Restart,
}

impl Vm {
    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        let index = usize::try_from(self.id.0).unwrap_or(usize::MAX);
        machine().image.manifest().vms.get(index).map_or("?", |entry| entry.name.as_str())
    }

    /// Brings the time page of a coarse clock up to now: for a guest that is told that a deadline has
    /// come, it must have come.
    pub(super) fn show_coarse_time(&self) {
        if self.time == TimeSource::Coarse {
            self.now();
        }
    }

    /// Its time now. The time page of a coarse clock is brought up to it.
    pub(super) fn now(&self) -> Nanos {
        let now = self.clock.lock().at(hv_arch::cpu::read_tsc());
        if self.time == TimeSource::Coarse {
            mmu::direct::advance_time_page(Mfn(self.time_page.get()), now.0);
        }
        now
    }

    /// Its label in words.
    pub(super) fn label_text(&self) -> &'static str {
        self.subject().map_or("", |subject| subject.label_text.as_str())
    }

    /// What the policy says of it.
    pub(super) fn subject(&self) -> Option<&'static Subject> {
        let index = usize::try_from(self.id.0).unwrap_or(usize::MAX);
        machine().image.monitor().policy().subjects.get(index)
    }

    /// How often it was started again.
    pub(super) fn generation(&self) -> u32 {
        let index = usize::try_from(self.id.0).unwrap_or(usize::MAX);
        match machine().image.manifest().vms.get(index).map(|entry| entry.on_crash) {
            Some(OnCrash::Restart(most)) => most.saturating_sub(self.restarts_left.load(Ordering::SeqCst)),
            Some(OnCrash::Stop | OnCrash::HaltAll) | None => 0,
        }
    }

    /// The VMs that it shares time with, itself included.
    #[inline(always)]
    pub(super) fn partition(&self) -> &'static Partition {
        machine().partition(self.partition)
    }

    /// Its vCPUs.
    pub(super) fn vcpus(&self) -> &'static [Vcpu] {
        let end = self.first_vcpu.saturating_add(self.vcpu_count);
        machine().vcpus.get(self.first_vcpu..end).unwrap_or(&[])
    }

    /// One of its vCPUs.
    pub(super) fn vcpu(&self, id: VcpuId) -> Option<&'static Vcpu> {
        self.vcpus().get(usize::try_from(id.0).unwrap_or(usize::MAX))
    }

    /// Its memory, for the hypervisor; calls go through [`Machine::memory_of`].
    ///
    /// # Errors
    /// [`Status::WrongState`] when the VM ends; then none of its vCPUs will see the answer.
    pub(super) fn memory(&self) -> Result<MemoryGuard<'_>, Status> {
        let guard = self.memory.lock();
        if guard.is_some() { Ok(MemoryGuard(guard)) } else { Err(Status::WrongState) }
    }

    /// Gives it memory, or takes it away.
    pub(super) fn replace_memory(&self, memory: Option<Memory>) -> Option<Memory> {
        core::mem::replace(&mut *self.memory.lock(), memory)
    }

    /// Has all CPUs forget translations of this VM, and returns when they have.
    pub(super) fn flush(&self, flush: Flush) {
        let own = 1 << hv_arch::local::id().0;
        let cpus = self.cpus.load(Ordering::SeqCst);
        if cpus & own != 0 {
            let pages = flush.end.wrapping_sub(flush.start) / PAGE_SIZE;
            mmu::flush_range(GuestVirt(flush.start), pages);
        }
        if cpus & !own != 0 {
            mmu::flush::shoot_down(cpus);
        }
    }

    /// Notes that a CPU is about to load one of its roots.
    pub(super) fn enter(&self, cpu: CpuId) {
        self.cpus.fetch_or(1 << cpu.0, Ordering::SeqCst);
    }

    /// Notes that a CPU has another root loaded now.
    pub(super) fn leave(&self, cpu: CpuId) {
        self.cpus.fetch_and(!(1 << cpu.0), Ordering::SeqCst);
    }

    /// Whether any CPU has one of its roots loaded.
    pub(super) fn is_loaded(&self) -> bool {
        self.cpus.load(Ordering::SeqCst) != 0
    }

    /// Whether it runs.
    pub(super) fn is_live(&self) -> bool {
        *self.life.lock() == Life::Live
    }

    /// Goes on in its life. Returns false when it was not at `from` any more: somebody else was first.
    pub(super) fn change_life(&self, from: Life, to: Life) -> bool {
        let mut life = self.life.lock();
        let is_first = *life == from;
        if is_first {
            *life = to;
        }
        is_first
    }
}

/// A VM's memory, locked. What its operations owe must be settled before this is dropped.
#[derive(Debug)]
pub(super) struct MemoryGuard<'a>(spin::mutex::SpinMutexGuard<'a, Option<Memory>, Serving>);

impl Deref for MemoryGuard<'_> {
    type Target = Memory;

    #[inline(always)]
    fn deref(&self) -> &Memory {
        match &*self.0 {
            Some(memory) => memory,
            None => super::panic::broken("V2", "memory went away under its lock"),
        }
    }
}

impl DerefMut for MemoryGuard<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Memory {
        match &mut *self.0 {
            Some(memory) => memory,
            None => super::panic::broken("V2", "memory went away under its lock"),
        }
    }
}
