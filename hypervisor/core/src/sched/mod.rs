//! Who runs where and until when: start-time fair queueing over VMs, for all CPUs at once.
//!
//! Each VM has a virtual time that advances by the CPU time of its vCPUs divided by its weight; the
//! VM with the least goes next, and within it the vCPU that ran least. So a VM's weight is shared by
//! however many of its vCPUs run, without a count that a guest could play with. A quantum is charged
//! in advance when it begins and settled to the nanosecond when it ends. Details in `dispatch`.
//!
//! Invariants: a vCPU runs on at most one CPU, re-checked at each switch ([`Scheduler::is_broken`]); a
//! VM is in the queue exactly when it has a ready vCPU and is not held back by its cap; whenever a
//! VM waits, every CPU is either about to choose or has a quantum timer.
//!
//! Use: all calls under one lock. A CPU calls [`Scheduler::pick`] after its timer, when it was
//! interrupted for it, and after `block`, `yield` or `stop` of what it runs; it keeps the lock until
//! it has saved the registers of the vCPU that it leaves. Every [`CpuId`] that a call returns must be
//! interrupted, if it is another one, or must pick before it enters a guest. An instant is in
//! nanoseconds of the machine; nothing here reads a clock or touches an interrupt controller.

mod cap;
mod dispatch;
pub mod partition;

use alloc::boxed::Box;
use alloc::vec;

use protocol::layout::limit;
use protocol::{Status, VcpuId, VmId};

use self::cap::Cap;
pub use self::dispatch::{Choice, QUANTUM};
use crate::addr::convert::index;
use crate::addr::{CpuId, MAX_CPUS};

/// A time that never comes.
const NEVER: u64 = u64::MAX;
/// vCPUs of a VM.
const VCPUS: usize = 16;
// Sets of VMs, vCPUs of a VM and CPUs are words.
const _: () = assert!(limit::VCPUS == 16 && limit::VMS <= 64 && MAX_CPUS <= 64);

/// A vCPU of any VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuKey {
    /// Its VM.
    pub vm: VmId,
    /// Its number within the VM.
    pub vcpu: VcpuId,
}

/// What a vCPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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

/// What a deadline that has come asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a timer that fired is news for its guest, and a CPU that is not interrupted does not pick"]
pub enum Expired {
    /// The timer of this vCPU fired.
    Timer(VcpuKey),
    /// A vCPU woke, and this other CPU has to be interrupted.
    Interrupt(CpuId),
}

/// What a deadline is for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    /// A blocked vCPU wakes.
    Wake(VcpuKey),
    /// A vCPU's own timer.
    Timer(VcpuKey),
    /// A VM that used up its cap may run again.
    Refill(VmId),
}

/// A vCPU as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Vcpu {
    state: RunState,
    /// It stops when it leaves its CPU.
    stopping: bool,
    /// Its next block returns at once.
    kicked: bool,
    /// The CPU that it ran on last, whose one-shot interrupt serves its deadlines.
    last_cpu: CpuId,
    /// Time that it ran, lifted when it wakes: what its turn within the VM goes by.
    turn: u64,
    /// When it became ready.
    ready_since: u64,
    /// When its block ends by itself.
    wake_at: u64,
    /// When its own timer fires.
    timer_at: u64,
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
        wake_at: NEVER,
        timer_at: NEVER,
        usage: Usage { run_time_ns: 0, steal_ns: 0, switches: 0 },
    };

    /// Makes it stopped, and drops its deadlines and its kick.
    const fn halt(&mut self) {
        *self = Vcpu { last_cpu: self.last_cpu, turn: self.turn, usage: self.usage, ..Vcpu::NEW };
    }
}

/// A VM as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Vm {
    vcpus: [Vcpu; VCPUS],
    /// How many there are; 0 when there is no such VM.
    count: u32,
    /// Virtual time of 2^16 ns: 2^32 divided by the weight.
    rate: u64,
    virtual_time: u64,
    /// The greatest `turn` at which a vCPU of it was chosen.
    turn: u64,
    /// A bit per vCPU that is ready.
    ready: u64,
    /// vCPUs that are on a CPU.
    running: u32,
    cap: Option<Cap>,
}

impl Vm {
    const NONE: Vm =
        Vm { vcpus: [Vcpu::NEW; VCPUS], count: 0, rate: 0, virtual_time: 0, turn: 0, ready: 0, running: 0, cap: None };
}

/// A CPU as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Cpu {
    current: Option<VcpuKey>,
    /// When the current quantum began, and its length, which was charged in advance.
    started: u64,
    slice: u64,
    /// When the current quantum ends, if anything ends it.
    tick: u64,
    /// No deadline that interrupts this CPU comes before this. May be too early, when the deadline
    /// that it stands for was dropped: then an interrupt finds nothing, which costs less than to
    /// look at all deadlines each time that one is dropped.
    alarm: u64,
    /// What it runs gives way to anything.
    yields: bool,
    /// A vCPU woke that goes before what it runs.
    preempted: bool,
    /// The VM that it runs has a cap.
    is_capped: bool,
    /// Virtual time of the VM when the quantum began.
    start_tag: u64,
}

impl Cpu {
    const NEW: Cpu = Cpu {
        current: None,
        started: 0,
        slice: 0,
        tick: NEVER,
        alarm: NEVER,
        yields: false,
        preempted: false,
        is_capped: false,
        start_tag: 0,
    };
}

/// The scheduler of all CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scheduler {
    vms: Box<[Vm]>,
    cpus: Box<[Cpu]>,
    /// VMs that have a ready vCPU and are not held back.
    waiting: u64,
    /// The greatest virtual time at which a VM was chosen.
    virtual_now: u64,
    idle: u64,
    /// CPUs that run without a quantum timer.
    tickless: u64,
    /// CPUs that were told to pick and have not done so yet.
    summoned: u64,
    is_broken: bool,
}

/// A number as an index.
fn at(number: u32) -> usize {
    index(u64::from(number))
}

/// The set of one number.
const fn bit(number: u32) -> u64 {
    1_u64.wrapping_shl(number)
}

/// The numbers in a set.
fn bits(mut set: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let first = set.trailing_zeros();
        set &= set.checked_sub(1)?;
        Some(first)
    })
}

impl Scheduler {
    /// A scheduler for `cpus` CPUs with room for the VMs `0..vms`. Allocates all it ever needs.
    #[must_use]
    pub fn new(cpus: usize, vms: u32) -> Scheduler {
        Scheduler {
            vms: vec![Vm::NONE; at(vms.min(limit::VMS))].into_boxed_slice(),
            cpus: vec![Cpu::NEW; cpus.min(MAX_CPUS)].into_boxed_slice(),
            waiting: 0,
            virtual_now: 0,
            idle: 0,
            tickless: 0,
            summoned: 0,
            is_broken: false,
        }
    }

    /// Adds a VM with all vCPUs stopped. A weight of 0 counts as 1, one over 65,535 as that;
    /// `cap_percent` is of one CPU, 0 for none.
    ///
    /// # Errors
    /// `WrongState` when the number is taken or out of range.
    pub fn add_vm(&mut self, vm: VmId, vcpus: u32, weight: u32, cap_percent: u32) -> Result<(), Status> {
        let slot = self.vms.get_mut(at(vm.0)).filter(|slot| slot.count == 0);
        *slot.ok_or(Status::WrongState)? = Vm {
            count: vcpus.min(limit::VCPUS),
            rate: (1_u64 << 32).checked_div(u64::from(weight.clamp(1, 65_535))).unwrap_or(1),
            virtual_time: self.virtual_now,
            cap: Cap::of_percent(cap_percent),
            ..Vm::NONE
        };
        Ok(())
    }

    /// Forgets a VM and what its vCPUs used.
    ///
    /// # Errors
    /// `Busy` while a vCPU of it is not stopped.
    pub fn remove_vm(&mut self, vm: VmId) -> Result<(), Status> {
        if let Some(slot) = self.vms.get_mut(at(vm.0)) {
            if slot.vcpus.iter().any(|vcpu| vcpu.state != RunState::Stopped) {
                return Err(Status::Busy);
            }
            *slot = Vm::NONE;
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
        Ok(self.make_ready(key, now))
    }

    /// Stops a vCPU, and drops its timer and its kick.
    ///
    /// # Errors
    /// `NotFound` without such a vCPU, `WrongState` when it is stopped: has left its CPU, as for `start`.
    pub fn stop(&mut self, key: VcpuKey) -> Result<Stop, Status> {
        let on = self.cpu_of(key);
        let vcpu = self.vcpu_mut(key).ok_or(Status::NotFound)?;
        if vcpu.state == RunState::Stopped {
            return Err(Status::WrongState);
        }
        if let Some(cpu) = on {
            vcpu.stopping = true;
            return Ok(Stop::OnCpu(cpu));
        }
        vcpu.halt();
        if let Some(vm) = self.vms.get_mut(at(key.vm.0)) {
            vm.ready &= !bit(key.vcpu.0);
        }
        self.settle(key.vm);
        Ok(Stop::Done)
    }

    /// Puts a vCPU to sleep that runs on the calling CPU, until it wakes, is kicked, or the deadline
    /// passes. The caller looks for pending events under the same lock, before this: an event that
    /// comes later then finds the vCPU asleep and wakes it.
    pub fn block(&mut self, key: VcpuKey, deadline: u64, now: u64) -> Block {
        let on = self.cpu_of(key);
        let (Some(cpu), Some(vcpu)) = (on, self.vcpu_mut(key)) else {
            return Block::Returned;
        };
        if core::mem::take(&mut vcpu.kicked) || deadline <= now {
            return Block::Returned;
        }
        vcpu.state = RunState::Blocked;
        vcpu.wake_at = deadline;
        self.arm(cpu, deadline);
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
        let vcpu = self.vcpu_mut(key).ok_or(Status::NotFound)?;
        if vcpu.state == RunState::Stopped {
            return Err(Status::WrongState);
        }
        if vcpu.state == RunState::Blocked {
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

    /// Arms the timer of a vCPU that runs, in the place of what was armed: when the one-shot
    /// interrupt of its CPU is due now. It goes where the vCPU goes.
    #[must_use = "the CPU's one-shot interrupt has to be armed"]
    pub fn set_timer(&mut self, key: VcpuKey, deadline: u64) -> u64 {
        let Some(vcpu) = self.vcpu_mut(key) else {
            return NEVER;
        };
        vcpu.timer_at = deadline;
        let cpu = vcpu.last_cpu;
        self.arm(cpu, deadline);
        self.timer(cpu)
    }

    /// When the one-shot interrupt of a CPU is due; `u64::MAX` for never.
    #[must_use]
    pub fn timer(&self, cpu: CpuId) -> u64 {
        self.cpu(cpu).map_or(NEVER, |slot| slot.tick.min(slot.alarm))
    }

    /// Handles a deadline of a CPU that has come. Call it until it returns nothing, then pick.
    pub fn expired(&mut self, cpu: CpuId, now: u64) -> Option<Expired> {
        while self.cpu(cpu)?.alarm <= now {
            let next = self.next_deadline(cpu);
            self.cpu_mut(cpu)?.alarm = next.map_or(NEVER, |(time, _)| time);
            match next.filter(|(time, _)| *time <= now)?.1 {
                Purpose::Refill(vm) => self.refill(vm, now),
                Purpose::Wake(key) => {
                    if let Some(other) = self.unblock(key, now).filter(|other| *other != cpu) {
                        return Some(Expired::Interrupt(other));
                    }
                }
                Purpose::Timer(key) => {
                    self.vcpu_mut(key)?.timer_at = NEVER;
                    return Some(Expired::Timer(key));
                }
            }
        }
        None
    }

    /// The next deadline that interrupts a CPU.
    fn next_deadline(&self, cpu: CpuId) -> Option<(u64, Purpose)> {
        let all = (0_u32..).map(VmId).zip(&self.vms).flat_map(|(vm, slot)| {
            let cap = slot.cap.filter(|cap| cap.parked == Some(cpu));
            let vcpus = (0..slot.count).map(VcpuId).zip(&slot.vcpus).filter(move |(_, slot)| slot.last_cpu == cpu);
            let deadlines = vcpus.flat_map(move |(vcpu, slot)| {
                let key = VcpuKey { vm, vcpu };
                [(slot.wake_at, Purpose::Wake(key)), (slot.timer_at, Purpose::Timer(key))]
            });
            deadlines.chain(cap.map(|cap| (cap.period_end, Purpose::Refill(vm))))
        });
        all.filter(|(time, _)| *time != NEVER).min_by_key(|(time, _)| *time)
    }

    /// What a vCPU does; nothing when there is no such vCPU.
    #[must_use]
    pub fn state(&self, key: VcpuKey) -> Option<RunState> {
        self.vcpu(key).map(|vcpu| vcpu.state)
    }

    /// What runs on a CPU.
    #[must_use]
    pub fn current(&self, cpu: CpuId) -> Option<VcpuKey> {
        self.cpu(cpu)?.current
    }

    /// CPU time of a vCPU up to now.
    #[must_use]
    pub fn usage(&self, key: VcpuKey, now: u64) -> Usage {
        let Some(vcpu) = self.vcpu(key) else {
            return Usage::default();
        };
        let mut usage = vcpu.usage;
        if let Some(slot) = self.cpu_of(key).and_then(|cpu| self.cpu(cpu)) {
            usage.run_time_ns = usage.run_time_ns.saturating_add(now.saturating_sub(slot.started));
        } else if vcpu.state == RunState::Ready {
            usage.steal_ns = usage.steal_ns.saturating_add(now.saturating_sub(vcpu.ready_since));
        }
        usage
    }

    /// Whether a switch has met a vCPU that would have run twice, or on another's CPU: a defect of
    /// the hypervisor, never a guest's doing. The caller panics.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Wakes a blocked vCPU; the CPU to interrupt. One that has not left its CPU yet just goes on.
    fn unblock(&mut self, key: VcpuKey, now: u64) -> Option<CpuId> {
        let on = self.cpu_of(key);
        let vcpu = self.vcpu_mut(key)?;
        vcpu.wake_at = NEVER;
        let Some(cpu) = on else {
            return self.make_ready(key, now);
        };
        vcpu.state = RunState::Running(cpu);
        None
    }

    /// Has a deadline interrupt a CPU.
    fn arm(&mut self, cpu: CpuId, deadline: u64) {
        if let Some(slot) = self.cpu_mut(cpu) {
            slot.alarm = slot.alarm.min(deadline);
        }
    }

    /// The CPU that a vCPU is on: it runs, or has just blocked and was not left yet.
    fn cpu_of(&self, key: VcpuKey) -> Option<CpuId> {
        let cpu = self.vcpu(key)?.last_cpu;
        Some(cpu).filter(|cpu| self.current(*cpu) == Some(key))
    }

    fn vcpu(&self, key: VcpuKey) -> Option<&Vcpu> {
        self.vms.get(at(key.vm.0)).filter(|vm| key.vcpu.0 < vm.count)?.vcpus.get(at(key.vcpu.0))
    }

    fn vcpu_mut(&mut self, key: VcpuKey) -> Option<&mut Vcpu> {
        self.vms.get_mut(at(key.vm.0)).filter(|vm| key.vcpu.0 < vm.count)?.vcpus.get_mut(at(key.vcpu.0))
    }

    fn cpu(&self, cpu: CpuId) -> Option<&Cpu> {
        self.cpus.get(at(cpu.0))
    }

    fn cpu_mut(&mut self, cpu: CpuId) -> Option<&mut Cpu> {
        self.cpus.get_mut(at(cpu.0))
    }
}

#[cfg(test)]
#[expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "tests compute with small numbers of their own"
)]
mod tests;
