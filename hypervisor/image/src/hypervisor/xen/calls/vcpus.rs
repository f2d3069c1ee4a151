//! vCPUs: given registers, started, stopped, timed.

use core::sync::atomic::Ordering;

use hv_arch::guest::segments::Selectors;
use hv_arch::guest::xen_info::Info;
use hv_arch::guest::{Registers, copy};
use hv_core::abi::native::entry::Mode;
use hv_core::abi::xen::clock;
use hv_core::abi::xen::context::{self, Start};
use hv_core::addr::{Mfn, Phys};
use hv_core::paging::Progress;
use hv_core::sched::{RunState, Stop};
use hv_core::vm::xen::XenMemory;
use protocol::xen::structure::{RegisterVcpuInfo, RunstateInfo, SetSingleshotTimer, VcpuGuestContext, VcpuInfo};
use protocol::xen::{Errno, assist, vcpu};
use protocol::{GuestVirt, VcpuId};
use zerocopy::IntoBytes;

use super::super::local::LocalTable;
use super::super::memory::{finished, tables};
use super::super::{Own, XenVcpu};
use super::processor::take_table;
use super::{Caller, Refusal, Reply, read, write};
use crate::hypervisor::cpu::work;
use crate::hypervisor::machine::machine;
use crate::hypervisor::vcpu::Vcpu;
use crate::hypervisor::{death, run};

/// Has the interrupt of the caller's CPU come when one of the caller's timers is due.
pub(super) fn rearm(caller: &Caller<'_>) {
    // Armed under the lock under which it was computed: another CPU may be taking what was due before.
    let state = caller.state();
    let timer = super::super::events::arm(caller.vcpu, state.own.timers.due());
    drop(state);
    run::set_timer(timer, Some(caller.vcpu));
}

#[inline(never)]
pub(super) fn set_timer(caller: &mut Caller<'_>, deadline: u64) -> Reply {
    let now = caller.vm().now().0;
    caller.state().own.timers.set_single_or_stop(deadline, now);
    rearm(caller);
    Ok(0)
}

#[inline(never)]
pub(super) fn vcpu_op(caller: &mut Caller<'_>, [command, number, argument]: [u64; 3]) -> Reply {
    let id = u32::try_from(number & 0xffff_ffff).unwrap_or(u32::MAX);
    let other = caller.vm().vcpu(VcpuId(id)).ok_or(Errno::NotFound)?;
    let xen = other.xen.as_ref().ok_or(Errno::NotFound)?;
    match command {
        vcpu::IS_UP => return Ok(u64::from(state_of(other) != Some(RunState::Stopped))),
        vcpu::INITIALISE => return initialise(caller, other, xen, argument),
        vcpu::UP => return up(caller, other, xen),
        vcpu::DOWN => return down(caller, other, xen),
        vcpu::GET_RUNSTATE => {
            let info: RunstateInfo = xen.state.lock().own.runstate.info_at(caller.vm().now().0);
            write(argument, &info)?;
        }
        vcpu::REGISTER_RUNSTATE => {
            let address: u64 = read(argument)?;
            let own = &mut xen.state.lock().own;
            own.runstate_area = Some(address);
            xen.tells_runstate.store(other.index == caller.vcpu.index, Ordering::Relaxed);
        }
        vcpu::REGISTER_VCPU_INFO => return register_info(caller, xen, argument),
        vcpu::SET_PERIODIC_TIMER..=vcpu::STOP_SINGLESHOT_TIMER => return timer(caller, xen, command, argument),
        vcpu::REGISTER_TIME_AREA => {
            let address: u64 = read(argument)?;
            if address != 0 {
                // It holds for the VM's whole life, for all its vCPUs. An even version says that it is whole.
                write(address, &clock::time_info(*caller.vm().clock.lock(), 2))?;
            }
        }
        vcpu::GET_PHYSID => return Err(Errno::Invalid.into()),
        _ => return caller.unknown(protocol::xen::call::VCPU_OP),
    }
    Ok(0)
}

/// The timers. Those of another vCPU can only be stopped.
fn timer(caller: &Caller<'_>, xen: &XenVcpu, command: u64, argument: u64) -> Reply {
    let is_own = core::ptr::eq(xen, caller.xen);
    let now = caller.vm().now().0;
    match command {
        vcpu::STOP_PERIODIC_TIMER => xen.state.lock().own.timers.stop_periodic(),
        _ if !is_own => return Err(Errno::Invalid.into()),
        vcpu::SET_PERIODIC_TIMER => {
            let period: u64 = read(argument)?;
            xen.state.lock().own.timers.set_periodic(period, now)?;
        }
        vcpu::SET_SINGLESHOT_TIMER => {
            let timer: SetSingleshotTimer = read(argument)?;
            xen.state.lock().own.timers.set_single(timer.timeout_abs_ns);
        }
        _ => xen.state.lock().own.timers.stop_single(),
    }
    if is_own {
        rearm(caller);
    }
    Ok(0)
}

fn state_of(vcpu: &Vcpu) -> Option<RunState> {
    vcpu.vm().partition().scheduler.lock().state(run::key(vcpu))
}

/// Bit of a run state's entry time: it is being written.
const IS_CHANGING: u64 = 1 << 63;

/// Writes how long a vCPU did what, if its guest asked for that and it is to be told. In user mode its
/// kernel's addresses cannot be written: then when it enters its kernel.
#[inline(always)]
pub(super) fn tell_runstate(vcpu: &Vcpu, xen: &XenVcpu) {
    if xen.tells_runstate.load(Ordering::Relaxed) && vcpu.mode() == Mode::Kernel {
        write_runstate(vcpu, xen);
    }
}

/// Writes it.
#[inline(never)]
fn write_runstate(vcpu: &Vcpu, xen: &XenVcpu) {
    xen.tells_runstate.store(false, Ordering::Relaxed);
    let (area, info) = {
        let own = &xen.state.lock().own;
        let Some(area) = own.runstate_area else {
            return;
        };
        (area, own.runstate.info())
    };
    let has_flag = vcpu.vm().xen.as_ref().is_some_and(|domain| domain.has_assist(assist::RUNSTATE_UPDATE_FLAG));
    let entered = |time: u64| copy::write(GuestVirt(area.wrapping_add(8)), &time.to_le_bytes());
    // Whether the guest's area is there is the guest's business.
    if has_flag {
        let _begun = entered(info.state_entry_time | IS_CHANGING);
    }
    let during =
        RunstateInfo { state_entry_time: info.state_entry_time | if has_flag { IS_CHANGING } else { 0 }, ..info };
    let _written = copy::write(GuestVirt(area), during.as_bytes());
    if has_flag {
        let _ended = entered(info.state_entry_time);
    }
}

/// Moves the record of a vCPU to where the guest wants it, for ever.
fn register_info(caller: &Caller<'_>, xen: &XenVcpu, argument: u64) -> Reply {
    let place: RegisterVcpuInfo = read(argument)?;
    let offset = u64::from(place.offset);
    let room = protocol::layout::PAGE_SIZE.wrapping_sub(hv_core::addr::convert::wide(size_of::<VcpuInfo>()));
    if !offset.is_multiple_of(8) || offset > room {
        return Err(Errno::Invalid.into());
    }
    let mut memory = caller.domain.memory()?;
    let own = &mut xen.state.lock().own;
    if own.has_own_info {
        return Err(Errno::Busy.into());
    }
    finished(Ok(memory.paging.drain(tables(caller.vm()))))?;
    memory.paging.take_writable(tables(caller.vm()), Mfn(place.mfn)).map_err(|_| Errno::Access)?;
    let address = Phys(Mfn(place.mfn).start().0.wrapping_add(offset));
    let new = Info::new(address);
    new.copy_from(xen.info());
    xen.info.set(address.0);
    own.has_own_info = true;
    // What came while it moved may stand at the old place: have the vCPU look at every word.
    new.select_all();
    new.mark();
    Ok(0)
}

/// Gives a vCPU that never ran its registers and tables.
fn initialise(caller: &Caller<'_>, vcpu: &'static Vcpu, xen: &'static XenVcpu, argument: u64) -> Reply {
    let given: VcpuGuestContext = read(argument)?;
    let vm = caller.vm();
    let mut memory = caller.domain.memory()?;
    let mut state = xen.state.lock();
    if state.own.is_initialised {
        return Err(Errno::Exists.into());
    }
    let start = context::check(&given, &mut state.traps)?;
    // One that is validated already is referred to at once: else what was taken before it could not be dropped.
    if start.user_root.is_some_and(|root| !memory.paging.is_root(tables(vm), root)) {
        return Err(Errno::Invalid.into());
    }
    // The vCPU that asks holds the results of what takes long.
    finished(memory.paging.take_root(tables(vm), caller.vcpu.id, start.root))?;
    if let Err(errno) = take_rest(&mut memory, caller, &start) {
        let _dropped = memory.paging.drop_root(tables(vm), start.root);
        return Err(errno.into());
    }
    let now = vm.now().0;
    state.local = LocalTable::new(start.local_table);
    apply(vcpu, &mut state.own, &start, now);
    Ok(0)
}

/// Takes the user root and the frames of the descriptor table.
///
/// # Errors
/// That one of them cannot be had; then none was taken.
fn take_rest(memory: &mut XenMemory, caller: &Caller<'_>, start: &Start) -> Result<(), Errno> {
    let vm = caller.vm();
    if let Some(root) = start.user_root
        && memory.paging.take_root(tables(vm), caller.vcpu.id, root)? == Progress::Again
    {
        return Err(Errno::Invalid);
    }
    let taken = take_table(memory, vm, start.table());
    if let (Err(_), Some(root)) = (taken, start.user_root) {
        let _dropped = memory.paging.drop_root(tables(vm), root);
    }
    taken
}

/// Puts a checked start into a vCPU that does not run.
fn apply(vcpu: &'static Vcpu, own: &mut Own, start: &Start, now: u64) {
    let kept = (own.has_own_info, own.runstate_area, own.timers, own.privilege.is_architectural);
    *own = Own::new(now);
    (own.has_own_info, own.runstate_area, own.timers, own.privilege.is_architectural) = kept;
    own.is_initialised = true;
    own.callbacks = start.callbacks;
    own.kernel_stack = start.kernel_stack;
    own.privilege.level = start.iopl;
    own.controlled.task_switched = start.is_task_switched;
    own.kernel_root = start.root;
    own.user_root = start.user_root;
    own.set_table(start.table());
    hv_arch::mmu::window::show_table(machine().root, vcpu.index, own.table());
    vcpu.prepare(registers(start));
    vcpu.set_debug(start.debug);
    vcpu.set_roots(start.root, start.user_root);
    vcpu.set_mode(start.mode);
    let selectors = [start.registers.ds, start.registers.es, start.registers.fs, start.registers.gs];
    let selectors = selectors.map(|selector| u16::try_from(selector & 0xffff).unwrap_or(0));
    let (active, other) = match start.mode {
        Mode::Kernel => (start.gs_kernel, start.gs_user),
        Mode::User => (start.gs_user, start.gs_kernel),
    };
    let mut saved = vcpu.saved.lock();
    saved.selectors = Selectors::of(selectors);
    saved.fs_base = start.fs_base;
    saved.gs_base = active;
    drop(saved);
    vcpu.other_gs.set(other);
}

/// The registers of a checked start.
fn registers(start: &Start) -> Registers {
    let own = &start.registers;
    Registers {
        r15: own.r15,
        r14: own.r14,
        r13: own.r13,
        r12: own.r12,
        rbp: own.rbp,
        rbx: own.rbx,
        r9: own.r9,
        r8: own.r8,
        r10: own.r10,
        rdx: own.rdx,
        rsi: own.rsi,
        rdi: own.rdi,
        r11: own.r11,
        rcx: own.rcx,
        rax: own.rax,
        vector: 0,
        error_code: 0,
        rip: own.rip,
        cs: u64::from(own.cs),
        rflags: own.rflags,
        rsp: own.rsp,
        ss: own.ss,
    }
}

/// Starts a vCPU that has registers, or lets it go on where it went down.
fn up(caller: &Caller<'_>, vcpu: &'static Vcpu, xen: &XenVcpu) -> Reply {
    let (is_initialised, due) = {
        let own = &xen.state.lock().own;
        (own.is_initialised, own.timers.due())
    };
    if !is_initialised {
        return Err(Errno::Invalid.into());
    }
    let due = caller.vm().clock.lock().to_machine(due);
    let mut scheduler = caller.cpu.partition().scheduler.lock();
    if scheduler.state(run::key(vcpu)) != Some(RunState::Stopped) {
        return Ok(0);
    }
    // Under the lock under which all are stopped once life has changed: none is started behind that.
    if !caller.vm().is_live() {
        return Err(Errno::Again.into());
    }
    vcpu.stopping.store(false, Ordering::SeqCst);
    // Its CPU looks at the timer when it picks the vCPU.
    let _asked_for = scheduler.set_timer(run::key(vcpu), due);
    let on = scheduler.start(run::key(vcpu), run::now(caller.cpu)).map_err(|_| Errno::Invalid)?;
    drop(scheduler);
    if let Some(on) = on {
        run::interrupt(on);
    }
    Ok(0)
}

/// Stops a vCPU. When none is left, the VM has ended.
fn down(caller: &mut Caller<'_>, vcpu: &'static Vcpu, xen: &XenVcpu) -> Reply {
    let now = caller.vm().now().0;
    let mut state = xen.state.lock();
    let mut scheduler = caller.cpu.partition().scheduler.lock();
    // One that was told to stop may still be on its way out: two that go at once must not count on each other.
    let stays = |other: &Vcpu| {
        !other.stopping.load(Ordering::SeqCst)
            && scheduler.state(run::key(other)).is_some_and(|state| state != RunState::Stopped)
    };
    if !caller.vm().vcpus().iter().any(|other| other.index != vcpu.index && stays(other)) {
        drop(scheduler);
        drop(state);
        death::end(caller.cpu, caller.vm(), 0);
        return Err(Refusal::Taken);
    }
    let stop = scheduler.stop(run::key(vcpu)).map_err(|_| Errno::Invalid)?;
    vcpu.stopping.store(true, Ordering::SeqCst);
    if stop == Stop::Done {
        // When it left its CPU, it could have gone on, or waited.
        state.own.runstate.change(clock::Activity::Offline, now);
    }
    drop(scheduler);
    drop(state);
    match stop {
        Stop::Done => {}
        Stop::OnCpu(on) if on == caller.cpu.id => caller.cpu.ask(work::RESCHEDULE),
        Stop::OnCpu(on) => run::interrupt(on),
    }
    Ok(0)
}
