//! `map` and `translate`.

use protocol::call::{Map, Pair};
use protocol::flags::MapFlags;
use protocol::layout::{CHANNEL_FRAME_STRIDE, CHANNEL_FRAMES, LARGE_PAGE_FRAMES, LARGE_PAGE_SIZE, TIME_PAGE_FRAME};
use protocol::{Gfn, GuestVirt, SpaceId, Status};

use super::entry::{Leaf, LeafKind, Stored, ValidEntry};
use super::walk::{Found, clamp, find, slot};
use super::{Covered, FlushOwed, FrameList, Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::addr::convert::{index, wide};
use crate::frame::Kind;

/// Bit of a translated number that says that it is a grant's.
const GRANT_NUMBER: u64 = 1 << 62;

impl Memory {
    /// The call `map`. Fresh small pages owe no flush; a large page over an empty table does.
    ///
    /// # Errors
    /// Those of the call's page, when no page was mapped.
    pub fn map(&mut self, machine: Machine<'_, impl TableMemory>, call: Map) -> Result<Covered, Status> {
        if call.flags.contains(MapFlags::LARGE) {
            return self.map_large(machine, call);
        }
        let list = self.list;
        let frame = |done| Gfn(call.frame.0.wrapping_add(done));
        let mut done = 0;
        let result = self.update(
            machine,
            (call.space, call.address, call.count),
            &mut done,
            |memory, found, at, done| memory.first_table(machine, &call, frame(done), (found, at)),
            #[inline(always)]
            |memory, word, done| {
                if word != 0 {
                    return Err(Status::AlreadyMapped);
                }
                memory.entry_for(machine, list, frame(done), call.flags)
            },
        );
        Covered::of(done, result, FlushOwed::NOTHING)
    }

    /// The first-level table for a page where there is none. It is made only for a frame that can be
    /// mapped, so that a refusal leaves nothing behind.
    ///
    /// # Errors
    /// Those of the call's page.
    #[inline(never)]
    fn first_table(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        call: &Map,
        frame: Gfn,
        (found, address): (Found, u64),
    ) -> Result<Option<Mfn>, Status> {
        let entry = self.entry_for(machine, self.list, frame, call.flags)?;
        self.let_go(machine, entry, 1);
        self.make_tables(machine, call.space, found, (address, 1)).map(Some)
    }

    /// The entry that shows a frame, the reference to it counted.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::NotPermitted`] or [`Status::QuotaExceeded`].
    #[inline(always)]
    fn entry_for(
        &self,
        machine: Machine<'_, impl TableMemory>,
        list: FrameList,
        frame: Gfn,
        flags: MapFlags,
    ) -> Result<ValidEntry, Status> {
        if frame.0 >= list.frames {
            return self.special(frame, flags);
        }
        let own = list.acquire(machine, frame)?;
        ValidEntry::leaf(own, flags, LeafKind::Own).ok_or(Status::InvalidArgument)
    }

    /// Drops the references of the first frames of an entry that is not stored.
    fn let_go(&self, machine: Machine<'_, impl TableMemory>, entry: ValidEntry, frames: u64) {
        if let Some(leaf) = Leaf::of(entry.bits()) {
            self.list.let_go(machine, leaf, frames);
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
            frame.0.checked_sub(CHANNEL_FRAMES.0).and_then(|offset| self.channel_frame(offset))
        };
        let entry = shown.and_then(|shown| ValidEntry::leaf(shown, flags, LeafKind::Special));
        entry.ok_or(Status::InvalidArgument)
    }

    /// The machine frame of a channel frame, counted from the first one of channel 0.
    fn channel_frame(&self, offset: u64) -> Option<Mfn> {
        let region = (*self.channels.get(index(offset / CHANNEL_FRAME_STRIDE))?)?;
        let within = offset % CHANNEL_FRAME_STRIDE;
        (within < region.frames).then(|| region.first.offset(within))
    }

    /// Maps one large page.
    ///
    /// # Errors
    /// Those of the call's page.
    fn map_large(&mut self, machine: Machine<'_, impl TableMemory>, call: Map) -> Result<Covered, Status> {
        if call.count != 1 {
            return if call.count == 0 { Covered::of(0, Ok(()), FlushOwed::NOTHING) } else { Err(Status::TooLong) };
        }
        let root = self.live(call.space)?.roots.kernel;
        clamp(call.address, 1, LARGE_PAGE_SIZE)?;
        if !call.frame.0.is_multiple_of(LARGE_PAGE_FRAMES) {
            return Err(Status::Misaligned);
        }
        let entry = self.acquire_large(machine, call.frame, call.flags)?;
        let stored = self.store_large(machine, &call, root, entry);
        if stored.is_err() {
            self.let_go(machine, entry, LARGE_PAGE_FRAMES);
        }
        Ok(Covered { pages: 1, stopped: None, flush: stored? })
    }

    /// The entry that shows 512 frames which lie together, a reference to each counted.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] or [`Status::QuotaExceeded`]; no reference is left.
    fn acquire_large(
        &self,
        machine: Machine<'_, impl TableMemory>,
        frame: Gfn,
        flags: MapFlags,
    ) -> Result<ValidEntry, Status> {
        let first = self.list.get(machine, frame)?.ok_or(Status::InvalidArgument)?;
        let entry = ValidEntry::large(first, flags).ok_or(Status::InvalidArgument)?;
        let (list, last) = (self.list, frame.0.saturating_add(LARGE_PAGE_FRAMES));
        for (offset, number) in (0..).zip(frame.0..last) {
            let next = first.offset(offset);
            let counted = match list.get(machine, Gfn(number)) {
                Ok(Some(found)) if found == next => machine.frames.add_reference(next, list.data),
                _ => Err(Status::InvalidArgument),
            };
            if let Err(status) = counted {
                self.let_go(machine, entry, offset);
                return Err(status);
            }
        }
        Ok(entry)
    }

    /// Stores a large leaf where nothing or an empty table is. The table is retired: it becomes free
    /// when the flush that this owes is settled, since CPUs may have cached the way to it.
    ///
    /// # Errors
    /// [`Status::AlreadyMapped`] or [`Status::QuotaExceeded`].
    fn store_large(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        call: &Map,
        root: Mfn,
        entry: ValidEntry,
    ) -> Result<FlushOwed, Status> {
        let address = call.address.0;
        let found = find(machine, root, address, 2);
        let table = self.make_tables(machine, call.space, found, (address, 2))?;
        let slot = slot(address, 2);
        let old = machine.tables.load(table, slot);
        let flush = match Stored::of(old) {
            Stored::Nothing => FlushOwed::NOTHING,
            Stored::Table(old) if (0..512).all(|slot| machine.tables.load(old, slot) == 0) => {
                self.retired.give(machine.frames, old, self.class(Kind::Table))?;
                FlushOwed::ALL
            }
            Stored::Table(_) | Stored::Large(_) => return Err(Status::AlreadyMapped),
        };
        machine.tables.store(table, slot, entry);
        Ok(flush)
    }

    /// The call `translate`: the number of the 4 KiB frame at the address, also inside a large page,
    /// and the page's flags.
    ///
    /// # Errors
    /// Those of the call's page.
    pub fn translate(
        &self,
        machine: Machine<'_, impl TableMemory>,
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
                let leaf = Leaf::of(machine.tables.load(table, slot(address.0, 1)));
                (leaf.ok_or(Status::NotMapped)?, 0, MapFlags::empty())
            }
        };
        let number = match leaf.kind() {
            LeafKind::Own => machine.frames.number(leaf.frame().offset(within), self.list.data),
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
        let bases = (CHANNEL_FRAMES.0..).step_by(index(CHANNEL_FRAME_STRIDE));
        bases.zip(self.channels).find_map(|(base, region)| {
            let region = region?;
            let within = frame.0.checked_sub(region.first.0)?;
            (within < region.frames).then(|| base.wrapping_add(within))
        })
    }
}
