//! Handlers, frames, segment bases, debug registers, cpuid: what concerns only the calling vCPU.

use hv_arch::guest::{copy, segments};
use hv_core::abi::native::traps;
use hv_core::addr::convert::wide;
use protocol::call::{
    Cpuid, DebugRegisterGet, DebugRegisterSet, EntryPointsSet, Pair, Resume, SegmentBaseGet, SegmentBaseSet,
    TrapTableSet,
};
use protocol::flags::SegmentBase;
use protocol::layout::limit;
use protocol::shared::TrapEntry;
use protocol::{GuestVirt, Status};

use super::{Caller, Refusal};
use crate::hypervisor::cpu::work;
use crate::hypervisor::deliver;

/// Bytes between two elements of an array of `T` that starts at `base`.
pub(super) fn element<T>(base: GuestVirt, index: u64) -> Result<GuestVirt, Status> {
    index
        .checked_mul(wide(size_of::<T>()))
        .and_then(|offset| base.0.checked_add(offset))
        .map(GuestVirt)
        .ok_or(Status::BadAddress)
}

pub(super) fn trap_table_set(caller: &mut Caller<'_>, call: TrapTableSet) -> Result<(), Refusal> {
    if call.count > limit::TRAPS {
        return Err(Status::TooLong.into());
    }
    let mut checked = [None; 32];
    for (index, slot) in (0..call.count).zip(checked.iter_mut()) {
        let entry: TrapEntry = copy::read_value(element::<TrapEntry>(call.table, index)?)?;
        *slot = Some(traps::check_entry(&entry)?);
    }
    for handler in checked.iter().flatten() {
        caller.vcpu.set_handler(handler.index, handler.address);
    }
    Ok(())
}

pub(super) fn entry_points_set(caller: &mut Caller<'_>, call: EntryPointsSet) -> Result<(), Refusal> {
    let syscall = traps::check_handler(call.syscall)?;
    let event = traps::check_handler(call.event)?;
    caller.vcpu.set_handler(traps::SYSCALL, syscall);
    caller.vcpu.set_handler(traps::EVENT, event);
    caller.cpu.ask(work::EVENTS);
    Ok(())
}

#[inline(always)]
pub(super) fn resume(caller: &mut Caller<'_>, _call: Resume) -> Result<(), Refusal> {
    caller.alone()?;
    deliver::resume(caller.vcpu, caller.registers)?;
    if caller.vcpu.page().wants_upcall() {
        caller.cpu.ask(work::EVENTS);
    }
    Err(Refusal::Taken)
}

pub(super) fn segment_base_set(caller: &mut Caller<'_>, call: SegmentBaseSet) -> Result<(), Refusal> {
    // Sign extension from bit 47: with four-level paging nothing else is canonical.
    let sign = call.address >> 47;
    if sign != 0 && sign != 0x1_ffff {
        return Err(Status::InvalidArgument.into());
    }
    match call.base {
        SegmentBase::Fs => segments::set_fs_base(call.address),
        SegmentBase::KernelGs => segments::set_guest_gs_base(call.address),
        SegmentBase::UserGs => caller.vcpu.other_gs.set(call.address),
    }
    Ok(())
}

pub(super) fn segment_base_get(caller: &mut Caller<'_>, call: SegmentBaseGet) -> Result<Pair, Refusal> {
    let base = match call.base {
        SegmentBase::Fs => segments::fs_base(),
        SegmentBase::KernelGs => segments::guest_gs_base(),
        SegmentBase::UserGs => caller.vcpu.other_gs.get(),
    };
    Ok(Pair(0, base))
}

/// Whether the VM has debug registers.
fn may_debug(caller: &Caller<'_>) -> Result<(), Status> {
    if caller.vm().has_debug_registers { Ok(()) } else { Err(Status::NotPermitted) }
}

pub(super) fn debug_register_set(caller: &mut Caller<'_>, call: DebugRegisterSet) -> Result<(), Refusal> {
    may_debug(caller)?;
    let mut registers = *caller.vcpu.debug.lock();
    registers.set(call.index, call.value)?;
    caller.vcpu.set_debug(registers);
    caller.vcpu.reload_debug();
    Ok(())
}

pub(super) fn debug_register_get(caller: &mut Caller<'_>, call: DebugRegisterGet) -> Result<Pair, Refusal> {
    may_debug(caller)?;
    let value = caller.vcpu.debug.lock().get(call.index)?;
    Ok(Pair(0, value))
}

pub(super) fn cpuid(caller: &mut Caller<'_>, call: Cpuid) -> Result<(), Refusal> {
    let answer = caller.vm().processor.answer(call.leaf, call.subleaf);
    copy::write_value(call.result, &answer)?;
    Ok(())
}
