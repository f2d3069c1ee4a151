//! Fixed time partitions: a major frame of slots that repeats for ever, on all CPUs together.
//!
//! VMs that share a slot form a partition, which has a [`super::Scheduler`] of its own: what other
//! partitions do is not in its state, so it cannot show in its choices. Slots begin at fixed instants,
//! counted from the start of the machine. Guests stop a while before the end of a slot: in the rest of
//! it the hypervisor ends what it does for them and prepares the next slot, however much that is.

use alloc::boxed::Box;
use alloc::vec::Vec;

use protocol::VmId;
use protocol::policy::Schedule;

use crate::addr::convert::{index, wide};

/// Nanoseconds at the end of a slot without guests: the longest call of a guest, the switch itself, and
/// a burst on the serial line.
const SWITCH_NS: u64 = 200_000;
/// What is added for each VM of the slot, whose output is taken then.
const PER_VM_NS: u64 = 200_000;

/// One slot at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many slots were before it since the machine started.
    pub number: u64,
    /// Whose it is: an index of [`Plan::partitions`].
    pub partition: usize,
    /// When guests start, and when they stop, in nanoseconds of the machine.
    pub begin: u64,
    /// See `begin`. The rest of the slot is the hypervisor's.
    pub end: u64,
}

/// A slot of the frame; times are counted from the frame's beginning.
#[derive(Debug, Clone, Copy)]
struct Slot {
    partition: usize,
    begin: u64,
    end: u64,
}

/// The major frame.
#[derive(Debug)]
pub struct Plan {
    slots: Box<[Slot]>,
    frame: u64,
    /// The VMs of each partition.
    partitions: Box<[Box<[VmId]>]>,
}

/// Nanoseconds at the end of a slot of so many VMs in which none of them runs.
#[must_use]
pub fn switch_time(vms: usize) -> u64 {
    SWITCH_NS.saturating_add(PER_VM_NS.saturating_mul(wide(vms)))
}

impl Plan {
    /// The plan of a schedule. Slots with the same VMs belong to one partition.
    #[must_use]
    pub fn new(schedule: &Schedule) -> Plan {
        let mut partitions: Vec<Box<[VmId]>> = Vec::new();
        let mut frame = 0_u64;
        let slots = schedule.slots.iter().map(|slot| {
            let partition = partitions.iter().position(|vms| **vms == *slot.vms).unwrap_or_else(|| {
                partitions.push(slot.vms.as_slice().into());
                partitions.len().saturating_sub(1)
            });
            let begin = frame;
            frame = frame.saturating_add(slot.duration_ns);
            Slot { partition, begin, end: frame.saturating_sub(switch_time(slot.vms.len())).max(begin) }
        });
        let slots = slots.collect();
        Plan { slots, frame, partitions: partitions.into_boxed_slice() }
    }

    /// The length of the frame in nanoseconds.
    #[must_use]
    pub const fn frame(&self) -> u64 {
        self.frame
    }

    /// How many slots it has.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The VMs of each partition.
    #[must_use]
    pub const fn partitions(&self) -> &[Box<[VmId]>] {
        &self.partitions
    }

    /// The partition of a VM; the first for a VM that has none, which no checked policy leaves.
    #[must_use]
    pub fn partition_of(&self, vm: VmId) -> usize {
        self.partitions.iter().position(|vms| vms.contains(&vm)).unwrap_or(0)
    }

    /// The number of the slot in which an instant lies.
    #[must_use]
    pub fn at(&self, now: u64) -> u64 {
        let frames = now.checked_div(self.frame).unwrap_or(0);
        let within = now.saturating_sub(frames.saturating_mul(self.frame));
        let begun = self.slots.iter().take_while(|slot| slot.begin <= within).count();
        frames.saturating_mul(wide(self.slots.len())).saturating_add(wide(begun)).saturating_sub(1)
    }

    /// A slot by its number.
    #[must_use]
    pub fn window(&self, number: u64) -> Window {
        let count = wide(self.slots.len());
        let frames = number.checked_div(count).unwrap_or(0);
        let within = number.saturating_sub(frames.saturating_mul(count));
        let start = frames.saturating_mul(self.frame);
        let slot = self.slots.get(index(within)).copied().unwrap_or(Slot { partition: 0, begin: 0, end: 0 });
        Window {
            number,
            partition: slot.partition,
            begin: start.saturating_add(slot.begin),
            end: start.saturating_add(slot.end),
        }
    }

    /// The slot that follows a slot, seen from an instant. A machine that stood still for so long that
    /// this slot is over goes on with the first one that is not.
    #[must_use]
    pub fn after(&self, number: u64, now: u64) -> Window {
        let next = self.window(number.saturating_add(1).max(self.at(now)));
        if now < next.end { next } else { self.window(next.number.saturating_add(1)) }
    }
}
