//! The image's bytes, and the first page tables.

use protocol::Gfn;

use super::super::super::build::fill::page_bytes;
use super::super::plan::{PAGES, TOP_TABLES};
use super::claim::write_word;
use super::{Next, Stage, XenBuilder};
use crate::space::entry::{ACCESSED, DIRTY, PRESENT, USER, WRITABLE};
use crate::space::{Machine, TableMemory};

/// Frames that one step loads.
const STEP_FRAMES: u64 = 64;
/// Entries that one step writes.
const STEP_ENTRIES: u64 = 256;

/// A page. Validation makes it the user's, as it does when a guest writes such an entry.
const PAGE: u64 = PRESENT | WRITABLE | ACCESSED;
/// A page with a page table.
const PAGE_OF_TABLE: u64 = PRESENT | ACCESSED;
/// A table of the next level.
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED | DIRTY;

impl XenBuilder<'_> {
    /// Copies bytes of the image into guest frames.
    ///
    /// # Errors
    /// That the plan gave frames that the VM does not have.
    pub(super) fn load(&self, machine: Machine<'_, impl TableMemory>, number: usize, done: u64) -> Next {
        let Some(piece) = self.plan.pieces(self.source.manifest, self.kernel).nth(number) else {
            return Ok(Stage::Tables(0, PAGES, 0));
        };
        let end = done.saturating_add(STEP_FRAMES).min(piece.frames);
        for offset in done..end {
            let frame = piece.first.0.saturating_add(offset);
            if let Some(bytes) = page_bytes(self.source.image, piece, frame) {
                machine.tables.write(self.machine_frame(machine, Gfn(frame))?, 0, bytes);
            }
        }
        Ok(if end == done { Stage::Load(number.saturating_add(1), 0) } else { Stage::Load(number, end) })
    }

    /// Writes a mapping's entries that lead to pages, then to tables of level 1, and so on. The tables are
    /// plain memory until they are validated.
    ///
    /// # Errors
    /// That the plan gave frames that the VM does not have.
    pub(super) fn write_tables(
        &self,
        machine: Machine<'_, impl TableMemory>,
        number: usize,
        level: u32,
        next: u64,
    ) -> Next {
        let Some(mapping) = self.plan.mappings().nth(number) else {
            return Ok(Stage::Inform);
        };
        if level > TOP_TABLES {
            return Ok(Stage::Tables(number.saturating_add(1), PAGES, 0));
        }
        let end = next.saturating_add(STEP_ENTRIES).min(mapping.count(level));
        for position in next..end {
            let shown = mapping.frame(level, position);
            let bits = match level {
                PAGES if self.plan.is_shown_table(shown) => PAGE_OF_TABLE,
                PAGES => PAGE,
                _ => TABLE,
            };
            let (table, slot) = mapping.place(level, position);
            let table = self.machine_frame(machine, table.unwrap_or(self.plan.root))?;
            let word = self.machine_frame(machine, shown)?.start().0 | bits;
            write_word(machine, table, slot, word);
        }
        let is_end = end == next;
        Ok(if is_end { Stage::Tables(number, level.saturating_add(1), 0) } else { Stage::Tables(number, level, end) })
    }
}
