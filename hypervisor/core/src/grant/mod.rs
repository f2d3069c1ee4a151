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
//! lock for begin, then the mapper's to take the page out (only what [`Change::shown`] says at that
//! place: it may be gone already, and a page of another grant be there), then calls finish. A map that
//! was under way in between learns of it from [`GrantTable::finish_map`].

use alloc::boxed::Box;
use alloc::vec;

use protocol::layout::{PAGE_SIZE, limit};
use protocol::{GrantRef, GuestVirt, SpaceId, Status, VmId};

use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::policy::{Operation, Permit};

/// Bits of a reference that number the slot; the others are its generation.
const SLOT_BITS: u32 = limit::GRANTS.trailing_zeros();
// A page's tag numbers the slot.
const _: () = assert!(limit::GRANTS.is_power_of_two() && SLOT_BITS <= u8::BITS);

/// Where a mapper put a granted frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The mapper's space.
    pub space: SpaceId,
    /// The page.
    pub address: GuestVirt,
}

/// To do: change the page tables as the `begin_` call that gave this says, then the `finish_` call,
/// whatever came of it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the grant stays as it is until the change is finished"]
pub struct Change {
    grant: GrantRef,
    /// The VM that may use the frame.
    pub peer: VmId,
    /// The frame.
    pub machine: Mfn,
    /// Where it is mapped, or about to be.
    pub place: Option<Place>,
}

impl Change {
    /// What a page of the grant shows: the frame, and the grant's number as the page's tag.
    #[must_use]
    pub const fn shown(&self) -> (Mfn, u8) {
        let [slot, ..] = self.grant.0.to_le_bytes();
        (self.machine, slot)
    }
}

/// What came of an attempt to map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The page is in.
    Mapped,
    /// It was refused for a reason of the mapper's.
    Refused,
}

/// One grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Grant {
    peer: VmId,
    machine: Mfn,
    is_writable: bool,
    /// Where it is mapped, or about to be.
    place: Option<Place>,
    /// The page is in.
    is_mapped: bool,
    /// Its owner no longer stands by it.
    is_revoked: bool,
}

/// A place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Slot {
    generation: u32,
    grant: Option<Grant>,
}

impl Slot {
    const fn reference(&self, number: u32) -> GrantRef {
        GrantRef(self.generation.wrapping_shl(SLOT_BITS) | number)
    }
}

impl Grant {
    const fn change(&self, grant: GrantRef) -> Change {
        Change { grant, peer: self.peer, machine: self.machine, place: self.place }
    }
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
    pub fn create(&mut self, permit: Permit, machine: Mfn) -> Result<GrantRef, Status> {
        let is_writable = permit.operation() == Operation::GrantCreateWrite;
        let is_create = is_writable || permit.operation() == Operation::GrantCreateRead;
        if !is_create || permit.subject() != self.owner || permit.object() == self.owner {
            return Err(Status::NotPermitted);
        }
        let mut numbered = (0_u32..).zip(&mut self.slots);
        let (number, slot) = numbered.find(|(_, slot)| slot.grant.is_none()).ok_or(Status::QuotaExceeded)?;
        let peer = permit.object();
        slot.grant = Some(Grant { peer, machine, is_writable, place: None, is_mapped: false, is_revoked: false });
        Ok(slot.reference(number))
    }

    /// Ends a grant: from now on nobody can begin to use it. The caller takes the page out of the peer
    /// if there is one, and gives up the owner's reference on the frame.
    ///
    /// # Errors
    /// `NotFound` for a grant that is not there or is being revoked.
    pub fn begin_revoke(&mut self, grant: GrantRef) -> Result<Change, Status> {
        let entry = self.find(grant).filter(|entry| !entry.is_revoked).ok_or(Status::NotFound)?;
        entry.is_revoked = true;
        Ok(entry.change(grant))
    }

    /// Frees the slot of a grant that nobody can reach any more.
    pub fn finish_revoke(&mut self, change: Change) {
        let Change { grant, .. } = change;
        if let Some(slot) = self.slot(grant) {
            slot.grant = None;
            slot.generation = slot.generation.wrapping_add(1) & (u32::MAX >> SLOT_BITS);
        }
    }

    /// Any grant that is not being revoked, for the end of the owner.
    #[must_use]
    pub fn any_given(&self) -> Option<GrantRef> {
        self.any(|grant| !grant.is_revoked)
    }

    /// Claims a grant for one place of the permit's subject, where the caller maps it.
    ///
    /// # Errors
    /// `NotPermitted` when the grant does not exist, is for somebody else, or does not allow this;
    /// `Busy` when it is mapped already.
    pub fn begin_map(&mut self, permit: Permit, grant: GrantRef, place: Place) -> Result<Change, Status> {
        let entry = self.usable(&permit, grant, Operation::GrantMapRead, Operation::GrantMapWrite);
        let entry = entry.ok_or(Status::NotPermitted)?;
        if entry.place.is_some() {
            return Err(Status::Busy);
        }
        entry.place = Some(place);
        Ok(entry.change(grant))
    }

    /// Ends an attempt to map.
    ///
    /// # Errors
    /// `NotPermitted` when the grant was revoked meanwhile: the caller takes the page out again.
    pub fn finish_map(&mut self, change: Change, attempt: Attempt) -> Result<(), Status> {
        let Change { grant, .. } = change;
        let entry = self.find(grant).ok_or(Status::NotPermitted)?;
        entry.is_mapped = attempt == Attempt::Mapped && !entry.is_revoked;
        if !entry.is_mapped {
            entry.place = None;
        }
        if entry.is_revoked { Err(Status::NotPermitted) } else { Ok(()) }
    }

    /// Looks up where `mapper` has a grant mapped. The caller takes the page out and flushes it.
    ///
    /// # Errors
    /// `NotPermitted` when it has not.
    pub fn begin_unmap(&mut self, mapper: VmId, grant: GrantRef) -> Result<Change, Status> {
        let entry = self.find(grant).filter(|entry| entry.is_mapped && entry.peer == mapper);
        Ok(entry.ok_or(Status::NotPermitted)?.change(grant))
    }

    /// Notes that the page is out and no CPU can reach the frame through it.
    pub fn finish_unmap(&mut self, change: Change) {
        let Change { grant, place, .. } = change;
        if let Some(entry) = self.find(grant).filter(|entry| entry.is_mapped && entry.place == place) {
            entry.place = None;
            entry.is_mapped = false;
        }
    }

    /// Any grant that `mapper` has mapped, for the mapper's end: to do as after `begin_unmap`.
    pub fn any_mapped_by(&mut self, mapper: VmId) -> Option<Change> {
        let grant = self.any(|grant| grant.is_mapped && grant.peer == mapper)?;
        self.begin_unmap(mapper, grant).ok()
    }

    /// Checks a copy between the permit's subject and a range of a granted frame. The caller copies
    /// under the table's lock.
    ///
    /// # Errors
    /// `InvalidArgument` when the range leaves the frame, `NotPermitted` as for a map.
    pub fn copy(&mut self, permit: Permit, grant: GrantRef, offset: u64, length: u64) -> Result<Mfn, Status> {
        if offset.checked_add(length).is_none_or(|end| end > PAGE_SIZE) {
            return Err(Status::InvalidArgument);
        }
        let entry = self.usable(&permit, grant, Operation::GrantCopyFrom, Operation::GrantCopyTo);
        Ok(entry.ok_or(Status::NotPermitted)?.machine)
    }

    /// The grant, when the permit is for one of these two operations and its subject may do that.
    fn usable(&mut self, permit: &Permit, grant: GrantRef, read: Operation, write: Operation) -> Option<&mut Grant> {
        let is_ours = permit.object() == self.owner;
        self.find(grant).filter(|entry| {
            let allows = permit.operation() == read || permit.operation() == write && entry.is_writable;
            is_ours && allows && entry.peer == permit.subject() && !entry.is_revoked
        })
    }

    /// Every grant: its frame, whether it is mapped, whether it is being revoked.
    #[cfg(feature = "recount")]
    pub fn given(&self) -> impl Iterator<Item = (Mfn, bool, bool)> {
        let grants = self.slots.iter().filter_map(|slot| slot.grant.as_ref());
        grants.map(|grant| (grant.machine, grant.is_mapped, grant.is_revoked))
    }

    fn any(&self, is_wanted: impl Fn(&Grant) -> bool) -> Option<GrantRef> {
        let mut numbered = (0_u32..).zip(&self.slots);
        let found = numbered.find(|(_, slot)| slot.grant.as_ref().is_some_and(&is_wanted));
        found.map(|(number, slot)| slot.reference(number))
    }

    /// The slot of a grant that is there.
    fn slot(&mut self, grant: GrantRef) -> Option<&mut Slot> {
        let number = grant.0 & limit::GRANTS.wrapping_sub(1);
        let slot = self.slots.get_mut(index(u64::from(number)));
        slot.filter(|slot| slot.grant.is_some() && slot.reference(number) == grant)
    }

    fn find(&mut self, grant: GrantRef) -> Option<&mut Grant> {
        self.slot(grant)?.grant.as_mut()
    }
}

#[cfg(test)]
#[expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "tests compute with small numbers of their own"
)]
mod tests;
