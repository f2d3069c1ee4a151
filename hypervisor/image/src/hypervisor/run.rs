//! From one guest to the next: what enters ring 0, what is done before a guest goes on, and who that is.

use core::sync::atomic::Ordering;

use hv_arch::guest::Registers;
use hv_arch::irq::{self, vector};
use hv_arch::mmu;
use hv_core::addr::CpuId;
use hv_core::event::Source;
use hv_core::sched::{Expired, RunState, VcpuKey};
use hv_core::time::quantised;
use protocol::processor::TimeSource;
use protocol::record::exit;

use super::cpu::{self, Cpu, work};
use super::machine::{Vm, machine};
use super::vcpu::{Presence, Saved, Vcpu};
use super::{calls, deliver, events, line, slots, teardown};

/// A guest executed `syscall`.
#[inline(always)]
pub(super) fn on_system_call(registers: &mut Registers) {
    #[cfg(feature = "recount")]
    let (vector, number) = (registers.vector, registers.rax);
    #[cfg(feature = "recount")]
    super::recount::enter();
    let (cpu, vcpu) = cpu::entered();
    let Some(vcpu) = vcpu else {
        super::panic::broken("G1", "a system call while no vCPU is loaded");
    };
    match (&vcpu.xen, vcpu.mode()) {
        (Some(xen), _) => xen.system_call(cpu, vcpu, registers),
        (None, hv_core::abi::native::entry::Mode::Kernel) => calls::handle(cpu, vcpu, registers),
        (None, hv_core::abi::native::entry::Mode::User) => deliver::system_call(cpu, vcpu, registers),
    }
    if cpu.has_work() {
        finish(cpu, registers);
    }
    #[cfg(feature = "recount")]
    super::recount::leave(registers, vector, number);
}

/// A guest was interrupted or took an exception.
pub(super) fn on_trap(registers: &mut Registers) {
    #[cfg(feature = "recount")]
    let (vector, number) = (registers.vector, registers.rax);
    #[cfg(feature = "recount")]
    super::recount::enter();
    let (cpu, vcpu) = cpu::entered();
    match u8::try_from(registers.vector) {
        // The machine's own: not a guest's doing.
        Ok(2) => {}
        Ok(8) => super::panic::broken("T3", "a double fault from a guest"),
        Ok(18) => super::panic::broken("T4", "a machine check: the hardware failed"),
        Ok(exception) if exception < 32 || exception == vector::GUEST => {
            if let Some(vcpu) = vcpu {
                match &vcpu.xen {
                    Some(xen) => xen.trap(cpu, vcpu, registers),
                    None => deliver::exception(cpu, vcpu, registers),
                }
            }
        }
        Ok(interrupt) => {
            on_interrupt(interrupt);
            // Whatever it was for, an event may have come with it.
            cpu.ask(work::EVENTS);
        }
        Err(_) => super::panic::broken("T1", "a vector that no stub pushes"),
    }
    if cpu.has_work() {
        finish(cpu, registers);
    }
    #[cfg(feature = "recount")]
    super::recount::leave(registers, vector, number);
}

/// An interrupt arrived, in a guest or while waiting for one.
pub(super) fn on_interrupt(number: u8) {
    match number {
        vector::TIMER => {
            irq::acknowledge();
            cpu::own().ask(work::RESCHEDULE);
        }
        vector::RESCHEDULE => {
            irq::acknowledge();
            cpu::own().ask(work::RESCHEDULE);
        }
        vector::FLUSH => {
            irq::acknowledge();
            mmu::flush::service();
        }
        vector::SERIAL => {
            irq::acknowledge();
            line::serve();
        }
        // Spurious interrupts want no acknowledgement; no other vector is ever asked for.
        _ => {}
    }
}

/// Does what was asked for before the guest goes on; who that is may change.
#[inline(never)]
fn finish(cpu: &'static Cpu, registers: &mut Registers) {
    loop {
        let asked = cpu.take_work();
        if asked & work::RESCHEDULE != 0 {
            schedule(cpu, registers);
        }
        if let Some(vcpu) = cpu.current() {
            match &vcpu.xen {
                Some(xen) => xen.upcall(cpu, vcpu, registers),
                None => deliver::events(cpu, vcpu, registers),
            }
        }
        if !cpu.has_work() {
            break;
        }
    }
    if machine().time_slots.is_some() {
        // How another guest came into ring 0 must not decide how this one leaves it.
        hv_arch::guest::enter(registers)
    }
}

/// Runs the first guest of this CPU.
pub(super) fn start(cpu: &'static Cpu) -> ! {
    #[cfg(feature = "recount")]
    hv_arch::local::paint_stack(usize::MAX);
    let mut registers = Registers::ZERO;
    schedule(cpu, &mut registers);
    finish(cpu, &mut registers);
    hv_arch::guest::enter(&registers)
}

/// Has the scheduler choose, and loads what it chose.
fn schedule(cpu: &'static Cpu, registers: &mut Registers) {
    if !cpu.slot.is_over() {
        fire_timers(cpu);
        // Not when a timer woke somebody here, since then this comes again: one step in a stay is enough.
        if !cpu.has_work() {
            teardown::step(cpu);
        }
    }
    let previous = cpu.current();
    // Held until the registers are saved: whoever is given the vCPU next waits for that.
    let saved = previous.map(|vcpu| vcpu.saved.lock());
    let (next, timer) = choose(cpu);
    let stays = next.is_some_and(|next| previous.is_some_and(|previous| previous.index == next.index));
    if stays {
        if let Some(vcpu) = previous {
            // It may have been on its way to sleep when something woke it.
            vcpu.set_presence(Presence::Running(cpu.id));
        }
        cpu.ask(work::EVENTS);
        set_timer(timer, previous);
        return;
    }
    if let (Some(vcpu), Some(mut saved)) = (previous, saved) {
        leave(cpu, vcpu, &mut saved, registers);
    }
    let Some(next) = next else {
        // From here on nothing depends on what this CPU ran before.
        let (next, timer) = idle(cpu, timer);
        enter(cpu, next, registers);
        set_timer(timer, Some(next));
        return;
    };
    enter(cpu, next, registers);
    if let Some(previous) = previous
        && previous.vm != next.vm
    {
        previous.vm().leave(cpu.id);
    }
    set_timer(timer, Some(next));
}

/// Saves the vCPU that this CPU leaves, and leaves its root too while its `saved` is locked: who takes
/// that lock next knows that the space can change, or go.
fn leave(cpu: &Cpu, vcpu: &Vcpu, saved: &mut Saved, registers: &Registers) {
    vcpu.save(saved, registers);
    mmu::load_root(machine().root);
    if vcpu.presence() == Presence::Running(cpu.id) {
        vcpu.set_presence(Presence::Away);
    }
    cpu.set_current(None);
}

/// Loads a vCPU.
fn enter(cpu: &Cpu, vcpu: &'static Vcpu, registers: &mut Registers) {
    vcpu.vm().enter(cpu.id);
    cpu.load_controls(vcpu);
    vcpu.load(cpu, registers);
    vcpu.set_presence(Presence::Running(cpu.id));
    cpu.set_current(Some(vcpu));
    cpu.ask(work::EVENTS);
}

/// Asks the scheduler: who runs now, and when it is to be asked again. Nobody when the slot is over.
pub(super) fn choose(cpu: &Cpu) -> (Option<&'static Vcpu>, u64) {
    let now = now(cpu);
    let mut scheduler = cpu.partition().scheduler.lock();
    if now >= cpu.slot.end() {
        scheduler.park(cpu.id, cpu.slot.end());
        return (None, cpu.slot.end());
    }
    let choice = scheduler.pick(cpu.id, now);
    let next = choice.vcpu.and_then(by_key);
    if let (Some(vcpu), Some(key)) = (next, choice.vcpu) {
        let usage = scheduler.usage(key, now);
        if vcpu.xen.is_none() {
            let [run_time, steal] = [usage.run_time_ns, usage.steal_ns].map(|span| quantised(span, vcpu.time()));
            vcpu.page().set_times(run_time, steal, usage.switches);
        }
    }
    let is_broken = scheduler.is_broken();
    drop(scheduler);
    if is_broken {
        super::panic::broken("Q1", "a vCPU was about to run on two CPUs");
    }
    if let Some(other) = choice.interrupt {
        interrupt(other);
    }
    (next, choice.timer)
}

/// Waits until there is something to run.
fn idle(cpu: &'static Cpu, mut timer: u64) -> (&'static Vcpu, u64) {
    mmu::load_root(machine().root);
    for vm in &machine().vms {
        vm.leave(cpu.id);
    }
    loop {
        if let Some(slots) = machine().time_slots.as_ref().filter(|_| cpu.slot.is_over()) {
            let next;
            (next, timer) = slots::change(cpu, slots);
            if let Some(next) = next {
                return (next, timer);
            }
        }
        set_timer(timer, None);
        if !teardown::step(cpu) {
            end_if_all_ended();
            hv_arch::cpu::wait_for_interrupt();
        }
        #[cfg(feature = "recount")]
        super::recount::enter();
        cpu.take_work();
        fire_timers(cpu);
        let next;
        (next, timer) = choose(cpu);
        if let Some(next) = next {
            return (next, timer);
        }
    }
}

/// Makes ports of timers pending whose deadline has come, and wakes whose sleep is over.
pub(super) fn fire_timers(cpu: &Cpu) {
    loop {
        let due = cpu.partition().scheduler.lock().expired(cpu.id, now(cpu));
        match due {
            None => return,
            Some(Expired::Interrupt(other)) => interrupt(other),
            Some(Expired::Timer(key)) => {
                if let Some(vm) = machine().vm(key.vm) {
                    vm.show_coarse_time();
                    events::happened(vm, Source::Timer(key.vcpu));
                }
            }
        }
    }
}

/// The machine's time as the scheduler of the own slot sees it: not before the slot begins.
#[inline(always)]
pub(super) fn now(cpu: &Cpu) -> u64 {
    machine().clock.now().max(cpu.slot.begin())
}

/// Brings a coarse time page up to now; the machine time at which that is due again.
#[inline(never)]
fn show_step(vm: &Vm) -> u64 {
    vm.now();
    vm.clock.lock().next_step(hv_arch::cpu::read_tsc())
}

/// Arms this CPU's one-shot interrupt for a machine time, or the end of its slot. A vCPU with coarse time
/// that goes on gets its time page brought up to now, and again at the next step.
pub(super) fn set_timer(deadline: u64, runs: Option<&Vcpu>) {
    let step = match runs {
        Some(vcpu) if vcpu.time() == TimeSource::Coarse => show_step(vcpu.vm()),
        _ => u64::MAX,
    };
    let deadline = deadline.min(step).min(cpu::own().slot.end());
    if deadline == u64::MAX {
        irq::timer::disarm();
    } else {
        let clock = machine().clock.0;
        irq::timer::arm(clock.tsc_at(deadline, hv_arch::cpu::read_tsc()));
    }
}

/// A vCPU by the scheduler's key.
fn by_key(key: VcpuKey) -> Option<&'static Vcpu> {
    machine().vm(key.vm)?.vcpu(key.vcpu)
}

/// The scheduler's key of a vCPU.
pub(super) fn key(vcpu: &Vcpu) -> VcpuKey {
    VcpuKey { vm: vcpu.vm().id, vcpu: vcpu.id }
}

/// Wakes a vCPU that sleeps and has an event. Looked at under the lock of `block`: it may have taken the event
/// and gone to sleep anew before its sender came here, and no sleep ends for nothing. Those of Xen's ABI may, and
/// look again by themselves.
pub(super) fn wake(vcpu: &Vcpu) {
    let has_event = |_: &_| vcpu.xen.is_some() || vcpu.page().has_pending();
    let scheduler = Some(vcpu.vm().partition().scheduler.lock()).filter(has_event);
    let on = scheduler.and_then(|mut scheduler| scheduler.wake(key(vcpu), now(cpu::own())));
    if let Some(on) = on {
        interrupt(on);
    }
}

/// Has a CPU pick: this one before it enters a guest, another by an interrupt.
pub(super) fn interrupt(on: CpuId) {
    let own = cpu::own();
    if on == own.id {
        own.ask(work::RESCHEDULE);
    } else {
        irq::send(hv_arch::local::apic_id(on), vector::RESCHEDULE);
    }
}

/// CPU time that a VM has used.
pub(super) fn cpu_time(vm: &Vm) -> u64 {
    let now = now(cpu::own());
    let scheduler = vm.partition().scheduler.lock();
    vm.vcpus().iter().map(|vcpu| scheduler.usage(key(vcpu), now).run_time_ns).fold(0, u64::saturating_add)
}

/// Waits until another CPU has left a vCPU that was told to stop, or somebody started it anew since. Gives
/// up when the caller's own vCPU is told to stop meanwhile: else two that stop each other would wait for
/// ever.
pub(super) fn wait_until_stopped(vcpu: &Vcpu, own: &Vcpu) {
    let is_told = |vcpu: &Vcpu| vcpu.stopping.load(Ordering::SeqCst);
    let partition = vcpu.vm().partition();
    while is_told(vcpu) && partition.scheduler.lock().state(key(vcpu)) != Some(RunState::Stopped) && !is_told(own) {
        mmu::flush::service();
        hv_arch::cpu::pause();
    }
}

/// Ends the machine when no VM is left.
fn end_if_all_ended() {
    if machine().live.load(Ordering::SeqCst) == 0 {
        let failed = machine().failed.load(Ordering::SeqCst) != 0;
        halt_machine(if failed { exit::VM_FAILED } else { exit::ALL_WELL });
    }
}

/// Ends the machine.
pub(super) fn halt_machine(code: u32) -> ! {
    let mut line = machine().line.lock();
    #[cfg(feature = "recount")]
    super::recount::report(&mut line);
    if let Some(slots) = &machine().time_slots {
        let [changes, flushes, late] = slots.counts();
        line.say(format_args!(
            "{changes} slots on {} CPUs, {flushes} flushes, {late} began late",
            machine().cpus.len()
        ));
    }
    line.drain();
    hv_arch::local::stop_others();
    hv_arch::io::machine_exit(code)
}
