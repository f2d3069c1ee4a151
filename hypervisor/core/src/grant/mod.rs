//! The grants that one VM has given: who may use which of its frames, and where one is mapped.
//!
//! The table lies in hypervisor memory and holds the machine frame, which the owner's reference
//! keeps in place from create to the end of revoke: a mapper needs neither the owner's memory nor
//! any word that the owner could change in between. Page tables are changed by the caller, between a
//! `begin_` and a `finish_` call.
//!
//! Invariants: a grant is mapped at one place at most; its reference ends only after the mapping
//! did; a reference that was revoked names no later grant (its upper 24 bits count the uses of its
//! slot). Every use by another VM takes a [`Permit`], and absent, foreign and refused answer alike.
//!
//! Races: map and unmap hold the mapper's memory lock from begin to finish. Revoke takes no memory
//! lock for begin, then the mapper's to take the page out (only a grant leaf of `machine` at that
//! place: it may be gone already), then calls finish. A map that was under way in between learns of
//! it from [`GrantTable::finish_map`].

use alloc::boxed::Box;
use alloc::vec;

use protocol::layout::{PAGE_SIZE, limit};
use protocol::{Gfn, GrantRef, GuestVirt, SpaceId, Status, VmId};

use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::policy::{Operation, Permit};

/// Bits of a reference that number the slot; the others are its generation.
const SLOT_BITS: u32 = limit::GRANTS.trailing_zeros();
const _: () = assert!(limit::GRANTS.is_power_of_two());

/// Where a mapper put a granted frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The mapper's space.
    pub space: SpaceId,
    /// The page.
    pub address: GuestVirt,
}

/// To do: map `machine`, then [`GrantTable::finish_map`], whatever came of it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the grant stays busy until finish_map"]
pub struct Mapping {
    grant: GrantRef,
    /// The frame to map.
    pub machine: Mfn,
    /// What the page allows.
    pub access: Access,
}

/// To do: take the page at `place` out and flush it, then [`GrantTable::finish_unmap`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the grant stays mapped until finish_unmap"]
pub struct Unmapping {
    grant: GrantRef,
    /// The frame that is mapped there.
    pub machine: Mfn,
    /// Where.
    pub place: Place,
}

/// To do: take the page out of `peer` if there is one, give up the owner's reference on `frame`,
/// then [`GrantTable::finish_revoke`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the grant's slot stays taken until finish_revoke"]
pub struct Revoking {
    grant: GrantRef,
    /// The VM that could use it.
    pub peer: VmId,
    /// The owner's frame.
    pub frame: Gfn,
    /// Its machine frame.
    pub machine: Mfn,
    /// Where it is mapped, or about to be.
    pub place: Option<Place>,
}

/// What may be done to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// What came of an attempt to map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The page is in.
    Mapped,
    /// It was refused for a reason of the mapper's.
    Refused,
}

/// To do: copy between this range of the frame and the caller, under the table's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRange {
    /// The granted frame.
    pub machine: Mfn,
    /// First byte in it.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// How far a grant is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Unmapped,
    Mapping(Place),
    Mapped(Place),
}

/// Whether its owner still stands by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Given,
    Revoking,
}

/// One grant.
#[derive(Debug, Clone, Copy)]
struct Grant {
    peer: VmId,
    frame: Gfn,
    machine: Mfn,
    access: Access,
    mapped: Use,
    life: Life,
}

/// A place in the table.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    generation: u32,
    grant: Option<Grant>,
}

/// All grants that one VM has given.
#[derive(Debug)]
pub struct GrantTable {
    owner: VmId,
    slots: Box<[Slot]>,
}

impl GrantTable {
    /// The empty table of a VM.
    #[must_use]
    pub fn new(owner: VmId) -> GrantTable {
        GrantTable { owner, slots: vec![Slot::default(); index(u64::from(limit::GRANTS))].into_boxed_slice() }
    }

    /// Gives the permit's object the use of a frame. The caller has taken a reference on it, and
    /// gives that back if this refuses.
    ///
    /// # Errors
    /// `NotPermitted` for the owner itself or a permit for something else, `QuotaExceeded` when the
    /// table is full.
    pub fn create(&mut self, permit: Permit, frame: Gfn, machine: Mfn) -> Result<GrantRef, Status> {
        let access = access(&permit, Operation::GrantCreateRead, Operation::GrantCreateWrite);
        let access = access.ok_or(Status::NotPermitted)?;
        if permit.subject() != self.owner || permit.object() == self.owner {
            return Err(Status::NotPermitted);
        }
        let mut numbered = (0_u32..).zip(self.slots.iter_mut());
        let (number, slot) = numbered.find(|(_, slot)| slot.grant.is_none()).ok_or(Status::QuotaExceeded)?;
        slot.grant =
            Some(Grant { peer: permit.object(), frame, machine, access, mapped: Use::Unmapped, life: Life::Given });
        Ok(GrantRef(slot.generation.wrapping_shl(SLOT_BITS) | number))
    }

    /// Ends a grant: from now on nobody can begin to use it.
    ///
    /// # Errors
    /// `NotFound` for a grant that is not there or is being revoked.
    pub fn begin_revoke(&mut self, grant: GrantRef) -> Result<Revoking, Status> {
        let entry = self.find(grant).ok_or(Status::NotFound)?;
        if entry.life == Life::Revoking {
            return Err(Status::NotFound);
        }
        entry.life = Life::Revoking;
        Ok(Revoking {
            grant,
            peer: entry.peer,
            frame: entry.frame,
            machine: entry.machine,
            place: match entry.mapped {
                Use::Unmapped => None,
                Use::Mapping(place) | Use::Mapped(place) => Some(place),
            },
        })
    }

    /// Frees the slot of a grant that nobody can reach any more.
    pub fn finish_revoke(&mut self, revoking: Revoking) {
        let Revoking { grant, .. } = revoking;
        if self.find(grant).is_some()
            && let Some(slot) = self.slot(grant)
        {
            slot.grant = None;
            slot.generation = slot.generation.wrapping_add(1) & (u32::MAX >> SLOT_BITS);
        }
    }

    /// Any grant that is not being revoked, for the end of the owner.
    #[must_use]
    pub fn any_given(&self) -> Option<GrantRef> {
        let given = |slot: &Slot| slot.grant.is_some_and(|grant| grant.life == Life::Given);
        let (number, slot) = (0_u32..).zip(&self.slots).find(|(_, slot)| given(slot))?;
        Some(GrantRef(slot.generation.wrapping_shl(SLOT_BITS) | number))
    }

    /// Claims a grant for one place of the permit's subject.
    ///
    /// # Errors
    /// `NotPermitted` when the grant does not exist, is for somebody else, or does not allow this;
    /// `Busy` when it is mapped already.
    pub fn begin_map(&mut self, permit: Permit, grant: GrantRef, place: Place) -> Result<Mapping, Status> {
        let access = access(&permit, Operation::GrantMapRead, Operation::GrantMapWrite);
        let access = access.ok_or(Status::NotPermitted)?;
        let entry = self.usable(&permit, grant, access);
        let entry = entry.ok_or(Status::NotPermitted)?;
        if entry.mapped != Use::Unmapped {
            return Err(Status::Busy);
        }
        entry.mapped = Use::Mapping(place);
        Ok(Mapping { grant, machine: entry.machine, access })
    }

    /// Ends an attempt to map.
    ///
    /// # Errors
    /// `NotPermitted` when the grant was revoked meanwhile: the caller takes the page out again.
    pub fn finish_map(&mut self, mapping: Mapping, attempt: Attempt) -> Result<(), Status> {
        let Mapping { grant, .. } = mapping;
        let entry = self.find(grant).ok_or(Status::NotPermitted)?;
        let Use::Mapping(place) = entry.mapped else {
            return Err(Status::NotPermitted);
        };
        entry.mapped = match (attempt, entry.life) {
            (Attempt::Mapped, Life::Given) => Use::Mapped(place),
            (Attempt::Mapped, Life::Revoking) | (Attempt::Refused, _) => Use::Unmapped,
        };
        match entry.life {
            Life::Given => Ok(()),
            Life::Revoking => Err(Status::NotPermitted),
        }
    }

    /// Looks up where `mapper` has a grant mapped.
    ///
    /// # Errors
    /// `NotPermitted` when it has not.
    pub fn begin_unmap(&mut self, mapper: VmId, grant: GrantRef) -> Result<Unmapping, Status> {
        let entry = self.find(grant).ok_or(Status::NotPermitted)?;
        match entry.mapped {
            Use::Mapped(place) if entry.peer == mapper => Ok(Unmapping { grant, machine: entry.machine, place }),
            Use::Mapped(_) | Use::Mapping(_) | Use::Unmapped => Err(Status::NotPermitted),
        }
    }

    /// Notes that the page is out and no CPU can reach the frame through it.
    pub fn finish_unmap(&mut self, unmapping: Unmapping) {
        let Unmapping { grant, place, .. } = unmapping;
        if let Some(entry) = self.find(grant)
            && entry.mapped == Use::Mapped(place)
        {
            entry.mapped = Use::Unmapped;
        }
    }

    /// Any grant that `mapper` has mapped, for the mapper's end: to do as after `begin_unmap`.
    pub fn any_mapped_by(&mut self, mapper: VmId) -> Option<Unmapping> {
        let numbered = (0_u32..).zip(&self.slots);
        let found = numbered.into_iter().find(|(_, slot)| {
            slot.grant.is_some_and(|grant| grant.peer == mapper && matches!(grant.mapped, Use::Mapped(_)))
        });
        let (number, slot) = found?;
        let grant = GrantRef(slot.generation.wrapping_shl(SLOT_BITS) | number);
        self.begin_unmap(mapper, grant).ok()
    }

    /// Checks a copy between the permit's subject and a granted frame.
    ///
    /// # Errors
    /// `InvalidArgument` when the range leaves the frame, `NotPermitted` as for a map.
    pub fn copy(&mut self, permit: Permit, grant: GrantRef, offset: u64, length: u64) -> Result<CopyRange, Status> {
        let end = offset.checked_add(length).ok_or(Status::InvalidArgument)?;
        if end > PAGE_SIZE {
            return Err(Status::InvalidArgument);
        }
        let access = access(&permit, Operation::GrantCopyFrom, Operation::GrantCopyTo);
        let access = access.ok_or(Status::NotPermitted)?;
        let entry = self.usable(&permit, grant, access);
        let entry = entry.ok_or(Status::NotPermitted)?;
        Ok(CopyRange { machine: entry.machine, offset, length })
    }

    /// The grant, when the permit's subject may use it like this.
    fn usable(&mut self, permit: &Permit, grant: GrantRef, access: Access) -> Option<&mut Grant> {
        let is_ours = permit.object() == self.owner;
        self.find(grant).filter(|entry| {
            let allows = access == Access::Read || entry.access == Access::Write;
            is_ours && allows && entry.peer == permit.subject() && entry.life == Life::Given
        })
    }

    fn slot(&mut self, grant: GrantRef) -> Option<&mut Slot> {
        let number = grant.0 & limit::GRANTS.wrapping_sub(1);
        self.slots.get_mut(index(u64::from(number)))
    }

    fn find(&mut self, grant: GrantRef) -> Option<&mut Grant> {
        let slot = self.slot(grant)?;
        let generation = grant.0.wrapping_shr(SLOT_BITS);
        if slot.generation == generation { slot.grant.as_mut() } else { None }
    }
}

/// What a permit allows, if it is for one of these two operations.
fn access(permit: &Permit, read: Operation, write: Operation) -> Option<Access> {
    match permit.operation() {
        operation if operation == read => Some(Access::Read),
        operation if operation == write => Some(Access::Write),
        _ => None,
    }
}

#[cfg(test)]
#[expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "tests compute with small numbers of their own"
)]
mod tests;
