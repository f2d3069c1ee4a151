//! Counts denials beside the log, where they get a record or are lost. In builds for tests only (feature
//! `recount`), which compare with what guests were answered. There is one log, so the counts are global.

use core::sync::atomic::{AtomicU64, Ordering};

use protocol::VmId;
use protocol::audit::AuditKind;

use super::{Event, Log};
use crate::addr::convert::index;

/// Denials of each VM that stand in records, and those that were lost.
static DENIED: [[AtomicU64; 2]; 64] = [const { [const { AtomicU64::new(0) }; 2] }; 64];

/// Notes what became of an event that stands for so many.
pub(super) fn note(event: &Event, recorded: u64, lost: u64) {
    let counts = event.subject.and_then(|VmId(vm)| DENIED.get(index(vm.into())));
    if let (AuditKind::Denied | AuditKind::DeniedMore, Some([all_recorded, all_lost])) = (event.kind, counts) {
        all_recorded.fetch_add(recorded, Ordering::SeqCst);
        all_lost.fetch_add(lost, Ordering::SeqCst);
    }
}

impl Log {
    /// Denials of a VM so far: those in records, those lost, and those that were only counted yet.
    pub fn denials(&mut self, vm: VmId) -> [u64; 3] {
        let waiting = self.source(Some(vm)).and_then(|source| source.storm.more).map_or(0, |(_, count)| count);
        let [recorded, lost] = DENIED
            .get(index(vm.0.into()))
            .map_or([0; 2], |counts| counts.each_ref().map(|count| count.load(Ordering::SeqCst)));
        [recorded, lost, waiting]
    }
}
