//! Makes the frame table anew from what the VMs' tables, lists, pools and grants say, and compares it
//! with the real one word by word. In builds for tests only (feature `recount`).

use protocol::layout::{HYPERVISOR_FIRST_SLOT, KERNEL_FIRST_SLOT, LARGE_PAGE_FRAMES};

use super::entry::{Leaf, LeafKind, Stored};
use super::pool::Pool;
use super::walk::TOP;
use super::{Machine, Memory, TableMemory};
use crate::addr::Mfn;
use crate::addr::convert::{index, wide};
#[cfg(feature = "xen")]
use crate::frame::typed::{Type, with_reference};
use crate::frame::{Class, FrameTable, Kind, Record};

/// What does not agree, and the frame that shows it.
pub type Wrong = (&'static str, Mfn);

/// A frame table in the making.
#[derive(Debug)]
pub struct Recount<'a> {
    words: &'a mut [u64],
    /// Pages found that show granted frames.
    pub grants: u64,
    /// Pages found at all; a large one counts as its small ones.
    pub pages: u64,
}

impl<'a> Recount<'a> {
    /// Begins with a word for each frame of the machine.
    #[must_use]
    pub fn begin(words: &'a mut [u64]) -> Recount<'a> {
        words.fill(0);
        Recount { words, grants: 0, pages: 0 }
    }

    /// Notes what a frame is.
    ///
    /// # Errors
    /// It is something else already.
    pub(crate) fn set(&mut self, frame: Mfn, class: Class, number: u64) -> Result<(), Wrong> {
        let word = self.words.get_mut(index(frame.0)).filter(|word| **word == 0);
        *word.ok_or(("a frame is used twice", frame))? = Record::of(class, number).0;
        Ok(())
    }

    /// Notes a reference to a frame of a class.
    ///
    /// # Errors
    /// It is nothing that one can refer to.
    pub fn refer(&mut self, frame: Mfn, class: Class) -> Result<(), Wrong> {
        let word = self.words.get_mut(index(frame.0)).filter(|word| Record(**word).is(class));
        let word = word.ok_or(("a reference to a frame of another VM or use", frame))?;
        *word = word.wrapping_add(1);
        Ok(())
    }

    /// Notes a reference by type to a frame of a VM that writes its own page tables.
    ///
    /// # Errors
    /// It is something else.
    #[cfg(feature = "xen")]
    pub(crate) fn refer_as(&mut self, frame: Mfn, class: Class, wanted: Type) -> Result<(), Wrong> {
        let word = self.words.get_mut(index(frame.0)).filter(|word| Record(**word).is(class));
        let word = word.ok_or(("a reference to a frame of another VM or use", frame))?;
        *word = with_reference(*word, wanted).ok_or(("a reference to a frame as what it is not", frame))?;
        Ok(())
    }

    /// Notes the frames of a pool.
    ///
    /// # Errors
    /// It is shorter than it says, or a frame is something else.
    pub(crate) fn pool(&mut self, frames: &FrameTable<'_>, pool: &Pool, class: Class) -> Result<(), Wrong> {
        let mut next = pool.head();
        for _ in 0..pool.free() {
            let number = frames.number(next, class).ok_or(("the pool is shorter than it says", next))?;
            self.set(next, class, number)?;
            next = Mfn(number);
        }
        Ok(())
    }

    /// Compares with the frame table. Free, reserved and kept frames and those of channels stand for
    /// themselves. Returns how many frames each owner has: first nobody, then the VMs.
    ///
    /// # Errors
    /// The first frame whose record differs.
    pub fn finish(self, frames: &FrameTable<'_>) -> Result<[u64; 128], Wrong> {
        let mut owned = [0_u64; 128];
        for (number, expected) in (0_u64..).zip(&*self.words) {
            let (word, owner, kind) = frames.raw(Mfn(number));
            if let Some(count) = owned.get_mut(owner) {
                *count = count.wrapping_add(1);
            }
            let is_unused = [Kind::Reserved, Kind::Free, Kind::Channel, Kind::Kept].contains(&kind);
            let references = Record(word).references();
            if word != *expected && !(is_unused && *expected == 0 && references == 0) {
                return Err(("the record of a frame is not what its uses say", Mfn(number)));
            }
        }
        Ok(owned)
    }
}

/// The frames that nobody has.
pub fn unused<'f>(frames: &'f FrameTable<'_>) -> impl Iterator<Item = Mfn> + 'f {
    (0..frames.frames()).map(Mfn).filter(|frame| frames.raw(*frame).2 == Kind::Free)
}

/// Where a guest can read a half of a word, the upper (`SHIFT` 32) or the lower one (0), that is `pattern`, which fills
/// what the hypervisor alone has: the frame, the word in it and what stands there. Millions of words are looked at: hence
/// one half at a time, in a plain loop.
pub fn leaked<const SHIFT: u32>(machine: Machine<'_, impl TableMemory>, pattern: u32) -> Option<(Mfn, usize, u64)> {
    let pattern = u64::from(pattern) << SHIFT;
    let half = 0xffff_ffff << SHIFT;
    (0..machine.frames.frames()).map(Mfn).find_map(|frame| {
        let (_, _, kind) = machine.frames.raw(frame);
        if ![Kind::Data, Kind::Shared, Kind::Channel].contains(&kind) {
            return None;
        }
        for at in 0..512 {
            let word = machine.tables.load(frame, at);
            if word & half == pattern {
                return Some((frame, at, word));
            }
        }
        None
    })
}

/// Whether either half of a word is the pattern.
#[must_use]
pub fn holds(word: u64, pattern: u32) -> bool {
    let pattern = u64::from(pattern);
    word & 0xffff_ffff == pattern || word >> 32 == pattern
}

impl Memory {
    /// Notes every frame of the VM, and each reference that its tables and vCPU pages make.
    ///
    /// # Errors
    /// What does not agree.
    pub fn recount(&self, machine: Machine<'_, impl TableMemory>, all: &mut Recount<'_>) -> Result<(), Wrong> {
        let list = self.list;
        for number in 0..list.frames {
            let place = machine.tables.load(list.first.offset(number >> 9), index(number & 511));
            if place != 0 {
                all.set(Mfn(place), list.data, number)?;
            }
        }
        for offset in 0..super::FrameList::run_length(list.frames) {
            all.set(list.first.offset(offset), self.class(Kind::FrameList), offset)?;
        }
        all.set(self.time_page, self.class(Kind::Shared), 0)?;
        all.pool(machine.frames, &self.pool, self.class(Kind::Pool))?;
        for page in self.vcpu_pages.iter().flatten() {
            all.refer(*page, list.data)?;
        }
        let mut is_first = true;
        for space in self.spaces.iter().flatten() {
            let roots = space.roots;
            all.set(roots.user, self.class(Kind::Table), 0)?;
            all.set(roots.kernel, self.class(Kind::Table), 0)?;
            let end = if core::mem::take(&mut is_first) { 512 } else { index(HYPERVISOR_FIRST_SLOT) };
            for slot in (0..end).filter(|slot| !(index(HYPERVISOR_FIRST_SLOT)..index(KERNEL_FIRST_SLOT)).contains(slot))
            {
                let word = machine.tables.load(roots.kernel, slot);
                if wide(slot) < HYPERVISOR_FIRST_SLOT
                    && !space.is_dying
                    && word != machine.tables.load(roots.user, slot)
                {
                    return Err(("the two roots of a space differ", roots.user));
                }
                self.recount_entry(machine, all, word, TOP)?;
            }
        }
        Ok(())
    }

    /// Notes what an entry of a table of a level refers to, and all below.
    ///
    /// # Errors
    /// What does not agree.
    fn recount_entry(
        &self,
        machine: Machine<'_, impl TableMemory>,
        all: &mut Recount<'_>,
        word: u64,
        level: u32,
    ) -> Result<(), Wrong> {
        if let Stored::Table(table) = Stored::of(word)
            && level > 1
        {
            all.set(table, self.class(Kind::Table), 0)?;
            return (0..512).try_for_each(|slot| {
                self.recount_entry(machine, all, machine.tables.load(table, slot), level.wrapping_sub(1))
            });
        }
        let Some(leaf) = Leaf::of(word) else {
            return Ok(());
        };
        let frames = if level > 1 { LARGE_PAGE_FRAMES } else { 1 };
        all.pages = all.pages.saturating_add(frames);
        match leaf.kind() {
            LeafKind::Own => (0..frames).try_for_each(|offset| all.refer(leaf.frame().offset(offset), self.list.data)),
            LeafKind::Special => Ok(()),
            LeafKind::Grant(_) => {
                all.grants = all.grants.saturating_add(1);
                Ok(())
            }
        }
    }
}
