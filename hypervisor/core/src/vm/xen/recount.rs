//! What the frames of a Xen VM are. In builds for tests only (feature `recount`).

use super::XenMemory;
use crate::addr::Mfn;
use crate::frame::typed::Type;
use crate::frame::{Class, Kind};
use crate::paging::GuestTables;
use crate::space::{FrameList, Machine, Recount, Wrong};

impl XenMemory {
    /// Notes every frame of the VM and each reference to it. What its vCPUs refer to is in `holds`: frames
    /// with the type that they are referred to by, or with none.
    ///
    /// # Errors
    /// What does not agree.
    pub fn recount(
        &self,
        machine: Machine<'_, impl GuestTables>,
        all: &mut Recount<'_>,
        holds: impl Iterator<Item = (Mfn, Type)>,
    ) -> Result<(), Wrong> {
        let list = Class::new(Some(self.vm), Kind::FrameList);
        for offset in 0..FrameList::run_length(self.frames) {
            all.set(self.list.offset(offset), list, offset)?;
        }
        let own = [self.shared_info, self.console].into_iter().chain(self.grants);
        self.paging.recount(machine, all, self.vm, own.map(|page| (page, Type::Writable)).chain(holds))
    }
}
