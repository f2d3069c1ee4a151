//! Frames shared between VMs. Locks: memory of the lower VM, memory of the higher, grants.

use hv_arch::guest::copy;
use hv_core::addr::Mfn;
use hv_core::grant::{Attempt, Place};
use hv_core::policy::{Operation, Permit};
use hv_core::space::Memory;
use protocol::audit::AuditKind;
use protocol::call::{GrantCopy, GrantCreate, GrantMap, GrantRevoke, GrantUnmap};
use protocol::flags::{CopyDirection, GrantFlags, MapFlags};
use protocol::{GrantRef, Status, VmId};

use super::{Caller, Refusal};
use crate::hypervisor::audit as log;
use crate::hypervisor::machine::{Vm, machine};
use crate::hypervisor::teardown;

/// Asks the policy about a peer. One that does not exist answers like one that is kept apart.
fn permit(caller: &Caller<'_>, operation: Operation, peer: VmId) -> Result<(Permit, &'static Vm), Refusal> {
    let permit = machine().image.monitor().decide(caller.vm().id, operation, peer)?;
    let peer = machine().vm(peer).ok_or(Status::NotPermitted)?;
    if peer.partition != caller.vm().partition {
        // To end a grant waits for whoever maps it: the owner would learn of it in its own time.
        return Err(Status::NotPermitted.into());
    }
    Ok((permit, peer))
}

pub(super) fn grant_create(caller: &mut Caller<'_>, call: GrantCreate) -> Result<GrantRef, Refusal> {
    let operation =
        if call.flags.contains(GrantFlags::WRITE) { Operation::GrantCreateWrite } else { Operation::GrantCreateRead };
    let (permit, peer) = permit(caller, operation, call.peer)?;
    let vm = caller.vm();
    let mut memory = caller.memory()?;
    let frame = memory.pin(machine().memory(), call.frame)?;
    let created = vm.grants.lock().create(permit, frame);
    if created.is_err() {
        memory.unpin(machine().memory(), frame);
    }
    let grant = created?;
    let writes = u64::from(call.flags.contains(GrantFlags::WRITE));
    log::across_labels(vm, AuditKind::GrantAcrossLabels, peer, [u64::from(grant.0), writes]);
    Ok(grant)
}

pub(super) fn grant_revoke(caller: &mut Caller<'_>, call: GrantRevoke) -> Result<(), Refusal> {
    Ok(teardown::revoke(caller.vm(), call.grant)?)
}

pub(super) fn grant_map(caller: &mut Caller<'_>, call: GrantMap) -> Result<(), Refusal> {
    if call.flags.intersects(MapFlags::LARGE | MapFlags::EXECUTE) {
        return Err(Status::InvalidArgument.into());
    }
    let writes = call.flags.contains(MapFlags::WRITE);
    let operation = if writes { Operation::GrantMapWrite } else { Operation::GrantMapRead };
    let (permit, owner) = permit(caller, operation, call.owner)?;
    let vm = caller.vm();
    let mut memory = caller.memory()?;
    let place = Place { space: call.space, address: call.address };
    let mapping = owner.grants.lock().begin_map(permit, call.grant, place)?;
    let shown = mapping.shown();
    let installed = memory.install_grant(machine().memory(), call.space, call.address, shown, call.flags);
    let attempt = if installed.is_ok() { Attempt::Mapped } else { Attempt::Refused };
    let finished = owner.grants.lock().finish_map(mapping, attempt);
    installed?;
    if let Err(status) = finished {
        // Revoked meanwhile: the page goes out again before anybody could use it.
        take_out(vm, &mut memory, Some(place), shown);
        return Err(status.into());
    }
    log::across_labels(vm, AuditKind::MapAcrossLabels, owner, [u64::from(call.grant.0), writes.into()]);
    Ok(())
}

/// Takes a granted page out of a VM's space, if it is in, and waits until no CPU can reach it.
pub(in crate::hypervisor) fn take_out(vm: &Vm, memory: &mut Memory, place: Option<Place>, shown: (Mfn, u8)) {
    if let Some(place) = place
        && let Ok(owed) = memory.remove_grant(machine().memory(), place.space, place.address, shown)
    {
        memory.settle(machine().memory(), owed, |flush| vm.flush(flush));
    }
}

pub(super) fn grant_unmap(caller: &mut Caller<'_>, call: GrantUnmap) -> Result<(), Refusal> {
    let vm = caller.vm();
    let owner = machine().vm(call.owner).filter(|owner| owner.partition == vm.partition);
    let owner = owner.ok_or(Status::NotPermitted)?;
    let mut memory = caller.memory()?;
    let unmapping = owner.grants.lock().begin_unmap(vm.id, call.grant)?;
    take_out(vm, &mut memory, unmapping.place, unmapping.shown());
    owner.grants.lock().finish_unmap(unmapping);
    Ok(())
}

pub(super) fn grant_copy(caller: &mut Caller<'_>, call: GrantCopy) -> Result<(), Refusal> {
    let operation = match call.direction {
        CopyDirection::FromGrant => Operation::GrantCopyFrom,
        CopyDirection::ToGrant => Operation::GrantCopyTo,
    };
    let (permit, owner) = permit(caller, operation, call.owner)?;
    // The lock stays while bytes move: a revoke waits for it.
    let mut grants = owner.grants.lock();
    let frame = grants.copy(permit, call.grant, call.offset, call.length)?;
    match call.direction {
        CopyDirection::FromGrant => copy::from_frame(frame, call.offset, call.buffer, call.length)?,
        CopyDirection::ToGrant => copy::to_frame(call.buffer, frame, call.offset, call.length)?,
    }
    drop(grants);
    Ok(())
}
