//! The choice itself: virtual time, quanta, and which CPU is told to choose.
//!
//! Virtual time of a VM counts 2^-16 ns of CPU time divided by weight. `virtual_now` is the greatest
//! virtual time at which a VM was chosen. A VM that comes back from doing nothing starts no earlier
//! than a little before `virtual_now` (so sleep saves up no credit), and one that runs stays no
//! farther behind than [`LAG`] of its own CPU time (so a weight that its vCPUs cannot use up, as 4 of
//! 7 with one vCPU on two CPUs, does not starve the others later).
//!
//! Virtual times may wrap; they are compared by their difference. There are few enough VMs, and vCPUs
//! of a VM, that the least is found by looking at all that wait.

use protocol::{VcpuId, VmId};

use super::{Cpu, NEVER, RunState, Scheduler, VcpuKey, Vm, at, bit, bits};
use crate::addr::CpuId;

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

/// Whether virtual time `a` comes before `b`.
const fn before(a: u64, b: u64) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

/// The later of two virtual times.
const fn later(a: u64, b: u64) -> u64 {
    if before(a, b) { b } else { a }
}

/// The number with the least key, of pairs of both.
pub(super) fn least(keyed: impl Iterator<Item = (u64, u32)>) -> Option<u32> {
    let least = keyed.min_by(|(a, _), (b, _)| a.wrapping_sub(*b).cast_signed().cmp(&0));
    least.map(|(_, number)| number)
}

impl Vm {
    /// Virtual time of a span of CPU time.
    fn virtual_span(&self, span: u64) -> u64 {
        span.min(SPAN).wrapping_mul(self.rate) >> 16
    }

    /// Whether it has a vCPU to choose.
    pub(super) const fn waits(&self) -> bool {
        let parked = matches!(&self.cap, Some(cap) if cap.parked.is_some());
        self.ready != 0 && !parked
    }

    /// The ready vCPU that ran least.
    fn next(&self) -> Option<u32> {
        least(bits(self.ready).filter_map(|vcpu| Some((self.vcpus.get(at(vcpu))?.turn, vcpu))))
    }
}

impl Cpu {
    /// Charges a quantum in advance to the VM of what runs.
    fn begin(&mut self, vm: &mut Vm, turn: u64, now: u64) {
        vm.turn = vm.turn.max(turn);
        self.started = now;
        self.start_tag = vm.virtual_time;
        self.is_capped = vm.cap.is_some();
        self.slice = vm.cap.as_mut().map_or(QUANTUM, |cap| {
            cap.roll(now);
            cap.reserve(QUANTUM)
        });
        vm.virtual_time = vm.virtual_time.wrapping_add(vm.virtual_span(self.slice));
    }

    /// Replaces the advance charge by what was really used; the vCPU's turn then.
    fn charge(&mut self, vm: &mut Vm, vcpu: VcpuId, virtual_now: u64, now: u64) -> u64 {
        let used = now.saturating_sub(self.started);
        let before = vm.virtual_time.wrapping_sub(vm.virtual_span(self.slice));
        let floor = virtual_now.wrapping_sub(vm.virtual_span(LAG));
        vm.virtual_time = later(before.wrapping_add(vm.virtual_span(used)), floor);
        if let Some(cap) = &mut vm.cap {
            cap.settle(self.slice, used);
        }
        let Some(vcpu) = vm.vcpus.get_mut(at(vcpu.0)) else {
            return 0;
        };
        vcpu.usage.run_time_ns = vcpu.usage.run_time_ns.saturating_add(used);
        vcpu.turn = vcpu.turn.saturating_add(used);
        vcpu.turn
    }

    /// Holds a VM back that used up its cap, or lets it go on.
    fn regulate(&mut self, own: CpuId, vm: &mut Vm, now: u64) {
        if let Some(cap) = &mut vm.cap {
            cap.roll(now);
            cap.parked = cap.is_exhausted().then_some(own);
            if cap.parked.is_some() {
                self.alarm = self.alarm.min(cap.period_end);
            }
        }
    }
}

impl Scheduler {
    /// Chooses what `cpu` runs from now on, and charges what it ran.
    pub fn pick(&mut self, cpu: CpuId, now: u64) -> Choice {
        self.summoned &= !bit(cpu.0);
        let previous = self.current(cpu);
        if !self.keeps(cpu, now) {
            let yielding = self.leave(cpu, now);
            let taken = self.take(cpu, previous, now);
            if let Some(key) = yielding {
                self.put_back(key);
                taken.or_else(|| self.take(cpu, previous, now));
            }
        }
        self.arm_tick(cpu);
        Choice { previous, vcpu: self.current(cpu), timer: self.timer(cpu), interrupt: self.summon_help() }
    }

    /// Takes what runs on `cpu` off it, because the time of all VMs of this scheduler is over for now. The
    /// CPU picks when it comes again.
    pub fn park(&mut self, cpu: CpuId, now: u64) {
        if let Some(key) = self.leave(cpu, now) {
            self.put_back(key);
        }
        self.arm_tick(cpu);
    }

    /// Whether `cpu` may go on with its quantum. Others that have waited are no reason to end it,
    /// only one that woke: equals would end each other's quanta at every interrupt.
    fn keeps(&self, cpu: CpuId, now: u64) -> bool {
        let Some((slot, key)) = self.cpu(cpu).and_then(|slot| Some((slot, slot.current?))) else {
            return false;
        };
        let runs = self.vcpu(key).is_some_and(|vcpu| vcpu.state == RunState::Running(cpu) && !vcpu.stopping);
        let is_contended = self.waiting != 0 || slot.is_capped;
        let is_over = is_contended && now.saturating_sub(slot.started) >= slot.slice;
        runs && !slot.yields && !slot.preempted && !is_over
    }

    /// Takes what runs on `cpu` off it. What yields is returned, not yet counted as ready.
    fn leave(&mut self, cpu: CpuId, now: u64) -> Option<VcpuKey> {
        let slot = self.cpus.get_mut(at(cpu.0))?;
        let key = slot.current.take()?;
        let vm = self.vms.get_mut(at(key.vm.0))?;
        slot.charge(vm, key.vcpu, self.virtual_now, now);
        slot.regulate(cpu, vm, now);
        let yields = core::mem::take(&mut slot.yields);
        slot.preempted = false;
        vm.running = vm.running.saturating_sub(1);
        let vcpu = vm.vcpus.get_mut(at(key.vcpu.0))?;
        let goes_on = !vcpu.stopping && vcpu.state != RunState::Blocked;
        if vcpu.stopping {
            vcpu.halt();
        } else if goes_on {
            self.is_broken |= vcpu.state != RunState::Running(cpu);
            vcpu.state = RunState::Ready;
            vcpu.ready_since = now;
            vm.ready |= if yields { 0 } else { bit(key.vcpu.0) };
        }
        self.settle(key.vm);
        Some(key).filter(|_| goes_on && yields)
    }

    /// Gives `cpu` the ready vCPU whose turn it is.
    fn take(&mut self, cpu: CpuId, previous: Option<VcpuKey>, now: u64) -> Option<()> {
        let waiting = bits(self.waiting).filter_map(|vm| Some((self.vms.get(at(vm))?.virtual_time, vm)));
        let number = VmId(least(waiting)?);
        let (slot, vm) = (self.cpus.get_mut(at(cpu.0))?, self.vms.get_mut(at(number.0))?);
        let key = VcpuKey { vm: number, vcpu: VcpuId(vm.next()?) };
        let vcpu = vm.vcpus.get_mut(at(key.vcpu.0))?;
        if vcpu.state != RunState::Ready {
            self.is_broken = true;
            return None;
        }
        vcpu.state = RunState::Running(cpu);
        vcpu.last_cpu = cpu;
        vcpu.usage.steal_ns = vcpu.usage.steal_ns.saturating_add(now.saturating_sub(vcpu.ready_since));
        vcpu.usage.switches = vcpu.usage.switches.saturating_add(u64::from(previous != Some(key)));
        vm.ready &= !bit(key.vcpu.0);
        vm.running = vm.running.saturating_add(1);
        slot.current = Some(key);
        slot.alarm = slot.alarm.min(vcpu.timer_at);
        let turn = vcpu.turn;
        slot.begin(vm, turn, now);
        slot.regulate(cpu, vm, now);
        self.virtual_now = later(self.virtual_now, slot.start_tag);
        self.settle(number);
        Some(())
    }

    /// Makes a vCPU ready that did nothing until now; the CPU that should pick for it.
    pub(super) fn make_ready(&mut self, key: VcpuKey, now: u64) -> Option<CpuId> {
        self.catch_up(now);
        let current = self.virtual_now;
        let vm = self.vms.get_mut(at(key.vm.0))?;
        let vcpu = vm.vcpus.get_mut(at(key.vcpu.0))?;
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
        self.summon(key, now)
    }

    /// Counts a vCPU whose state is ready among those to choose from.
    pub(super) fn put_back(&mut self, key: VcpuKey) {
        if let Some(vm) = self.vms.get_mut(at(key.vm.0)) {
            vm.ready |= bit(key.vcpu.0);
        }
        self.settle(key.vm);
    }

    /// Brings up to date whether a VM waits.
    pub(super) fn settle(&mut self, vm: VmId) {
        let waits = self.vms.get(at(vm.0)).is_some_and(Vm::waits);
        self.waiting = self.waiting & !bit(vm.0) | if waits { bit(vm.0) } else { 0 };
    }

    /// Begins a new period of a VM's cap.
    pub(super) fn refill(&mut self, number: VmId, now: u64) {
        if let Some(vm) = self.vms.get_mut(at(number.0)) {
            if let Some(cap) = &mut vm.cap {
                cap.roll(now);
                cap.parked = None;
            }
            vm.virtual_time = later(vm.virtual_time, self.virtual_now.wrapping_sub(vm.virtual_span(BONUS)));
        }
        self.settle(number);
    }

    /// Renews the quanta of CPUs that ran on without a timer, so that virtual time is that of now.
    fn catch_up(&mut self, now: u64) {
        for number in bits(self.tickless) {
            if let Some(slot) = self.cpus.get_mut(at(number))
                && now.saturating_sub(slot.started) >= slot.slice
                && let Some(key) = slot.current
                && let Some(vm) = self.vms.get_mut(at(key.vm.0))
            {
                let turn = slot.charge(vm, key.vcpu, self.virtual_now, now);
                slot.begin(vm, turn, now);
                self.virtual_now = later(self.virtual_now, slot.start_tag);
            }
        }
    }

    /// By how much virtual time a waiting VM is ahead of what runs on `cpu`, if that is enough to
    /// end the quantum.
    fn lead_over(&self, cpu: CpuId, waiting: VmId, now: u64) -> Option<u64> {
        let slot = self.cpu(cpu).filter(|slot| !slot.preempted)?;
        let key = slot.current?;
        let used = now.saturating_sub(slot.started);
        let (running, waiter) = (self.vms.get(at(key.vm.0))?, self.vms.get(at(waiting.0))?);
        if key.vm == waiting {
            let turn = self.vcpu(key)?.turn.saturating_add(used);
            let waiting = waiter.vcpus.get(at(waiter.next()?))?.turn;
            return Some(running.virtual_span(turn.checked_sub(waiting.saturating_add(MARGIN))?));
        }
        let position = slot.start_tag.wrapping_add(running.virtual_span(used));
        let mark = waiter.virtual_time.wrapping_add(waiter.virtual_span(MARGIN));
        before(mark, position).then(|| position.wrapping_sub(mark))
    }

    /// Chooses the CPU that should pick because a vCPU became ready: the one that it ran on if that
    /// idles, or another idle one, or else the one that it is the most ahead of.
    fn summon(&mut self, key: VcpuKey, now: u64) -> Option<CpuId> {
        if !self.vms.get(at(key.vm.0))?.waits() {
            return None;
        }
        let last = self.vcpu(key)?.last_cpu;
        let free = self.idle & !self.summoned;
        if free & bit(last.0) != 0 {
            return self.tell(last);
        }
        let all = (0_u32..).map(CpuId).take(self.cpus.len());
        let worst = all.filter_map(|cpu| Some((self.lead_over(cpu, key.vm, now)?, cpu))).max_by_key(|(lead, _)| *lead);
        match worst.filter(|_| free == 0) {
            Some((_, cpu)) => {
                self.cpu_mut(cpu)?.preempted = true;
                self.tell(cpu)
            }
            None => self.summon_help(),
        }
    }

    /// While anything waits: an idle CPU, or one without a quantum timer, that was not told yet.
    /// Each CPU that picks tells the next, so that one interrupt at a time reaches all.
    fn summon_help(&mut self) -> Option<CpuId> {
        let help = bits(self.idle & !self.summoned).chain(bits(self.tickless & !self.summoned)).next();
        self.tell(CpuId(help.filter(|_| self.waiting != 0)?))
    }

    /// Notes that a CPU has to pick; the CPU, if it was not told before.
    fn tell(&mut self, cpu: CpuId) -> Option<CpuId> {
        let is_new = self.summoned & bit(cpu.0) == 0;
        self.summoned |= bit(cpu.0);
        is_new.then_some(cpu)
    }

    /// Decides whether a timer ends the quantum on `cpu`.
    fn arm_tick(&mut self, cpu: CpuId) {
        if let Some(slot) = self.cpus.get_mut(at(cpu.0)) {
            let (own, ends) = (bit(cpu.0), self.waiting != 0 || slot.is_capped);
            let is_idle = slot.current.is_none();
            slot.tick = if ends && !is_idle { slot.started.saturating_add(slot.slice) } else { NEVER };
            self.idle = self.idle & !own | if is_idle { own } else { 0 };
            self.tickless = self.tickless & !own | if ends || is_idle { 0 } else { own };
        }
    }
}
