//! Frames: claimed, cleared, put into the pool, and listed for the guest.

use protocol::Gfn;
use protocol::xen::M2P_INVALID;

use super::super::super::build::Origin;
use super::super::super::build::fill::out_of_memory;
use super::super::super::error::Problem;
use super::super::plan::SLOTS;
use super::{Next, Stage, XenBuilder};
use crate::addr::Mfn;
use crate::addr::convert::index;
use crate::frame::{Class, Kind, Search};
use crate::paging::{GuestTables, Paging};
use crate::space::entry::{LeafKind, Stored};
use crate::space::{FrameList, Machine, Remains, TableMemory, ValidEntry};
use protocol::flags::MapFlags;

/// Frames that one step claims.
const STEP_FRAMES: u64 = 64;
/// Guest frames that one step lists.
const STEP_WORDS: u64 = 256;
/// Pages of the list "machine frame to guest frame" that one step looks at or makes.
const STEP_PAGES: u64 = 8;
/// Bytes of a word of a list.
const WORD_BYTES: u64 = 8;

impl XenBuilder<'_> {
    /// Claims the next run for the VM. All its frames are zero. Nothing when the step looked at enough.
    /// Frames of kind `Paged` are claimed one by one, because the number of such a frame is its use.
    ///
    /// # Errors
    /// [`out_of_memory`].
    fn claim(
        &mut self,
        machine: Machine<'_, impl TableMemory>,
        kind: Kind,
        count: u64,
    ) -> Result<Option<Mfn>, Problem> {
        let is_free = self.source.origin == Origin::Free;
        let from = if is_free { Class::FREE } else { self.class(Kind::Kept) };
        let classes = (from, self.class(kind));
        let claimed = machine.frames.claim_next(&mut self.search, classes, 0, (count, 1));
        let claimed = claimed.map_err(|_| out_of_memory(count))?;
        // What was kept is zero already.
        if let Some(first) = claimed.filter(|_| is_free) {
            (0..count).for_each(|offset| machine.tables.clear(first.offset(offset)));
        }
        Ok(claimed)
    }

    /// Claims what lies beside memory and pool: the time page, then the frame list behind it, since
    /// nothing in front of it is free.
    ///
    /// # Errors
    /// [`out_of_memory`].
    pub(super) fn claim_own(&mut self, machine: Machine<'_, impl TableMemory>, time_page: Option<Mfn>) -> Next {
        if let Origin::Kept(remains) = self.source.origin {
            return self.begin(machine, remains);
        }
        let Some(time_page) = time_page else {
            return Ok(Stage::Own(self.claim(machine, Kind::Shared, 1)?));
        };
        let length = FrameList::run_length(self.source.manifest.memory_frames);
        match self.claim(machine, Kind::FrameList, length)? {
            Some(list) => self.begin(machine, Remains { list, time_page }),
            None => Ok(Stage::Own(Some(time_page))),
        }
    }

    /// Begins with the guest's frames, whose list and shared info are there.
    ///
    /// # Errors
    /// [`out_of_memory`].
    fn begin(&mut self, machine: Machine<'_, impl TableMemory>, Remains { list, time_page }: Remains) -> Next {
        let changed = machine.frames.change(time_page, self.class(Kind::Shared), self.class(Kind::Paged), 0);
        changed.map_err(|_| out_of_memory(1))?;
        self.memory.shared_info = time_page;
        self.memory.list = list;
        self.list = FrameList::new(self.source.vm, list, self.source.manifest.memory_frames);
        self.search = Search::START;
        Ok(Stage::Claim(0))
    }

    /// Claims guest frames.
    ///
    /// # Errors
    /// [`out_of_memory`].
    pub(super) fn claim_guest_frames(&mut self, machine: Machine<'_, impl TableMemory>, next: u64) -> Next {
        let end = next.saturating_add(STEP_FRAMES).min(self.list.frames());
        for number in next..end {
            let Some(frame) = self.claim(machine, Kind::Paged, 1)? else {
                return Ok(Stage::Claim(number));
            };
            self.list.set(machine, Gfn(number), Some(frame));
        }
        Ok(if end == next { Stage::Pool(0) } else { Stage::Claim(end) })
    }

    /// Adds frames to the pool. The first one becomes the top of the list "machine frame to guest frame".
    ///
    /// # Errors
    /// [`out_of_memory`].
    pub(super) fn fill_pool(&mut self, machine: Machine<'_, impl GuestTables>, filled: u64) -> Next {
        if filled == 0 {
            let Some(top) = self.claim(machine, Kind::Table, 1)? else {
                return Ok(Stage::Pool(0));
            };
            self.m2p = top;
            self.memory.paging = Paging::new(self.source.vm, self.source.slots, Some(self.m2p));
            return Ok(Stage::Pool(1));
        }
        let end = filled.saturating_add(STEP_FRAMES).min(self.source.manifest.pool_frames);
        for number in filled..end {
            let Some(frame) = self.claim(machine, Kind::Kept, 1)? else {
                return Ok(Stage::Pool(number));
            };
            let given = self.memory.paging.give(machine, frame, self.class(Kind::Kept));
            given.map_err(|_| out_of_memory(1))?;
        }
        Ok(if end <= filled { Stage::Cover(0) } else { Stage::Pool(end) })
    }

    /// A clear frame of the pool.
    ///
    /// # Errors
    /// [`XenBuilder::pool_too_small`].
    pub(super) fn take(&mut self, machine: Machine<'_, impl TableMemory>, kind: Kind) -> Result<Mfn, Problem> {
        let class = self.class(kind);
        self.memory.paging.take(machine, class).map_err(|_| self.pool_too_small())
    }

    /// What is wrong when the pool is empty.
    fn pool_too_small(&self) -> Problem {
        let sentence =
            "a pool of # frames is too small for its list of machine frames and its grants; raise pool_frames";
        Problem::new(sentence, &[self.source.manifest.pool_frames])
    }

    /// Makes the pages of the list "machine frame to guest frame" that hold a frame of the VM, pool frames
    /// included since they can become the guest's. The guest sees no others.
    ///
    /// # Errors
    /// [`XenBuilder::pool_too_small`].
    pub(super) fn cover(&mut self, machine: Machine<'_, impl TableMemory>, next: u64) -> Next {
        let end = next.saturating_add(STEP_PAGES);
        for page in next..end {
            let first = Mfn(page.saturating_mul(SLOTS));
            if first.0 >= machine.frames.frames() {
                return Ok(Stage::List(0));
            }
            if machine.frames.has_any(self.source.vm, first..first.offset(SLOTS)) {
                self.make_page(machine, page)?;
            }
        }
        Ok(Stage::Cover(end))
    }

    /// Makes one page of this list, and the tables that lead to it.
    ///
    /// # Errors
    /// [`XenBuilder::pool_too_small`].
    fn make_page(&mut self, machine: Machine<'_, impl TableMemory>, page: u64) -> Result<(), Problem> {
        let slot = |level: u32| index((page >> 9_u32.wrapping_mul(level.wrapping_sub(1))) % SLOTS);
        let mut table = self.m2p;
        for level in [3, 2] {
            if let Stored::Table(below) = Stored::of(machine.tables.load(table, slot(level))) {
                table = below;
                continue;
            }
            let below = self.take(machine, Kind::Table)?;
            let entry = ValidEntry::table(below).ok_or_else(|| self.pool_too_small())?;
            machine.tables.store(table, slot(level), entry);
            table = below;
        }
        let shown = self.take(machine, Kind::Shared)?;
        (0..SLOTS).for_each(|word| write_word(machine, shown, word, M2P_INVALID));
        let entry = ValidEntry::leaf(shown, MapFlags::empty(), LeafKind::Special);
        machine.tables.store(table, slot(1), entry.ok_or_else(|| self.pool_too_small())?);
        Ok(())
    }

    /// Writes guest frames into the list that the guest has, and into the list "machine frame to guest
    /// frame".
    ///
    /// # Errors
    /// That the VM has not the frames that were claimed for it.
    pub(super) fn write_lists(&mut self, machine: Machine<'_, impl GuestTables>, next: u64) -> Next {
        let end = next.saturating_add(STEP_WORDS).min(self.list.frames());
        for number in next..end {
            let frame = self.machine_frame(machine, Gfn(number))?;
            let page = self.machine_frame(machine, Gfn(self.plan.p2m.0.saturating_add(number / SLOTS)))?;
            write_word(machine, page, number % SLOTS, frame.0);
            self.memory.paging.set_m2p(machine, frame, number).map_err(super::refused)?;
        }
        Ok(if end == next { Stage::Load(0, 0) } else { Stage::List(end) })
    }
}

/// Writes a word of a frame that is no page table yet.
pub(super) fn write_word(machine: Machine<'_, impl TableMemory>, frame: Mfn, number: u64, word: u64) {
    machine.tables.write(frame, index(number.wrapping_mul(WORD_BYTES)), &word.to_le_bytes());
}
