//! Spaces, mappings and frames of the calling VM.

use hv_arch::guest::copy;
use hv_core::addr::convert::index;
use hv_core::space::Covered;
use protocol::call::{
    FrameReclaim, FrameRelease, Map, MemoryBatch, Pair, Protect, SpaceCreate, SpaceDestroy, SpaceSwitch, Translate,
    Unmap,
};
use protocol::layout::limit;
use protocol::shared::MemoryBatchEntry;
use protocol::{SpaceId, Status};

use super::processor::element;
use super::{Caller, Refusal};
use crate::hypervisor::machine::{MemoryGuard, Vm, machine};

/// Entries of the longest batch.
const ENTRIES: usize = 64;
const _: () = assert!(limit::BATCH == 64);

/// Settles what a range operation owes and turns what it covered into the call's result.
#[inline(always)]
fn settle(vm: &Vm, mut memory: MemoryGuard<'_>, covered: Covered) -> Result<u64, Refusal> {
    if !covered.flush.is_nothing() {
        memory.settle(machine().memory(), covered.flush, |flush| vm.flush(flush));
    }
    Ok(covered.pages)
}

pub(super) fn space_create(caller: &mut Caller<'_>, _call: SpaceCreate) -> Result<SpaceId, Refusal> {
    Ok(caller.memory()?.space_create(machine().memory())?)
}

pub(super) fn space_destroy(caller: &mut Caller<'_>, call: SpaceDestroy) -> Result<(), Refusal> {
    caller.alone()?;
    let mut memory = caller.memory()?;
    Ok(memory.space_destroy(machine().memory(), call.space)?)
}

pub(super) fn space_switch(caller: &mut Caller<'_>, call: SpaceSwitch) -> Result<(), Refusal> {
    let mut memory = caller.memory()?;
    let roots = memory.enter(call.space)?;
    let left = caller.vcpu.space();
    caller.vcpu.set_space(call.space, roots);
    caller.vcpu.load_root();
    memory.leave(left);
    Ok(())
}

pub(super) fn map(caller: &mut Caller<'_>, call: Map) -> Result<u64, Refusal> {
    let vm = caller.vm();
    let mut memory = caller.memory()?;
    let covered = memory.map(machine().memory(), call)?;
    settle(vm, memory, covered)
}

pub(super) fn unmap(caller: &mut Caller<'_>, call: Unmap) -> Result<u64, Refusal> {
    let vm = caller.vm();
    let mut memory = caller.memory()?;
    let covered = memory.unmap(machine().memory(), call)?;
    settle(vm, memory, covered)
}

pub(super) fn protect(caller: &mut Caller<'_>, call: Protect) -> Result<u64, Refusal> {
    let vm = caller.vm();
    let mut memory = caller.memory()?;
    let covered = memory.protect(machine().memory(), call)?;
    settle(vm, memory, covered)
}

pub(super) fn memory_batch(caller: &mut Caller<'_>, call: MemoryBatch) -> Result<u64, Refusal> {
    caller.alone()?;
    if call.count > limit::BATCH {
        return Err(Status::TooLong.into());
    }
    let mut entries = [MemoryBatchEntry::default(); ENTRIES];
    let mut read = 0;
    for (slot, number) in entries.iter_mut().zip(0..call.count) {
        match copy::read_value(element::<MemoryBatchEntry>(call.entries, number)?) {
            Ok(entry) => *slot = entry,
            // What can be read is done first; the next call meets the bad entry as its first.
            Err(_) if number > 0 => break,
            Err(status) => return Err(status.into()),
        }
        read = index(number).saturating_add(1);
    }
    let vm = caller.vm();
    let mut memory = caller.memory()?;
    let (owed, result) = memory.batch(machine().memory(), entries.get(..read).unwrap_or(&[]));
    if !owed.is_nothing() {
        memory.settle(machine().memory(), owed, |flush| vm.flush(flush));
    }
    Ok(result?)
}

pub(super) fn translate(caller: &mut Caller<'_>, call: Translate) -> Result<Pair, Refusal> {
    let memory = caller.memory()?;
    Ok(memory.translate(machine().memory(), call.space, call.address)?)
}

pub(super) fn frame_release(caller: &mut Caller<'_>, call: FrameRelease) -> Result<u64, Refusal> {
    let mut memory = caller.memory()?;
    Ok(memory.release(machine().memory(), call.frame, call.count)?)
}

pub(super) fn frame_reclaim(caller: &mut Caller<'_>, call: FrameReclaim) -> Result<u64, Refusal> {
    let mut memory = caller.memory()?;
    Ok(memory.reclaim(machine().memory(), call.frame, call.count)?)
}
