//! A VM's grant table, version 1, and every use that is made of it.
//!
//! The table's entries lie in frames that the guest writes; uses are kept here. A use goes in halves, all
//! under one lock: `begin_` checks what was asked, the caller reads the entry once and puts what
//! [`Begun::claim`] says into it with one compare-exchange of the whole entry, takes its reference on the
//! frame or changes the page table, and ends with `complete` or `abandon`. An entry that keeps changing
//! is given up after a few tries, as `GENERAL_ERROR`.
//!
//! Invariants: an entry's bits READING and WRITING are set while a use of that kind is there, unless the
//! guest clears them, which harms only itself: a use holds its own reference on its own frame. A handle
//! names no later use: its upper bits count the uses of its slot. Only the VM itself and the
//! hypervisor's services use its grants; [`GrantTable::granter`] is where others would be let in.

use alloc::boxed::Box;
use alloc::vec;

use protocol::layout::PAGE_SIZE;
use protocol::xen::structure::{GrantCopy, GrantCopySide, GrantMap, GrantUnmap};
use protocol::xen::{Errno, grant};
use protocol::{GuestVirt, VmId};

use super::Domain;
use crate::addr::convert::index;
use crate::addr::{Mfn, Phys};

/// Frames of a VM's table.
pub const FRAMES: usize = 8;
/// Uses that a VM can have at a time.
const USES: u32 = 256;
/// Bits of a handle that number the slot; the others but the highest are its generation, so that no
/// handle is the number that guests take for none.
const SLOT_BITS: u32 = USES.trailing_zeros();
const _: () = assert!(USES.is_power_of_two());
/// Bits of a page-table entry: present, accessed, dirty.
const LEAF: u64 = 1 | 1 << 5 | 1 << 6;
/// The bit that allows writing.
const WRITABLE: u64 = 1 << 1;
/// The bit that user mode needs.
const USER: u64 = 1 << 2;
/// The bits that are the guest's own.
const AVAILABLE: u64 = 7 << AVAILABLE_SHIFT;
const AVAILABLE_SHIFT: u32 = 9;
/// Where the frame is in a page-table entry.
const LEAF_FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Where the domain and the frame are in a grant entry.
const ENTRY_DOMAIN_SHIFT: u32 = 16;
const ENTRY_FRAME_SHIFT: u32 = 32;

/// What a use does with the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It reads.
    Read,
    /// It reads and writes.
    Write,
}

/// Where a frame is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The page at this address of the caller.
    Page(GuestVirt),
    /// The page-table entry at this machine address.
    Entry(Phys),
    /// In the hypervisor.
    Held,
}

/// Where an entry of the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPlace {
    /// The frame of the table.
    pub frame: Mfn,
    /// The 64-bit word of it.
    pub index: usize,
}

/// What to put into an entry: one compare-exchange of its 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// What was read.
    pub expected: u64,
    /// What it becomes.
    pub desired: u64,
    /// The frame that it grants. Whose it is shows when the reference is taken.
    pub frame: Mfn,
}

/// To do: clear these bits of an entry in one atomic step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the guest could never take its grant back"]
pub struct Clear {
    /// Which entry; nothing when it lies in no frame of the table any more.
    pub entry: Option<EntryPlace>,
    /// Which bits; none when other uses need them.
    pub bits: u64,
}

/// A use of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    reference: u32,
    /// Whom the entry must name.
    user: Domain,
    access: Access,
    place: Place,
    /// Bits of the page-table entry beside the frame.
    leaf: u64,
    /// The frame, as soon as the use is complete.
    frame: Option<Mfn>,
}

/// A use that has begun.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the slot stays taken until the use is completed or abandoned"]
pub struct Begun {
    handle: u32,
    wanted: Use,
    /// The entry.
    pub entry: EntryPlace,
}

impl Begun {
    /// Decides from the entry, read once, whether this use may be made.
    ///
    /// # Errors
    /// `GENERAL_ERROR` for an entry that grants nothing, or not to this user, or not to write.
    pub fn claim(&self, entry: u64) -> Result<Claim, i16> {
        let needed = u64::from(grant::PERMIT_ACCESS) | (u64::from(self.wanted.user.number()) << ENTRY_DOMAIN_SHIFT);
        let looked_at = u64::from(grant::KIND_MASK) | (u64::from(u16::MAX) << ENTRY_DOMAIN_SHIFT);
        let is_refused = self.wanted.access == Access::Write && entry & u64::from(grant::READ_ONLY) != 0;
        if entry & looked_at != needed || is_refused {
            return Err(grant::GENERAL_ERROR);
        }
        let frame = Mfn(entry >> ENTRY_FRAME_SHIFT);
        Ok(Claim { expected: entry, desired: entry | marks(self.wanted.access), frame })
    }

    /// Where the frame goes.
    #[must_use]
    pub const fn place(&self) -> Place {
        self.wanted.place
    }

    /// What the frame is used for.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.wanted.access
    }

    /// The page-table entry to store, as a guest would write it.
    #[must_use]
    pub const fn leaf(&self, frame: Mfn) -> u64 {
        frame.start().0 | self.wanted.leaf
    }
}

/// A use that is about to end.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the use goes on until it is finished"]
pub struct Ending {
    handle: u32,
    /// Where the frame is.
    pub place: Place,
    /// The frame.
    pub frame: Mfn,
    /// What it is used for.
    pub access: Access,
}

impl Ending {
    /// Whether the page-table entry is still the one of this use: else `GENERAL_ERROR`, and the use goes on.
    #[must_use]
    pub fn is_in(&self, leaf: u64) -> bool {
        let may_write = leaf & WRITABLE != 0;
        leaf & 1 != 0 && leaf & LEAF_FRAME == self.frame.start().0 && may_write == (self.access == Access::Write)
    }
}

/// One side of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A granted frame: to be held while the copy lasts.
    Grant(u32),
    /// A frame of the VM itself.
    Own(Mfn),
}

/// A copy, checked: both ranges lie within their frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying {
    /// From where, and at which byte.
    pub source: (Side, usize),
    /// To where, and at which byte.
    pub target: (Side, usize),
    /// How many bytes.
    pub length: usize,
}

/// A slot of uses.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    generation: u32,
    used: Option<Use>,
}

impl Slot {
    const fn handle(&self, number: u32) -> u32 {
        self.generation.wrapping_shl(SLOT_BITS) & (u32::MAX >> 1) | number
    }
}

/// The grant table of one VM and its uses.
#[derive(Debug)]
pub struct GrantTable {
    own: Domain,
    frames: Box<[Mfn]>,
    /// Frames that the guest has asked for.
    shown: usize,
    slots: Box<[Slot]>,
}

impl GrantTable {
    /// The table of a VM in these frames, of which it sees the first at once.
    #[must_use]
    pub fn new(vm: VmId, frames: &[Mfn]) -> GrantTable {
        let slots = vec![Slot::default(); index(u64::from(USES))].into_boxed_slice();
        GrantTable { own: Domain::of(vm), frames: frames.into(), shown: frames.len().min(1), slots }
    }

    /// Forgets all uses, for a VM that starts anew with as many frames as before.
    pub fn reset(&mut self, frames: &[Mfn]) {
        for (slot, frame) in self.frames.iter_mut().zip(frames) {
            *slot = *frame;
        }
        self.shown = self.frames.len().min(1);
        for slot in &mut self.slots {
            *slot = Slot { generation: slot.generation.wrapping_add(1), used: None };
        }
    }

    /// Lets the guest use so many frames of the table, and says which they are.
    ///
    /// # Errors
    /// `BAD_DOMAIN` for another domain's, `GENERAL_ERROR` for more than there are.
    pub fn set_up(&mut self, dom: u16, count: u32) -> Result<&[Mfn], i16> {
        self.granter(dom)?;
        let count = index(u64::from(count));
        let frames = self.frames.get(..count).ok_or(grant::GENERAL_ERROR)?;
        self.shown = self.shown.max(count);
        Ok(frames)
    }

    /// How many frames the guest uses, and how many it could.
    ///
    /// # Errors
    /// `BAD_DOMAIN` for another domain's.
    pub fn size(&self, dom: u16) -> Result<(usize, usize), i16> {
        self.granter(dom)?;
        Ok((self.shown, self.frames.len()))
    }

    /// The version of a domain's table.
    ///
    /// # Errors
    /// `BAD_DOMAIN` for another domain's.
    pub fn version(&self, dom: u16) -> Result<u32, i16> {
        self.granter(dom)?;
        Ok(grant::VERSION)
    }

    /// Begins to map a grant at a place of the caller.
    ///
    /// # Errors
    /// `BAD_DOMAIN` for another domain's, `BAD_REFERENCE` for one outside the table, `NO_SPACE` for a device's
    /// mapping or when all uses are taken, `BAD_ADDRESS` for a place that cannot be, `GENERAL_ERROR`
    /// for no mapping at all.
    pub fn begin_map(&mut self, asked: &GrantMap) -> Result<Begun, i16> {
        self.granter(asked.dom)?;
        let has = |flag| asked.flags & flag != 0;
        if has(grant::MAP_DEVICE) {
            return Err(grant::NO_SPACE);
        }
        if !has(grant::MAP_HOST) {
            return Err(grant::GENERAL_ERROR);
        }
        let place = place(asked.host_addr, asked.flags)?;
        let access = if has(grant::MAP_READ_ONLY) { Access::Read } else { Access::Write };
        let own = u64::from(asked.flags >> grant::MAP_AVAILABLE_SHIFT).wrapping_shl(AVAILABLE_SHIFT) & AVAILABLE;
        let write = if access == Access::Write { WRITABLE } else { 0 };
        let user = if has(grant::MAP_APPLICATION) { USER } else { 0 };
        let leaf = LEAF | own | write | user;
        let reference = asked.reference;
        self.begin(Use { reference, user: self.own, access, place, leaf, frame: None })
    }

    /// Begins to use a granted frame in the hypervisor, for `user`: the VM itself, for a copy, or a service.
    ///
    /// # Errors
    /// `BAD_REFERENCE` for one outside the table, `NO_SPACE` when all uses are taken.
    pub fn begin_hold(&mut self, reference: u32, access: Access, user: Domain) -> Result<Begun, i16> {
        self.begin(Use { reference, user, access, place: Place::Held, leaf: 0, frame: None })
    }

    /// Ends the beginning of a use whose entry is claimed and whose frame is referred to. Its handle.
    pub fn complete(&mut self, begun: Begun, frame: Mfn) -> u32 {
        let Begun { handle, wanted, .. } = begun;
        if let Some(slot) = self.slot(handle) {
            slot.used = Some(Use { frame: Some(frame), ..wanted });
        }
        handle
    }

    /// Gives up a use that cannot be made, claimed or not.
    pub fn abandon(&mut self, begun: Begun) -> Clear {
        let Begun { handle, .. } = begun;
        self.free(handle)
    }

    /// Begins to take a mapping out. The caller changes the page table and flushes.
    ///
    /// # Errors
    /// `BAD_HANDLE` when it names no mapping, `BAD_ADDRESS` when that is elsewhere.
    pub fn begin_unmap(&mut self, asked: &GrantUnmap) -> Result<Ending, i16> {
        let ending = self.begin_release(asked.handle).filter(|ending| ending.place != Place::Held);
        let ending = ending.ok_or(grant::BAD_HANDLE)?;
        let (Place::Page(GuestVirt(address)) | Place::Entry(Phys(address))) = ending.place else {
            return Err(grant::BAD_HANDLE);
        };
        if address == asked.host_addr { Ok(ending) } else { Err(grant::BAD_ADDRESS) }
    }

    /// Begins to end a use; nothing when there is none. The caller gives up its reference.
    pub fn begin_release(&mut self, handle: u32) -> Option<Ending> {
        let used = self.slot(handle)?.used?;
        Some(Ending { handle, place: used.place, frame: used.frame?, access: used.access })
    }

    /// Ends a use: nothing refers to the frame because of it any more.
    pub fn finish(&mut self, ending: Ending) -> Clear {
        let Ending { handle, .. } = ending;
        self.free(handle)
    }

    /// Checks a copy.
    ///
    /// # Errors
    /// `BAD_DOMAIN` for another domain's frame, `BAD_COPY` for a range that leaves a frame or unknown
    /// flags.
    pub fn copy(&self, asked: &GrantCopy) -> Result<Copying, i16> {
        if asked.flags & !(grant::COPY_SOURCE_GRANT | grant::COPY_TARGET_GRANT) != 0 {
            return Err(grant::BAD_COPY);
        }
        let side = |side: &GrantCopySide, is_grant: bool| {
            self.granter(side.domid)?;
            if u64::from(side.offset).saturating_add(u64::from(asked.len)) > PAGE_SIZE {
                return Err(grant::BAD_COPY);
            }
            let number = u32::try_from(side.place & u64::from(u32::MAX)).map_err(|_| grant::BAD_REFERENCE)?;
            let what = if is_grant { Side::Grant(number) } else { Side::Own(Mfn(side.place)) };
            Ok((what, usize::from(side.offset)))
        };
        let source = side(&asked.source, asked.flags & grant::COPY_SOURCE_GRANT != 0)?;
        let target = side(&asked.dest, asked.flags & grant::COPY_TARGET_GRANT != 0)?;
        Ok(Copying { source, target, length: usize::from(asked.len) })
    }

    /// Whether grants of this domain can be used: only one's own.
    ///
    /// # Errors
    /// `BAD_DOMAIN` for any other, be it there or not.
    const fn granter(&self, dom: u16) -> Result<(), i16> {
        if self.own.is(dom) { Ok(()) } else { Err(grant::BAD_DOMAIN) }
    }

    /// # Errors
    /// `BAD_REFERENCE` for one outside the table, `NO_SPACE` when all uses are taken.
    fn begin(&mut self, wanted: Use) -> Result<Begun, i16> {
        let entry = self.entry(wanted.reference).ok_or(grant::BAD_REFERENCE)?;
        let mut numbered = (0_u32..).zip(&mut self.slots);
        let (number, slot) = numbered.find(|(_, slot)| slot.used.is_none()).ok_or(grant::NO_SPACE)?;
        slot.used = Some(wanted);
        Ok(Begun { handle: slot.handle(number), wanted, entry })
    }

    /// Where an entry is that the guest can use.
    fn entry(&self, reference: u32) -> Option<EntryPlace> {
        let (frame, place) = (reference / grant::ENTRIES, reference % grant::ENTRIES);
        let frame = self.frames.get(..self.shown)?.get(index(u64::from(frame)))?;
        Some(EntryPlace { frame: *frame, index: index(u64::from(place)) })
    }

    /// Frees a slot. What its entry need not show any more.
    fn free(&mut self, handle: u32) -> Clear {
        let nothing = Clear { entry: None, bits: 0 };
        let Some(slot) = self.slot(handle) else { return nothing };
        let Some(ended) = slot.used.take() else { return nothing };
        slot.generation = slot.generation.wrapping_add(1);
        let others = self.slots.iter().filter_map(|slot| slot.used).filter(|used| used.reference == ended.reference);
        let needed = others.fold(0, |bits, used| bits | marks(used.access));
        Clear { entry: self.entry(ended.reference), bits: marks(ended.access) & !needed }
    }

    /// The slot of a use that is there.
    fn slot(&mut self, handle: u32) -> Option<&mut Slot> {
        let number = handle & USES.wrapping_sub(1);
        let slot = self.slots.get_mut(index(u64::from(number)))?;
        Some(slot).filter(|slot| slot.used.is_some() && slot.handle(number) == handle)
    }
}

/// The bits that tell a guest that a grant is in use.
fn marks(access: Access) -> u64 {
    u64::from(match access {
        Access::Read => grant::READING,
        Access::Write => grant::READING | grant::WRITING,
    })
}

/// # Errors
/// `BAD_ADDRESS` for an entry that is not aligned, or a page that is not or is not the guest's.
fn place(address: u64, flags: u32) -> Result<Place, i16> {
    let (place, is_good) = if flags & grant::MAP_CONTAINS_PTE != 0 {
        (Place::Entry(Phys(address)), address.is_multiple_of(8))
    } else {
        let is_page = address.is_multiple_of(PAGE_SIZE) && GuestVirt(address).is_guest_range(PAGE_SIZE);
        (Place::Page(GuestVirt(address)), is_page)
    };
    if is_good { Ok(place) } else { Err(grant::BAD_ADDRESS) }
}

/// Answers `set_version`.
///
/// # Errors
/// `NotImplemented` for version 2, `Invalid` for one that there never was.
pub const fn set_version(version: u32) -> Result<(), Errno> {
    match version {
        grant::VERSION => Ok(()),
        2 => Err(Errno::NotImplemented),
        _ => Err(Errno::Invalid),
    }
}

#[cfg(test)]
mod tests;
