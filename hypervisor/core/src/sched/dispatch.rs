//! The choice itself: virtual time, quanta, and which CPU is told to choose.
//!
//! Virtual time of a VM counts 2^-16 ns of CPU time divided by weight. `virtual_now` is the greatest
//! virtual time at which a VM was chosen. A VM that comes back from doing nothing starts no earlier
//! than a little before `virtual_now` (so sleep saves up no credit), and one that runs stays no
//! farther behind than [`LAG`] of its own CPU time (so a weight that its vCPUs cannot use up, as 4 of
//! 7 with one vCPU on two CPUs, does not starve the others later).

use super::deadline::{NEVER, Purpose};
use super::heap::{before, later};
use super::{RunState, Scheduler, Vcpu, VcpuKey, Vm};
use crate::addr::CpuId;
use crate::addr::convert::index;

/// How long a vCPU runs while others wait.
pub const QUANTUM: u64 = 5_000_000;
/// Credit of a VM or vCPU that wakes: it goes before those that ran all the time.
const BONUS: u64 = 1_000_000;
/// How far ahead a vCPU must be to end another's quantum. Less than [`BONUS`], so that waking
/// preempts, and not nothing, so that equals do not end each other's quanta.
const MARGIN: u64 = 500_000;
/// Own CPU time that a running VM can fall behind.
const LAG: u64 = 20_000_000;
/// Longest span that counts in virtual time; longer ones occur only when nothing else waits.
const SPAN: u64 = 1 << 30;

/// What a CPU does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Choice {
    /// What it ran until now. If another than `vcpu`, its registers are saved before the
    /// scheduler's lock is released.
    pub previous: Option<VcpuKey>,
    /// What it runs now; nothing: it halts.
    pub vcpu: Option<VcpuKey>,
    /// When its one-shot interrupt is due; `u64::MAX` for never.
    pub timer: u64,
    /// Another CPU to interrupt, so that it picks too.
    pub interrupt: Option<CpuId>,
}

/// An invariant that did not hold at a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A vCPU was to run that is not ready: it would run twice.
    RunsTwice(VcpuKey),
    /// A CPU left a vCPU that was not its own.
    NotOurs(VcpuKey),
}

/// A CPU as the scheduler sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    pub(super) current: Option<VcpuKey>,
    /// When the current quantum began.
    pub(super) started: u64,
    /// When the current quantum ends, if anything ends it.
    pub(super) tick: u64,
    /// What it runs gives way to anything.
    pub(super) yields: bool,
    /// A vCPU woke that goes before what it runs.
    preempted: bool,
    /// Virtual time of the VM when the quantum began.
    start_tag: u64,
    /// Length of the quantum, and what it was charged in advance in virtual time.
    slice: u64,
    prepaid: u64,
}

impl Default for Cpu {
    fn default() -> Cpu {
        Cpu {
            current: None,
            started: 0,
            tick: NEVER,
            yields: false,
            preempted: false,
            start_tag: 0,
            slice: 0,
            prepaid: 0,
        }
    }
}

impl Vm {
    /// Virtual time of a span of CPU time.
    pub(super) fn virtual_span(&self, span: u64) -> u64 {
        span.min(SPAN).wrapping_mul(self.rate) >> 16
    }

    const fn waits(&self) -> bool {
        let parked = matches!(&self.cap, Some(cap) if cap.parked);
        self.ready != 0 && !parked
    }
}

impl Scheduler {
    /// Chooses what `cpu` runs from now on, and charges what it ran.
    pub fn pick(&mut self, cpu: CpuId, now: u64) -> Choice {
        self.summoned.remove(cpu);
        self.owed.remove(cpu);
        let previous = self.current(cpu);
        if !self.keeps(cpu, now) {
            let yielding = self.leave(cpu, now);
            let next = match (self.take(cpu, now), yielding) {
                (None, Some(key)) => {
                    self.put_back(key);
                    self.take(cpu, now)
                }
                (next, Some(key)) => {
                    self.put_back(key);
                    next
                }
                (next, None) => next,
            };
            self.count_switch(cpu, previous, next);
        }
        self.arm_tick(cpu);
        let owed = self.owed.first();
        if let Some(other) = owed {
            self.owed.remove(other);
        }
        Choice {
            previous,
            vcpu: self.current(cpu),
            timer: self.timer(cpu),
            interrupt: owed.or_else(|| self.summon_help()),
        }
    }

    fn count_switch(&mut self, cpu: CpuId, previous: Option<VcpuKey>, next: Option<VcpuKey>) {
        let Some(key) = next else {
            self.idle.insert(cpu);
            return;
        };
        self.idle.remove(cpu);
        if next != previous
            && let Some(vcpu) = self.vcpus.get_mut(key.index())
        {
            vcpu.usage.switches = vcpu.usage.switches.saturating_add(1);
        }
    }

    /// Whether `cpu` may go on with its quantum. Others that have waited are no reason to end it,
    /// only one that woke: equals would end each other's quanta at every interrupt.
    fn keeps(&self, cpu: CpuId, now: u64) -> bool {
        let Some(slot) = self.cpu(cpu) else {
            return true;
        };
        let Some(key) = slot.current else {
            return false;
        };
        let runs =
            self.vcpus.get(key.index()).is_some_and(|vcpu| vcpu.state == RunState::Running(cpu) && !vcpu.stopping);
        let ended = now.saturating_sub(slot.started) >= slot.slice;
        let contended = !self.queue.is_empty() || self.is_capped(key);
        let goes_on = !slot.yields && !slot.preempted;
        runs && goes_on && (!ended || !contended)
    }

    /// Takes what runs on `cpu` off it. What yields is returned, not yet ready.
    fn leave(&mut self, cpu: CpuId, now: u64) -> Option<VcpuKey> {
        self.charge(cpu, now);
        let slot = self.cpu_mut(cpu)?;
        let yields = core::mem::take(&mut slot.yields);
        slot.preempted = false;
        let key = slot.current.take()?;
        let (vm, vcpu) = parts(&mut self.vms, &mut self.vcpus, key)?;
        vm.running = vm.running.saturating_sub(1);
        vcpu.ready_since = now;
        let state = vcpu.state;
        let stops = vcpu.stopping;
        if !matches!(state, RunState::Blocked) && state != RunState::Running(cpu) {
            self.broken.get_or_insert(Broken::NotOurs(key));
        }
        if vm.cap.is_some() {
            self.regulate(cpu, key.vm().0, now);
        }
        if stops {
            self.halt(key);
        } else if state != RunState::Blocked {
            if let Some(vcpu) = self.vcpus.get_mut(key.index()) {
                vcpu.state = RunState::Ready;
            }
            if yields {
                return Some(key);
            }
            self.put_back(key);
        }
        None
    }

    /// Gives `cpu` the ready vCPU whose turn it is.
    fn take(&mut self, cpu: CpuId, now: u64) -> Option<VcpuKey> {
        let (number, _) = self.queue.top()?;
        let key = self.next_of(number)?;
        let (vm, vcpu) = parts(&mut self.vms, &mut self.vcpus, key)?;
        if vcpu.state != RunState::Ready {
            self.broken.get_or_insert(Broken::RunsTwice(key));
            return None;
        }
        let is_capped = vm.cap.is_some();
        vm.ready &= !ready_bit(key);
        vm.running = vm.running.saturating_add(1);
        vcpu.state = RunState::Running(cpu);
        vcpu.last_cpu = cpu;
        let waited = now.saturating_sub(vcpu.ready_since);
        vcpu.usage.steal_ns = vcpu.usage.steal_ns.saturating_add(waited);
        if let Some(slot) = self.cpu_mut(cpu) {
            slot.current = Some(key);
        }
        self.begin_quantum(cpu, now);
        if is_capped {
            self.regulate(cpu, number, now);
        }
        self.settle(number);
        Some(key)
    }

    /// Charges a quantum in advance to what runs on `cpu`.
    #[inline]
    fn begin_quantum(&mut self, cpu: CpuId, now: u64) {
        let Some(slot) = self.cpus.get_mut(index(u64::from(cpu.0))) else {
            return;
        };
        let Some(key) = slot.current else {
            return;
        };
        let Some((vm, vcpu)) = parts(&mut self.vms, &mut self.vcpus, key) else {
            return;
        };
        vm.turn = vm.turn.max(vcpu.turn);
        slot.started = now;
        slot.start_tag = vm.virtual_time;
        slot.slice = match &mut vm.cap {
            None => QUANTUM,
            Some(cap) => {
                cap.roll(now);
                cap.reserve(QUANTUM)
            }
        };
        slot.prepaid = vm.virtual_span(slot.slice);
        vm.virtual_time = vm.virtual_time.wrapping_add(slot.prepaid);
        self.virtual_now = later(self.virtual_now, slot.start_tag);
    }

    /// Replaces the advance charge by what was really used.
    fn charge(&mut self, cpu: CpuId, now: u64) {
        let Some(slot) = self.cpus.get_mut(index(u64::from(cpu.0))) else {
            return;
        };
        let Some(key) = slot.current else {
            return;
        };
        let Some((vm, vcpu)) = parts(&mut self.vms, &mut self.vcpus, key) else {
            return;
        };
        let used = now.saturating_sub(slot.started);
        let real = vm.virtual_span(used);
        let time = vm.virtual_time.wrapping_sub(slot.prepaid).wrapping_add(real);
        let floor = self.virtual_now.wrapping_sub(vm.virtual_span(LAG));
        vm.virtual_time = later(time, floor);
        if let Some(cap) = &mut vm.cap {
            cap.settle(slot.slice, used);
        }
        vcpu.turn = vcpu.turn.saturating_add(used);
        vcpu.usage.run_time_ns = vcpu.usage.run_time_ns.saturating_add(used);
        slot.prepaid = 0;
        slot.slice = 0;
        slot.started = now;
    }

    /// Makes a vCPU ready that did nothing until now.
    pub(super) fn make_ready(&mut self, key: VcpuKey, now: u64) {
        self.catch_up(now);
        let current = self.virtual_now;
        let Some((vm, vcpu)) = parts(&mut self.vms, &mut self.vcpus, key) else {
            return;
        };
        vcpu.state = RunState::Ready;
        vcpu.ready_since = now;
        vcpu.turn = vcpu.turn.max(vm.turn.saturating_sub(BONUS));
        if vm.ready == 0 && vm.running == 0 {
            let floor = current.wrapping_sub(vm.virtual_span(BONUS));
            let ceiling = current.wrapping_add(vm.virtual_span(SPAN));
            let time = later(vm.virtual_time, floor);
            vm.virtual_time = if before(ceiling, time) { ceiling } else { time };
        }
        self.put_back(key);
    }

    /// Counts a vCPU whose state is ready among those to choose from.
    pub(super) fn put_back(&mut self, key: VcpuKey) {
        let number = key.vm().0;
        if let Some(vm) = self.vm_mut(number) {
            vm.ready |= ready_bit(key);
        }
        self.settle(number);
    }

    /// Takes a vCPU out of those to choose from.
    pub(super) fn unready(&mut self, key: VcpuKey) {
        let number = key.vm().0;
        if let Some(vm) = self.vm_mut(number) {
            vm.ready &= !ready_bit(key);
        }
        self.settle(number);
    }

    /// Brings a VM's place in the queue up to date.
    fn settle(&mut self, number: u32) {
        let Some(vm) = self.vm(number) else {
            return;
        };
        if vm.waits() {
            self.queue.set(number, vm.virtual_time);
        } else {
            self.queue.remove(number);
        }
    }

    /// Holds a VM back that used up its cap, or lets it go on.
    fn regulate(&mut self, cpu: CpuId, number: u32, now: u64) {
        let vm = self.vm_mut(number);
        let Some(cap) = vm.and_then(|vm| vm.cap.as_mut()) else {
            return;
        };
        cap.roll(now);
        let (was, is) = (cap.parked, cap.is_exhausted());
        cap.parked = is;
        let end = cap.period_end();
        if is && !was {
            self.deadlines.arm(Purpose::Refill(number), cpu, end);
        } else if was && !is {
            self.deadlines.disarm(Purpose::Refill(number));
        }
        self.settle(number);
    }

    /// Begins a new period of a VM's cap.
    pub(super) fn refill(&mut self, number: u32, now: u64) {
        let current = self.virtual_now;
        let vm = self.vm_mut(number);
        if let Some(vm) = vm {
            if let Some(cap) = &mut vm.cap {
                cap.roll(now);
                cap.parked = false;
            }
            let floor = current.wrapping_sub(vm.virtual_span(BONUS));
            vm.virtual_time = later(vm.virtual_time, floor);
        }
        self.settle(number);
    }

    /// Renews the quanta of CPUs that ran on without a timer, so that virtual time is that of now.
    fn catch_up(&mut self, now: u64) {
        for cpu in self.tickless.iter() {
            let over = self
                .cpu(cpu)
                .is_some_and(|slot| slot.current.is_some() && now.saturating_sub(slot.started) >= slot.slice);
            if over {
                self.charge(cpu, now);
                self.begin_quantum(cpu, now);
            }
        }
    }

    /// The ready vCPU of a VM that ran least.
    fn next_of(&self, number: u32) -> Option<VcpuKey> {
        let mut rest = self.vm(number)?.ready;
        let mut best: Option<(u64, VcpuKey)> = None;
        let first = VcpuKey::new(protocol::VmId(number), protocol::VcpuId(0));
        while rest != 0 {
            let key = VcpuKey(first.0.saturating_add(rest.trailing_zeros()));
            rest &= rest.wrapping_sub(1);
            let turn = self.vcpus.get(key.index())?.turn;
            if best.is_none_or(|(least, _)| turn < least) {
                best = Some((turn, key));
            }
        }
        best.map(|(_, key)| key)
    }

    /// By how much virtual time a waiting VM is ahead of what runs on `cpu`, if that is enough to
    /// end the quantum.
    fn lead_over(&self, cpu: CpuId, number: u32, now: u64) -> Option<u64> {
        let slot = self.cpu(cpu).filter(|slot| !slot.preempted)?;
        let key = slot.current?;
        let used = now.saturating_sub(slot.started);
        let running = self.vm(key.vm().0)?;
        if key.vm().0 == number {
            let turn = self.vcpus.get(key.index())?.turn.saturating_add(used);
            let waiting = self.vcpus.get(self.next_of(number)?.index())?.turn;
            let lead = turn.checked_sub(waiting.saturating_add(MARGIN))?;
            return Some(running.virtual_span(lead));
        }
        let waiting = self.vm(number)?;
        let position = slot.start_tag.wrapping_add(running.virtual_span(used));
        let mark = waiting.virtual_time.wrapping_add(waiting.virtual_span(MARGIN));
        before(mark, position).then(|| position.wrapping_sub(mark))
    }

    /// Chooses the CPU that should pick because a vCPU became ready.
    pub(super) fn summon(&mut self, key: VcpuKey, now: u64) -> Option<CpuId> {
        let number = key.vm().0;
        let vm = self.vm(number)?;
        if !vm.waits() {
            return None;
        }
        let last = self.vcpus.get(key.index())?.last_cpu;
        let free = self.idle.without(self.summoned);
        if free.contains(last) {
            self.summoned.insert(last);
            return Some(last);
        }
        let worst = (0_u32..)
            .map(CpuId)
            .take(self.cpus.len())
            .filter_map(|cpu| Some((self.lead_over(cpu, number, now)?, cpu)))
            .max_by_key(|(lead, _)| *lead);
        match worst {
            Some((_, cpu)) if free.is_empty() => self.preempt(cpu),
            _ => self.summon_help(),
        }
    }

    /// Has `cpu` end its quantum. Nothing to interrupt when it is about to pick anyway.
    fn preempt(&mut self, cpu: CpuId) -> Option<CpuId> {
        self.cpu_mut(cpu)?.preempted = true;
        if self.summoned.contains(cpu) {
            return None;
        }
        self.summoned.insert(cpu);
        Some(cpu)
    }

    /// While anything waits: an idle CPU, or one without a quantum timer, that was not told yet.
    /// Each CPU that picks tells the next, so that one interrupt at a time reaches all.
    fn summon_help(&mut self) -> Option<CpuId> {
        if self.queue.is_empty() {
            return None;
        }
        let idle = self.idle.without(self.summoned).first();
        let cpu = idle.or_else(|| self.tickless.without(self.summoned).first())?;
        self.summoned.insert(cpu);
        Some(cpu)
    }

    /// Decides whether a timer ends the quantum on `cpu`.
    fn arm_tick(&mut self, cpu: CpuId) {
        let waiting = !self.queue.is_empty();
        let Some(key) = self.current(cpu) else {
            self.tickless.remove(cpu);
            if let Some(slot) = self.cpu_mut(cpu) {
                slot.tick = NEVER;
            }
            return;
        };
        let ends = waiting || self.is_capped(key);
        if let Some(slot) = self.cpu_mut(cpu) {
            let end = slot.started.saturating_add(slot.slice);
            slot.tick = if ends { end } else { NEVER };
        }
        if ends {
            self.tickless.remove(cpu);
        } else {
            self.tickless.insert(cpu);
        }
    }

    fn is_capped(&self, key: VcpuKey) -> bool {
        self.vm(key.vm().0).is_some_and(|vm| vm.cap.is_some())
    }
}

/// A vCPU and its VM.
fn parts<'a>(vms: &'a mut [Vm], vcpus: &'a mut [Vcpu], key: VcpuKey) -> Option<(&'a mut Vm, &'a mut Vcpu)> {
    let vm = vms.get_mut(index(u64::from(key.vm().0)))?;
    Some((vm, vcpus.get_mut(key.index())?))
}

const fn ready_bit(key: VcpuKey) -> u32 {
    1_u32.wrapping_shl(key.vcpu().0)
}
