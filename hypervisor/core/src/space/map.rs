//! `map` and `translate`.

use protocol::call::{Map, Pair};
use protocol::flags::MapFlags;
use protocol::layout::{
    CHANNEL_FRAME_STRIDE, CHANNEL_FRAMES, LARGE_PAGE_FRAMES, LARGE_PAGE_SIZE, PAGE_SIZE, TIME_PAGE_FRAME, limit,
};
use protocol::{Gfn, GuestVirt, SpaceId, Status};

use super::entry::{Leaf, LeafBits, LeafKind, Stored, ValidEntry};
use super::walk::{Found, clamp, find, slot};
use super::{Covered, FlushOwed, FrameList, Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::addr::convert::{index, wide};
use crate::frame::{Class, Kind, Refused};

/// Bit of a translated number that says that it is a grant's.
pub const GRANT_NUMBER: u64 = 1 << 62;

/// A part of a `map` that lies in one first-level table.
#[derive(Debug, Clone, Copy)]
struct Part {
    address: u64,
    /// The first frame. Adding pages wraps for no number that a frame has.
    frame: Gfn,
    pages: u64,
    flags: MapFlags,
}

/// Where `map` finds frames: copied from the [`Memory`] so that its loop reads them from registers.
#[derive(Debug, Clone, Copy)]
struct Source {
    list: FrameList,
    data: Class,
    bits: LeafBits,
}

impl Source {
    /// The entry that shows a frame, the reference to it counted. Frames that are not the VM's own
    /// memory are what `special` says.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::NotPermitted`] or [`Status::QuotaExceeded`].
    #[inline(always)]
    fn acquire<T: TableMemory>(
        self,
        machine: Machine<'_, T>,
        frame: Gfn,
        special: impl FnOnce(Gfn) -> Result<ValidEntry, Status>,
    ) -> Result<ValidEntry, Status> {
        if frame.0 >= self.list.frames() {
            return special(frame);
        }
        let own = self.list.get(machine, frame)?;
        let own = own.ok_or(Status::InvalidArgument)?;
        let entry = self.bits.at(own).ok_or(Status::InvalidArgument)?;
        let added = machine.frames.add_reference(own, self.data);
        added.map(|()| entry).map_err(status_of)
    }
}

impl Memory {
    /// The call `map`. Fresh small pages owe no flush; a large page over an empty table does.
    ///
    /// # Errors
    /// Those of the call's page, when no page was mapped.
    pub fn map<T: TableMemory>(&mut self, machine: Machine<'_, T>, call: Map) -> Result<Covered, Status> {
        if call.count == 0 {
            return Ok(Covered::NOTHING);
        }
        if call.flags.contains(MapFlags::LARGE) {
            return self.map_large(machine, call);
        }
        if call.count > limit::RANGE_PAGES {
            return Err(Status::TooLong);
        }
        let root = self.live(call.space)?.roots.kernel;
        let pages = clamp(call.address, call.count, PAGE_SIZE)?;
        let mut done = 0_u64;
        let mut stopped = (pages < call.count).then_some(Status::BadAddress);
        while done < pages {
            let address = call.address.0.wrapping_add(done.wrapping_mul(PAGE_SIZE));
            let in_table = LARGE_PAGE_FRAMES.wrapping_sub(wide(slot(address, 1)));
            let part = Part {
                address,
                frame: Gfn(call.frame.0.wrapping_add(done)),
                pages: in_table.min(pages.wrapping_sub(done)),
                flags: call.flags,
            };
            let (mapped, result) = self.map_part(machine, call.space, root, part);
            done = done.wrapping_add(mapped);
            if let Err(status) = result {
                if done == 0 {
                    return Err(status);
                }
                stopped = Some(status);
                break;
            }
        }
        Ok(Covered { pages: done, stopped, flush: FlushOwed::NOTHING })
    }

    /// Maps pages of one first-level table, up to the first that is refused. The table is made only
    /// when the first page's frame is in order, so that a refusal leaves nothing behind.
    #[inline]
    fn map_part<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        space: SpaceId,
        root: Mfn,
        part: Part,
    ) -> (u64, Result<(), Status>) {
        let source = Source { list: self.list, data: self.data, bits: LeafBits::new(part.flags, LeafKind::Own) };
        let special = |frame| self.special(frame, part.flags);
        let mut entry = match source.acquire(machine, part.frame, special) {
            Ok(entry) => entry,
            Err(status) => return (0, Err(status)),
        };
        let table = match self.table_for(machine, space, root, (part.address, 1)) {
            Ok(table) => table,
            Err(status) => {
                self.let_go(machine, entry.bits());
                return (0, Err(status));
            }
        };
        let first = slot(part.address, 1);
        let mut done = 0_u64;
        loop {
            let slot = first.wrapping_add(index(done));
            if machine.tables.load(table, slot) != 0 {
                self.let_go(machine, entry.bits());
                return (done, Err(Status::AlreadyMapped));
            }
            machine.tables.store(table, slot, entry);
            done = done.wrapping_add(1);
            if done >= part.pages {
                return (done, Ok(()));
            }
            let frame = Gfn(part.frame.0.wrapping_add(done));
            let special = |frame| self.special(frame, part.flags);
            entry = match source.acquire(machine, frame, special) {
                Ok(entry) => entry,
                Err(status) => return (done, Err(status)),
            };
        }
    }

    /// Undoes [`Source::acquire`] for an entry that was not or is no longer stored.
    #[inline(always)]
    pub(super) fn let_go<T: TableMemory>(&self, machine: Machine<'_, T>, word: u64) {
        if let Some(leaf) = Leaf::of(word)
            && leaf.is_own()
        {
            let dropped = machine.frames.drop_reference(leaf.frame(), self.data);
            debug_assert!(dropped.is_ok(), "a leaf without its reference");
        }
    }

    /// The entry that shows the time page or a frame of a channel.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] or [`Status::NotPermitted`].
    #[inline(never)]
    fn special(&self, frame: Gfn, flags: MapFlags) -> Result<ValidEntry, Status> {
        let shown = if frame == TIME_PAGE_FRAME {
            if flags.contains(MapFlags::WRITE) {
                return Err(Status::NotPermitted);
            }
            Some(self.time_page)
        } else {
            let offset = frame.0.checked_sub(CHANNEL_FRAMES.0);
            offset.and_then(|offset| self.channel_frame(offset))
        };
        let shown = shown.ok_or(Status::InvalidArgument)?;
        ValidEntry::leaf(shown, flags, LeafKind::Special).ok_or(Status::InvalidArgument)
    }

    /// The machine frame of a channel frame, counted from the first one of channel 0.
    fn channel_frame(&self, offset: u64) -> Option<Mfn> {
        let channel = self.channels.get(index(offset / CHANNEL_FRAME_STRIDE));
        let region = channel.copied().flatten()?;
        let within = offset % CHANNEL_FRAME_STRIDE;
        (within < region.frames).then(|| region.first.offset(within))
    }

    /// Maps one large page.
    ///
    /// # Errors
    /// Those of the call's page.
    fn map_large<T: TableMemory>(&mut self, machine: Machine<'_, T>, call: Map) -> Result<Covered, Status> {
        if call.count > 1 {
            return Err(Status::TooLong);
        }
        let root = self.live(call.space)?.roots.kernel;
        clamp(call.address, 1, LARGE_PAGE_SIZE)?;
        if !call.frame.0.is_multiple_of(LARGE_PAGE_FRAMES) {
            return Err(Status::Misaligned);
        }
        let entry = self.acquire_large(machine, call.frame, call.flags)?;
        match self.store_large(machine, &call, root, entry) {
            Ok(flush) => Ok(Covered { pages: 1, stopped: None, flush }),
            Err(status) => {
                self.let_go_large(machine, entry.bits(), LARGE_PAGE_FRAMES);
                Err(status)
            }
        }
    }

    /// The entry that shows 512 frames which lie together, a reference to each counted.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] or [`Status::QuotaExceeded`]; no reference is left.
    fn acquire_large<T: TableMemory>(
        &self,
        machine: Machine<'_, T>,
        frame: Gfn,
        flags: MapFlags,
    ) -> Result<ValidEntry, Status> {
        let first = self.list.get(machine, frame)?.ok_or(Status::InvalidArgument)?;
        let entry = ValidEntry::large(first, flags).ok_or(Status::InvalidArgument)?;
        for offset in 0..LARGE_PAGE_FRAMES {
            let found = self.list.get(machine, Gfn(frame.0.saturating_add(offset)));
            let counted = match found {
                Ok(Some(found)) if found == first.offset(offset) => {
                    machine.frames.add_reference(found, self.data).map_err(status_of)
                }
                _ => Err(Status::InvalidArgument),
            };
            if let Err(status) = counted {
                self.let_go_large(machine, entry.bits(), offset);
                return Err(status);
            }
        }
        Ok(entry)
    }

    /// Drops the references of the first `frames` frames of a large page.
    pub(super) fn let_go_large<T: TableMemory>(&self, machine: Machine<'_, T>, word: u64, frames: u64) {
        if let Stored::Large(leaf) = Stored::of(word) {
            for offset in 0..frames {
                let frame = leaf.frame().offset(offset);
                let dropped = machine.frames.drop_reference(frame, self.data);
                debug_assert!(dropped.is_ok(), "a large leaf without its references");
            }
        }
    }

    /// Stores a large leaf where nothing or an empty table is. The table is retired: it becomes free
    /// when the flush that this owes is settled, since CPUs may have cached the way to it.
    ///
    /// # Errors
    /// [`Status::AlreadyMapped`] or [`Status::QuotaExceeded`].
    fn store_large<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        call: &Map,
        root: Mfn,
        entry: ValidEntry,
    ) -> Result<FlushOwed, Status> {
        let address = call.address.0;
        let table = self.table_for(machine, call.space, root, (address, 2))?;
        let slot = slot(address, 2);
        match Stored::of(machine.tables.load(table, slot)) {
            Stored::Nothing => {
                machine.tables.store(table, slot, entry);
                Ok(FlushOwed::NOTHING)
            }
            Stored::Table(old) if is_empty(machine, old.frame()) => {
                machine.tables.store(table, slot, entry);
                self.retired.give(machine.frames, self.owner, old.frame(), Kind::Table);
                Ok(FlushOwed::all())
            }
            Stored::Table(_) | Stored::Large(_) => Err(Status::AlreadyMapped),
        }
    }

    /// The call `translate`: the number of the 4 KiB frame at the address, also inside a large page,
    /// and the page's flags.
    ///
    /// # Errors
    /// Those of the call's page.
    pub fn translate<T: TableMemory>(
        &self,
        machine: Machine<'_, T>,
        space: SpaceId,
        address: GuestVirt,
    ) -> Result<Pair, Status> {
        let root = self.live(space)?.roots.kernel;
        if !address.is_guest_range(1) {
            return Err(Status::BadAddress);
        }
        let (leaf, within, size) = match find(machine, root, address.0, 1) {
            Found::Missing { .. } => return Err(Status::NotMapped),
            Found::Large { leaf, .. } => (leaf, wide(slot(address.0, 1)), MapFlags::LARGE),
            Found::Table(table) => {
                let word = machine.tables.load(table, slot(address.0, 1));
                let leaf = Leaf::of(word).ok_or(Status::NotMapped)?;
                (leaf, 0, MapFlags::empty())
            }
        };
        let number = match leaf.kind() {
            LeafKind::Own => {
                let frame = leaf.frame().offset(within);
                machine.frames.number(frame, self.owner, Kind::Data)
            }
            LeafKind::Special => self.special_number(leaf.frame()),
            LeafKind::Grant(tag) => Some(GRANT_NUMBER | u64::from(tag)),
        };
        let number = number.ok_or(Status::NotMapped)?;
        Ok(Pair(number, leaf.rights().union(size).bits()))
    }

    /// The guest frame number of the time page or of a frame of a channel.
    fn special_number(&self, frame: Mfn) -> Option<u64> {
        if frame == self.time_page {
            return Some(TIME_PAGE_FRAME.0);
        }
        let mut base = CHANNEL_FRAMES.0;
        for region in &self.channels {
            let within = region.and_then(|region| {
                let within = frame.0.checked_sub(region.first.0)?;
                (within < region.frames).then_some(within)
            });
            if let Some(within) = within {
                return base.checked_add(within);
            }
            base = base.wrapping_add(CHANNEL_FRAME_STRIDE);
        }
        None
    }
}

/// Whether a table has no entry.
fn is_empty<T: TableMemory>(machine: Machine<'_, T>, table: Mfn) -> bool {
    (0..512).all(|slot| machine.tables.load(table, slot) == 0)
}

/// What a guest is told when the frame table refuses.
pub(super) const fn status_of(refused: Refused) -> Status {
    match refused {
        Refused::Full | Refused::OutOfMemory => Status::QuotaExceeded,
        Refused::Busy => Status::Busy,
        Refused::NotYours => Status::InvalidArgument,
    }
}
