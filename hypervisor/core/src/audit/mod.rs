//! The audit log: a chain of fixed records in a ring of fixed size.
//!
//! Invariants: sequence numbers have no gap, and each record holds the hash of the one before; a record
//! that was not sent yet is never overwritten; a VM has at most its share of records unsent, so that
//! none can keep another's out; every denial is counted exactly once, in full, in a `DeniedMore`, or in
//! the `lost` of a later record of its VM.
//!
//! Records leave on the serial line ([`Log::unsent`], [`Log::sent`]), and a VM with the right reads them
//! ([`Log::read`]); one that reads too slowly misses the oldest, which the sequence shows.
//!
//! Not here: who may read, and what happens to a VM whose share is full: the policy says so.

#[cfg(feature = "recount")]
mod recount;

use alloc::boxed::Box;
use alloc::vec;

use protocol::VmId;
use protocol::audit::{AuditKind, FIRST, IN_FULL, NO_OPERATION, NOBODY};
use protocol::shared::AuditRecord;
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

use crate::addr::CpuId;
use crate::addr::convert::{index, wide};

/// Records that can wait to be sent: of each VM at least, and of the hypervisor by itself.
const LEAST: u32 = 16;
/// Records that can wait beyond those, for each VM on average: divided by the policy's shares.
const DIVIDED: u64 = 16;
/// For so long after the first denial, those beyond [`IN_FULL`] are only counted.
const STORM_NS: u64 = 1_000_000_000;

/// Something to be recorded.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// What.
    pub kind: AuditKind,
    /// The policy's operation that it is about.
    pub operation: Option<u16>,
    /// Who did it.
    pub subject: Option<VmId>,
    /// How often the subject was restarted.
    pub generation: u32,
    /// To whom.
    pub object: Option<VmId>,
    /// The number of the status that the subject got, or 0.
    pub status: u32,
    /// What the kind says.
    pub operands: [u64; 2],
}

impl Event {
    /// Something that a VM did, or the hypervisor.
    #[must_use]
    pub const fn new(kind: AuditKind, subject: Option<VmId>) -> Event {
        Event { kind, operation: None, subject, generation: 0, object: None, status: 0, operands: [0; 2] }
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the policy may end a VM whose share is full"]
pub enum Outcome {
    /// It has a record, with this sequence number.
    Recorded(u64),
    /// It is counted with others of its kind.
    Counted,
    /// The subject's share is full: it is counted as lost.
    Full,
}

/// Denials of a VM that have no record of their own.
#[derive(Debug, Clone, Copy)]
struct Storm {
    /// When the first denial of the window was.
    since: u64,
    /// Denials of the window.
    denials: u32,
    /// The latest of those that were only counted, and how many.
    more: Option<(Event, u64)>,
}

/// What is kept of each VM, and of the hypervisor.
#[derive(Debug, Clone, Copy)]
struct Source {
    /// Records that can wait to be sent.
    share: u32,
    unsent: u32,
    lost: u64,
    storm: Storm,
}

impl Source {
    const fn new(share: u32) -> Source {
        Source { share, unsent: 0, lost: 0, storm: Storm { since: 0, denials: 0, more: None } }
    }
}

/// The log.
#[derive(Debug)]
pub struct Log {
    ring: Box<[AuditRecord]>,
    /// Of each VM, and last of the hypervisor.
    sources: Box<[Source]>,
    /// The next sequence number.
    next: u64,
    /// The first that was not sent.
    unsent: u64,
    /// The first that was not read.
    unread: u64,
    /// Hash of the latest record.
    previous: [u8; 32],
}

impl Log {
    /// An empty log for so many VMs as there are shares, which say how the room is divided. Allocates all
    /// that is ever needed.
    #[must_use]
    pub fn new(shares: &[u32]) -> Log {
        let divided = DIVIDED.saturating_mul(wide(shares.len()));
        let sum: u64 = shares.iter().map(|share| u64::from(*share)).sum();
        let part = |share: &u32| divided.saturating_mul((*share).into()).checked_div(sum).unwrap_or(0);
        let records = |share| LEAST.saturating_add(u32::try_from(part(share)).unwrap_or(0));
        let sources: Box<[Source]> = shares.iter().map(records).chain([LEAST]).map(Source::new).collect();
        let room = sources.iter().map(|source| index(source.share.into())).sum();
        Log {
            ring: vec![AuditRecord::default(); room].into_boxed_slice(),
            sources,
            next: 0,
            unsent: 0,
            unread: 0,
            previous: FIRST,
        }
    }

    /// Records an event. Denials that come too fast are only counted; [`Log::settle`] records how many.
    pub fn record(&mut self, now: u64, cpu: CpuId, event: Event) -> Outcome {
        if event.kind != AuditKind::Denied {
            return self.put(now, cpu, event, 1);
        }
        let Some(source) = self.source(event.subject) else {
            return Outcome::Full;
        };
        if now.saturating_sub(source.storm.since) >= STORM_NS || source.storm.denials == 0 {
            self.settle(now, cpu, event.subject);
            return self.begin_storm(now, cpu, event);
        }
        source.storm.denials = source.storm.denials.saturating_add(1);
        if source.storm.denials <= IN_FULL {
            return self.put(now, cpu, event, 1);
        }
        let count = source.storm.more.map_or(0, |(_, count)| count).saturating_add(1);
        source.storm.more = Some((Event { kind: AuditKind::DeniedMore, ..event }, count));
        Outcome::Counted
    }

    fn begin_storm(&mut self, now: u64, cpu: CpuId, event: Event) -> Outcome {
        if let Some(source) = self.source(event.subject) {
            source.storm = Storm { since: now, denials: 1, more: None };
        }
        self.put(now, cpu, event, 1)
    }

    /// Records what was only counted of a subject, and lets its denials be recorded in full again.
    pub fn settle(&mut self, now: u64, cpu: CpuId, subject: Option<VmId>) {
        let more = self.source(subject).and_then(|source| {
            source.storm.denials = 0;
            source.storm.more.take()
        });
        if let Some((event, count)) = more {
            let _counted_as_lost = self.put(now, cpu, event, count);
        }
    }

    /// [`Log::settle`] for every VM whose second is over.
    pub fn settle_due(&mut self, now: u64, cpu: CpuId) {
        for vm in (0..).map(VmId).take(self.sources.len().saturating_sub(1)) {
            let storm = self.source(Some(vm)).map(|source| source.storm);
            if storm.is_some_and(|storm| storm.more.is_some() && now.saturating_sub(storm.since) >= STORM_NS) {
                self.settle(now, cpu, Some(vm));
            }
        }
    }

    /// The oldest record that was not sent.
    #[must_use]
    pub fn unsent(&self) -> Option<&AuditRecord> {
        (self.unsent < self.next).then(|| self.ring.get(self.slot(self.unsent)))?
    }

    /// Takes note that the oldest unsent record is sent: its room is free.
    pub fn sent(&mut self) {
        let subject = self.unsent().map(|record| record.subject);
        if let Some(subject) = subject {
            self.unsent = self.unsent.saturating_add(1);
            if let Some(source) = self.source(Some(VmId(subject)).filter(|vm| vm.0 != NOBODY)) {
                source.unsent = source.unsent.saturating_sub(1);
            }
        }
    }

    /// The record that is to be read `ahead` records from now. Those that were overwritten are passed
    /// over.
    #[must_use]
    pub fn read(&self, ahead: u64) -> Option<&AuditRecord> {
        let at = self.first_unread().saturating_add(ahead);
        (at < self.next).then(|| self.ring.get(self.slot(at)))?
    }

    /// Takes note that so many records were read.
    pub fn consume(&mut self, count: u64) {
        self.unread = self.first_unread().saturating_add(count).min(self.next);
    }

    fn first_unread(&self) -> u64 {
        self.unread.max(self.next.saturating_sub(wide(self.ring.len())))
    }

    /// What is kept of a VM, or of the hypervisor.
    fn source(&mut self, subject: Option<VmId>) -> Option<&mut Source> {
        let (own, vms) = self.sources.split_last_mut()?;
        match subject {
            None => Some(own),
            Some(vm) => vms.get_mut(index(u64::from(vm.0))),
        }
    }

    /// Where a record lies.
    fn slot(&self, sequence: u64) -> usize {
        index(sequence.checked_rem(wide(self.ring.len())).unwrap_or(0))
    }

    /// Adds a record that stands for `count` events, if its subject's share has room.
    fn put(&mut self, now: u64, cpu: CpuId, event: Event, count: u64) -> Outcome {
        let slot = self.slot(self.next);
        let Some(source) = self.source(event.subject) else {
            return Outcome::Full;
        };
        if source.unsent >= source.share {
            #[cfg(feature = "recount")]
            recount::note(&event, 0, count);
            source.lost = source.lost.saturating_add(count);
            return Outcome::Full;
        }
        #[cfg(feature = "recount")]
        recount::note(&event, count, 0);
        source.unsent = source.unsent.saturating_add(1);
        let lost = core::mem::take(&mut source.lost);
        let number = |vm: Option<VmId>| vm.map_or(NOBODY, |vm| vm.0);
        let record = AuditRecord {
            sequence: self.next,
            time_ns: now,
            kind: event.kind.number(),
            operation: event.operation.unwrap_or(NO_OPERATION),
            cpu: cpu.0,
            subject: number(event.subject),
            generation: event.generation,
            object: number(event.object),
            status: event.status,
            operands: event.operands,
            count,
            lost,
            reserved: [0; 3],
            previous: self.previous,
        };
        self.previous = Sha256::digest(record.as_bytes()).into();
        if let Some(place) = self.ring.get_mut(slot) {
            *place = record;
        }
        self.next = self.next.saturating_add(1);
        Outcome::Recorded(self.next.saturating_sub(1))
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests compute with small numbers of their own")]
mod tests;
