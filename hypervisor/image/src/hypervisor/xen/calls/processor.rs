//! Handlers, segments, descriptor tables, debug registers, floating point.

use hv_arch::guest::segments::{self, Selectors};
use hv_arch::mmu::window;
use hv_core::abi::xen::context;
use hv_core::abi::xen::context::handlers::Callbacks;
use hv_core::addr::Mfn;
use hv_core::vm::xen::XenMemory;
use protocol::xen::structure::{CallbackRegister, TrapInfo};
use protocol::xen::{Errno, callback, segment};

use super::super::local;
use super::super::memory::{finished, tables};
use super::super::{State, TABLE_FRAMES, deliver};
use super::{Arguments, Caller, Refusal, Reply, element, read};
use crate::hypervisor::machine::{Vm, machine};

/// Entries of a table that are taken before events are looked at.
const ENTRIES: u64 = 256;

#[inline(never)]
pub(super) fn iret(caller: &mut Caller<'_>) -> Reply {
    let Caller { cpu, vcpu, xen, .. } = *caller;
    deliver::Taken { cpu, vcpu, xen, registers: caller.registers }.iret();
    Err(Refusal::Taken)
}

pub(super) fn stack_switch(caller: &Caller<'_>, stack: u64) -> Reply {
    caller.state().own.kernel_stack = stack;
    Ok(0)
}

#[inline(never)]
pub(super) fn set_trap_table(caller: &Caller<'_>, arguments: &mut Arguments) -> Reply {
    let [list, ..] = *arguments;
    if list == 0 {
        caller.state().traps.clear();
        return Ok(0);
    }
    for number in 0..ENTRIES {
        let entry: TrapInfo = read(element::<TrapInfo>(list, number)?)?;
        if entry.address == 0 {
            return Ok(0);
        }
        caller.state().traps.set(&entry)?;
    }
    arguments[0] = element::<TrapInfo>(list, ENTRIES)?;
    Err(Refusal::Restart)
}

#[inline(never)]
pub(super) fn set_callbacks(caller: &Caller<'_>, [event, failsafe, syscall]: [u64; 3]) -> Reply {
    caller.state().own.callbacks.set(event, failsafe, syscall);
    Ok(0)
}

#[inline(never)]
pub(super) fn callback_op(caller: &Caller<'_>, command: u64, argument: u64) -> Reply {
    match command {
        callback::REGISTER => {
            let request: CallbackRegister = read(argument)?;
            let State { traps, own, .. } = &mut *caller.state();
            own.callbacks.register(traps, &request)?;
        }
        callback::UNREGISTER => {
            let kind: u16 = read(argument)?;
            Callbacks::unregister(&mut caller.state().traps, kind)?;
        }
        _ => return caller.unknown(protocol::xen::call::CALLBACK_OP),
    }
    Ok(0)
}

#[inline(never)]
pub(super) fn set_segment_base(caller: &Caller<'_>, which: u64, base: u64) -> Reply {
    if which == segment::GS_USER_SELECTOR {
        let selector = u16::try_from(base & 0xffff).unwrap_or(0);
        local::prepare(caller, selector)?;
        load_user_gs(caller, selector);
        return Ok(0);
    }
    if base != segments::canonical(base) {
        return Err(Errno::Invalid.into());
    }
    match which {
        segment::FS => segments::set_fs_base(base),
        segment::GS_KERNEL => segments::set_guest_gs_base(base),
        segment::GS_USER => caller.vcpu.other_gs.set(base),
        _ => return Err(Errno::Invalid.into()),
    }
    Ok(0)
}

/// Loads the selector that user mode has in GS, null if it cannot be loaded, and notes the base that comes
/// with it.
fn load_user_gs(caller: &Caller<'_>, selector: u16) {
    let (fs_base, own_base) = (segments::fs_base(), segments::guest_gs_base());
    let [ds, es, fs, _] = Selectors::read().all();
    let wanted = if selector > 3 { selector | 3 } else { selector };
    if !Selectors::of([ds, es, fs, wanted]).load_checked() {
        let _null = Selectors::of([ds, es, fs, 0]).load_checked();
    }
    caller.vcpu.other_gs.set(segments::guest_gs_base());
    segments::set_guest_gs_base(own_base);
    segments::set_fs_base(fs_base);
}

#[inline(never)]
pub(super) fn set_gdt(caller: &Caller<'_>, list: u64, entries: u64) -> Reply {
    let count = context::table_frames(entries & 0xffff_ffff)?;
    let mut frames = [Mfn(0); TABLE_FRAMES];
    for (number, frame) in (0..).zip(frames.iter_mut().take(count)) {
        *frame = Mfn(read(element::<u64>(list, number)?)?);
    }
    let new = frames.get(..count).unwrap_or(&[]);
    let vm = caller.vm();
    let mut memory = caller.domain.memory()?;
    finished(Ok(memory.paging.drain(tables(vm))))?;
    take_table(&mut memory, vm, new)?;
    let own = &mut caller.state().own;
    let (old, old_count) = (own.table, own.table_frames);
    own.set_table(new);
    window::show_table(machine().root, caller.vcpu.index, own.table());
    for frame in old.iter().take(old_count) {
        memory.paging.drop_descriptors(tables(vm), *frame);
    }
    Ok(0)
}

/// Takes the frames of a descriptor table.
///
/// # Errors
/// `Invalid` when one cannot be had; then none was taken.
pub(super) fn take_table(memory: &mut XenMemory, vm: &'static Vm, frames: &[Mfn]) -> Result<(), Errno> {
    for (taken, frame) in frames.iter().enumerate() {
        if let Err(errno) = memory.paging.take_descriptors(tables(vm), *frame) {
            for frame in frames.iter().take(taken) {
                memory.paging.drop_descriptors(tables(vm), *frame);
            }
            return Err(errno);
        }
    }
    Ok(())
}

pub(super) fn fpu_taskswitch(caller: &Caller<'_>, set: u64) -> Reply {
    let is_set = set & 0xffff_ffff != 0;
    caller.state().own.controlled.task_switched = is_set;
    if is_set {
        hv_arch::cpu::xen::trap_floating_point();
    } else {
        hv_arch::cpu::xen::allow_floating_point();
    }
    Ok(0)
}

#[inline(never)]
pub(super) fn set_debugreg(caller: &Caller<'_>, register: u64, value: u64) -> Reply {
    let controlled = caller.state().own.controlled;
    let mut debug = *caller.vcpu.debug.lock();
    controlled.set_debug(&mut debug, register & 0xffff_ffff, value)?;
    caller.vcpu.set_debug(debug);
    caller.vcpu.reload_debug();
    Ok(0)
}

#[inline(never)]
pub(super) fn get_debugreg(caller: &Caller<'_>, register: u64) -> Reply {
    let controlled = caller.state().own.controlled;
    Ok(controlled.get_debug(&caller.vcpu.debug.lock(), register & 0xffff_ffff)?)
}
