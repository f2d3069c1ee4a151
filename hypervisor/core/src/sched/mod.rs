//! Who runs where and until when: start-time fair queueing over VMs, for all CPUs at once.
//!
//! Each VM has a virtual time that advances by the CPU time of its vCPUs divided by its weight; the
//! VM with the least goes next, and within it the vCPU that ran least. So a VM's weight is shared by
//! however many of its vCPUs run, without a count that a guest could play with. A quantum is charged
//! in advance when it begins and settled to the nanosecond when it ends. Details in `dispatch`.
//!
//! Invariants: a vCPU runs on at most one CPU, re-checked at each switch ([`Scheduler::broken`]); a
//! VM is in the queue exactly when it has a ready vCPU and is not held back by its cap; whenever a
//! VM waits, every CPU is either about to choose or has a quantum timer.
//!
//! Use: all calls under one lock. A CPU calls [`Scheduler::pick`] after its timer, when it was
//! interrupted for it, and after `block`, `yield` or `stop` of what it runs; it keeps the lock until
//! it has saved the registers of the vCPU that it leaves. Every [`CpuId`] that a call returns must be
//! interrupted, if it is another one, or must pick before it enters a guest. An instant is in
//! nanoseconds of the machine; nothing here reads a clock or touches an interrupt controller.

mod cap;
mod cpu_set;
mod deadline;
mod dispatch;
mod heap;

use alloc::boxed::Box;
use alloc::vec;

use protocol::layout::limit;
use protocol::{Status, VcpuId, VmId};

use self::cap::Cap;
pub use self::cpu_set::CpuSet;
use self::deadline::{Deadlines, NEVER, Purpose};
use self::dispatch::Cpu;
pub use self::dispatch::{Broken, Choice, QUANTUM};
use self::heap::Heap;
use crate::addr::CpuId;
use crate::addr::convert::index;

/// A vCPU of any VM. Those of one VM have consecutive numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuKey(u32);

impl VcpuKey {
    /// The key of a VM's vCPU. Whether there is such a vCPU shows when it is used.
    #[must_use]
    pub const fn new(vm: VmId, vcpu: VcpuId) -> VcpuKey {
        VcpuKey(vm.0.saturating_mul(limit::VCPUS).saturating_add(vcpu.0))
    }

    /// Its VM.
    #[must_use]
    pub const fn vm(self) -> VmId {
        VmId(self.0 / limit::VCPUS)
    }

    /// Its number within the VM.
    #[must_use]
    pub const fn vcpu(self) -> VcpuId {
        VcpuId(self.0 % limit::VCPUS)
    }

    /// Its number among all vCPUs that could be, as an index.
    #[must_use]
    pub fn index(self) -> usize {
        index(u64::from(self.0))
    }
}

/// What a vCPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Nothing, until it is started.
    Stopped,
    /// It waits for a CPU.
    Ready,
    /// It runs, or is about to.
    Running(CpuId),
    /// It waits for an event, a kick or its deadline.
    Blocked,
}

/// CPU time of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Nanoseconds that it ran.
    pub run_time_ns: u64,
    /// Nanoseconds that it was ready but did not run.
    pub steal_ns: u64,
    /// How often it was given a CPU.
    pub switches: u64,
}

/// What came of a `block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a vCPU that sleeps must not go on"]
pub enum Block {
    /// It sleeps: pick another.
    Asleep,
    /// It was kicked before, or the deadline has passed: it goes on.
    Returned,
}

/// What came of a `stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a vCPU that is still on a CPU executes on"]
pub enum Stop {
    /// It executes nothing more.
    Done,
    /// It is on this CPU, and stopped when that CPU has picked.
    OnCpu(CpuId),
}

/// A vCPU as the scheduler sees it.
#[derive(Debug, Clone, Copy)]
struct Vcpu {
    state: RunState,
    /// It stops when it leaves its CPU.
    stopping: bool,
    /// Its next block returns at once.
    kicked: bool,
    /// The CPU that it ran on last.
    last_cpu: CpuId,
    /// Time that it ran, lifted when it wakes: what its turn within the VM goes by.
    turn: u64,
    /// When it became ready.
    ready_since: u64,
    usage: Usage,
}

impl Vcpu {
    /// A vCPU that never ran.
    const NEW: Vcpu = Vcpu {
        state: RunState::Stopped,
        stopping: false,
        kicked: false,
        last_cpu: CpuId(0),
        turn: 0,
        ready_since: 0,
        usage: Usage { run_time_ns: 0, steal_ns: 0, switches: 0 },
    };
}

/// A VM as the scheduler sees it.
#[derive(Debug, Clone, Copy, Default)]
struct Vm {
    /// vCPUs; 0 when there is no such VM.
    vcpus: u32,
    /// Virtual time of 2^16 ns: 2^32 divided by the weight.
    rate: u64,
    virtual_time: u64,
    /// The greatest `turn` at which a vCPU of it was chosen.
    turn: u64,
    /// A bit per vCPU that is ready.
    ready: u32,
    /// vCPUs that are on a CPU.
    running: u32,
    cap: Option<Cap>,
}

/// The scheduler of all CPUs.
#[derive(Debug)]
pub struct Scheduler {
    vms: Box<[Vm]>,
    vcpus: Box<[Vcpu]>,
    cpus: Box<[Cpu]>,
    /// VMs with a ready vCPU, by virtual time.
    queue: Heap,
    deadlines: Deadlines,
    /// The greatest virtual time at which a VM was chosen.
    virtual_now: u64,
    idle: CpuSet,
    /// CPUs that run without a quantum timer.
    tickless: CpuSet,
    /// CPUs that were told to pick and have not done so yet.
    summoned: CpuSet,
    /// Those of them that nobody has interrupted yet: the next picks say whom.
    owed: CpuSet,
    broken: Option<Broken>,
}

impl Scheduler {
    /// A scheduler for `cpus` CPUs with room for the VMs `0..vms`. Allocates all it ever needs.
    #[must_use]
    pub fn new(cpus: usize, vms: u32) -> Scheduler {
        let vcpus = vms.saturating_mul(limit::VCPUS);
        Scheduler {
            vms: vec![Vm::default(); index(u64::from(vms))].into_boxed_slice(),
            vcpus: vec![Vcpu::NEW; index(u64::from(vcpus))].into_boxed_slice(),
            cpus: vec![Cpu::default(); cpus].into_boxed_slice(),
            queue: Heap::new(index(u64::from(vms))),
            deadlines: Deadlines::new(cpus, vcpus, vms),
            virtual_now: 0,
            idle: CpuSet::EMPTY,
            tickless: CpuSet::EMPTY,
            summoned: CpuSet::EMPTY,
            owed: CpuSet::EMPTY,
            broken: None,
        }
    }

    /// Adds a VM with all vCPUs stopped. A weight of 0 counts as 1, one over 65,535 as that;
    /// `cap_percent` is of one CPU, 0 for none.
    ///
    /// # Errors
    /// `WrongState` when the number is taken or out of range.
    pub fn add_vm(&mut self, vm: VmId, vcpus: u32, weight: u32, cap_percent: u32) -> Result<(), Status> {
        let current = self.virtual_now;
        let slot = self.vm_mut(vm.0);
        let slot = slot.filter(|slot| slot.vcpus == 0);
        *slot.ok_or(Status::WrongState)? = Vm {
            vcpus: vcpus.min(limit::VCPUS),
            rate: (1_u64 << 32).checked_div(u64::from(weight.clamp(1, 65_535))).unwrap_or(1),
            virtual_time: current,
            cap: Cap::of_percent(cap_percent),
            ..Vm::default()
        };
        Ok(())
    }

    /// Stops all vCPUs of a VM: the CPUs that still run one, and have to pick.
    #[must_use = "a vCPU that is still on a CPU executes on"]
    pub fn stop_all(&mut self, vm: VmId) -> CpuSet {
        let mut on = CpuSet::EMPTY;
        for vcpu in 0..self.vcpu_count(vm) {
            if let Ok(Stop::OnCpu(cpu)) = self.stop(VcpuKey::new(vm, VcpuId(vcpu))) {
                on.insert(cpu);
            }
        }
        on
    }

    /// Forgets a VM and what its vCPUs used.
    ///
    /// # Errors
    /// `Busy` while a vCPU of it is not stopped.
    pub fn remove_vm(&mut self, vm: VmId) -> Result<(), Status> {
        let keys = (0..self.vcpu_count(vm)).map(|vcpu| VcpuKey::new(vm, VcpuId(vcpu)));
        if keys.clone().any(|key| self.state(key) != Some(RunState::Stopped)) {
            return Err(Status::Busy);
        }
        for key in keys {
            if let Some(vcpu) = self.vcpus.get_mut(key.index()) {
                *vcpu = Vcpu::NEW;
            }
        }
        self.deadlines.disarm(Purpose::Refill(vm.0));
        if let Some(slot) = self.vm_mut(vm.0) {
            *slot = Vm::default();
        }
        Ok(())
    }

    /// Starts a stopped vCPU; the CPU that should pick for it.
    ///
    /// # Errors
    /// `NotFound` without such a vCPU, `WrongState` when it is not stopped.
    pub fn start(&mut self, key: VcpuKey, now: u64) -> Result<Option<CpuId>, Status> {
        if self.state(key).ok_or(Status::NotFound)? != RunState::Stopped {
            return Err(Status::WrongState);
        }
        self.make_ready(key, now);
        Ok(self.summon(key, now))
    }

    /// Stops a vCPU, and drops its timer and its kick.
    ///
    /// # Errors
    /// `NotFound` without such a vCPU, `WrongState` when it is stopped or stopping.
    pub fn stop(&mut self, key: VcpuKey) -> Result<Stop, Status> {
        let state = self.state(key).ok_or(Status::NotFound)?;
        let on = self.cpu_of(key);
        let vcpu = self.vcpus.get_mut(key.index()).ok_or(Status::NotFound)?;
        if state == RunState::Stopped || vcpu.stopping {
            return Err(Status::WrongState);
        }
        if let Some(cpu) = on {
            vcpu.stopping = true;
            return Ok(Stop::OnCpu(cpu));
        }
        self.unready(key);
        self.halt(key);
        Ok(Stop::Done)
    }

    /// Puts a vCPU to sleep that runs on the calling CPU, until it wakes, is kicked, or the deadline
    /// passes. The caller looks for pending events under the same lock, before this: an event that
    /// comes later then finds the vCPU asleep and wakes it.
    pub fn block(&mut self, key: VcpuKey, deadline: u64, now: u64) -> Block {
        let Some(cpu) = self.cpu_of(key) else {
            return Block::Returned;
        };
        let Some(vcpu) = self.vcpus.get_mut(key.index()) else {
            return Block::Returned;
        };
        if core::mem::take(&mut vcpu.kicked) || deadline <= now {
            return Block::Returned;
        }
        vcpu.state = RunState::Blocked;
        self.deadlines.arm(Purpose::Wake(key), cpu, deadline);
        Block::Asleep
    }

    /// Tells a vCPU that an event is pending. The CPU to interrupt: the one that it runs on (for
    /// the upcall), or the one that should run it now.
    #[must_use = "the CPU has to be interrupted"]
    pub fn wake(&mut self, key: VcpuKey, now: u64) -> Option<CpuId> {
        match self.state(key)? {
            RunState::Running(cpu) => Some(cpu),
            RunState::Stopped | RunState::Ready => None,
            RunState::Blocked => self.unblock(key, now),
        }
    }

    /// Wakes a blocked vCPU, or makes its next block return at once. The CPU to interrupt.
    ///
    /// # Errors
    /// `NotFound` without such a vCPU, `WrongState` when it is stopped.
    pub fn kick(&mut self, key: VcpuKey, now: u64) -> Result<Option<CpuId>, Status> {
        let state = self.state(key).ok_or(Status::NotFound)?;
        let vcpu = self.vcpus.get_mut(key.index()).ok_or(Status::NotFound)?;
        if state == RunState::Stopped || vcpu.stopping {
            return Err(Status::WrongState);
        }
        if state == RunState::Blocked {
            return Ok(self.unblock(key, now));
        }
        vcpu.kicked = true;
        Ok(None)
    }

    /// Notes that what runs on `cpu` gives way: the next pick prefers anything else.
    pub fn yield_now(&mut self, cpu: CpuId) {
        if let Some(slot) = self.cpu_mut(cpu) {
            slot.yields = true;
        }
    }

    /// Arms the timer of a vCPU that runs on `cpu`, in the place of what was armed: when that CPU's
    /// one-shot interrupt is due now.
    #[must_use = "the CPU's one-shot interrupt has to be armed"]
    pub fn set_timer(&mut self, key: VcpuKey, cpu: CpuId, deadline: u64) -> u64 {
        if self.state(key).is_some() {
            self.deadlines.arm(Purpose::GuestTimer(key), cpu, deadline);
        }
        self.timer(cpu)
    }

    /// When the one-shot interrupt of a CPU is due; `u64::MAX` for never.
    #[must_use]
    pub fn timer(&self, cpu: CpuId) -> u64 {
        let tick = self.cpu(cpu).map_or(NEVER, |slot| slot.tick);
        tick.min(self.deadlines.next(cpu))
    }

    /// Handles the deadlines of a CPU that have come: wakes whose block ended, and returns one vCPU
    /// whose timer fired. Call it until it returns nothing, then pick.
    pub fn expired(&mut self, cpu: CpuId, now: u64) -> Option<VcpuKey> {
        while let Some(purpose) = self.deadlines.take_due(cpu, now) {
            match purpose {
                Purpose::GuestTimer(key) => return Some(key),
                Purpose::Wake(key) => {
                    if let Some(other) = self.unblock(key, now) {
                        self.owed.insert(other);
                    }
                }
                Purpose::Refill(vm) => self.refill(vm, now),
            }
        }
        None
    }

    /// What a vCPU does; nothing when there is no such vCPU.
    #[must_use]
    pub fn state(&self, key: VcpuKey) -> Option<RunState> {
        if key.vcpu().0 < self.vcpu_count(key.vm()) { self.vcpus.get(key.index()).map(|vcpu| vcpu.state) } else { None }
    }

    /// What runs on a CPU.
    #[must_use]
    pub fn current(&self, cpu: CpuId) -> Option<VcpuKey> {
        self.cpu(cpu)?.current
    }

    /// CPU time of a vCPU up to now.
    #[must_use]
    pub fn usage(&self, key: VcpuKey, now: u64) -> Usage {
        let Some(vcpu) = self.vcpus.get(key.index()) else {
            return Usage::default();
        };
        let mut usage = vcpu.usage;
        if let Some(slot) = self.cpu_of(key).and_then(|cpu| self.cpu(cpu)) {
            let ran = now.saturating_sub(slot.started);
            usage.run_time_ns = usage.run_time_ns.saturating_add(ran);
        } else if vcpu.state == RunState::Ready {
            let waited = now.saturating_sub(vcpu.ready_since);
            usage.steal_ns = usage.steal_ns.saturating_add(waited);
        }
        usage
    }

    /// The first broken invariant that a switch has met: a defect of the hypervisor, never a
    /// guest's doing. The caller panics.
    #[must_use]
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Wakes a blocked vCPU; the CPU to interrupt. One that has not left its CPU yet just goes on.
    fn unblock(&mut self, key: VcpuKey, now: u64) -> Option<CpuId> {
        self.end_block(key, now);
        if self.state(key)? == RunState::Ready { self.summon(key, now) } else { None }
    }

    fn end_block(&mut self, key: VcpuKey, now: u64) {
        self.deadlines.disarm(Purpose::Wake(key));
        match self.cpu_of(key) {
            None => self.make_ready(key, now),
            Some(cpu) => {
                if let Some(vcpu) = self.vcpus.get_mut(key.index()) {
                    vcpu.state = RunState::Running(cpu);
                }
            }
        }
    }

    /// Makes a vCPU stopped that is neither on a CPU nor ready.
    fn halt(&mut self, key: VcpuKey) {
        self.deadlines.disarm(Purpose::Wake(key));
        self.deadlines.disarm(Purpose::GuestTimer(key));
        if let Some(vcpu) = self.vcpus.get_mut(key.index()) {
            vcpu.state = RunState::Stopped;
            vcpu.stopping = false;
            vcpu.kicked = false;
        }
    }

    fn vcpu_count(&self, vm: VmId) -> u32 {
        self.vm(vm.0).map_or(0, |slot| slot.vcpus)
    }

    /// The CPU that a vCPU is on: it runs, or has just blocked and was not left yet.
    fn cpu_of(&self, key: VcpuKey) -> Option<CpuId> {
        let cpu = self.vcpus.get(key.index())?.last_cpu;
        Some(cpu).filter(|cpu| self.current(*cpu) == Some(key))
    }

    fn vm(&self, number: u32) -> Option<&Vm> {
        self.vms.get(index(u64::from(number)))
    }

    fn vm_mut(&mut self, number: u32) -> Option<&mut Vm> {
        self.vms.get_mut(index(u64::from(number)))
    }

    fn cpu(&self, cpu: CpuId) -> Option<&Cpu> {
        self.cpus.get(index(u64::from(cpu.0)))
    }

    fn cpu_mut(&mut self, cpu: CpuId) -> Option<&mut Cpu> {
        self.cpus.get_mut(index(u64::from(cpu.0)))
    }
}

#[cfg(test)]
#[expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "tests compute with small numbers of their own"
)]
mod tests;
